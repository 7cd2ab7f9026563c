// The indexed convolution: an implicit matrix product whose left rows are found by address.
//
// A chunk is a box of output pixels. The rows that it reads become a table of addresses; tiles of a
// few pixels, which cross rows and units of the box freely, then run over taps and depth. Where
// rows are short, or bfloat16 and not depthwise, the table points into a small copy of them, and
// a kernel row of taps is one contiguous run.

#include "cpu/indexed_conv.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <limits>
#include <memory>
#include <vector>

#include "cpu/half.h"
#include "cpu/kernels.h"

namespace segblocks::cpu {
namespace {

// Below, the copy of rows pays: a tap would be a handful of products.
constexpr int64_t kShortRow = 16;
// Of a chunk, where there is enough work.
constexpr int64_t kMinPixels = 96;
constexpr int64_t kMaxPixels = 384;
// What one pass over a chunk reads of the weights, so that they stay in a core's own cache.
constexpr int64_t kPassBytes = 640 * 1024;

constexpr int64_t kLine = 64;  // Bytes of a cache line.
// So many pixels further on are asked for what they read, and for where they write.
constexpr int64_t kReadAhead = 16;
constexpr int64_t kWriteAhead = 8;

// What a thread works in.
struct Workspace {
  int64_t chunk = -1;  // Whose table is there.
  std::vector<TableRow> table;
  std::vector<TableEntry> entries;
  std::vector<int64_t> offsets;
  std::vector<float> copies;
  std::vector<float> sums;
};

class Convolution {
 public:
  Convolution(Workers& workers, const TileKernels& kernels, const IndexedConvCall& call)
      : workers_(workers),
        kernels_(kernels),
        call_(call),
        chunks_(call, max_pixels(workers, call)),
        addresses_(call.input),
        affine_(call),
        copied_(call.input.channels < kShortRow ||
                (call.input.element != Element::kFloat32 && !call.depthwise)),
        merged_(copied_ && !call.depthwise && call.window.dilation == 1),
        taps_(merged_ ? call.window.height : call.window.area()),
        depth_(merged_ ? call.window.width * call.input.channels : call.input.channels),
        num_groups_(count_groups(call)),
        parts_(count_parts(workers)),
        depthwise_(copied_ || call.input.element == Element::kFloat32
                       ? kernels.depthwise_float32
                       : kernels.depthwise_bfloat16) {
    convert_weights();
    const int64_t pass_bytes = depth_ * kMaxPanels * kPanel * static_cast<int64_t>(sizeof(float));
    const int64_t pass_taps = std::max<int64_t>(kPassBytes / std::max<int64_t>(pass_bytes, 1), 1);
    passes_ = call.depthwise ? 1 : ceil_div(taps_, pass_taps);
  }

  void run() {
    const int64_t items = chunks_.count() * parts_;
    const int64_t lanes = std::min(std::max<int64_t>(workers_.num_threads(), 1), items);
    if (items == 0) return;
    std::vector<Workspace> workspaces(lanes);
    for (Workspace& workspace : workspaces) reserve(&workspace);
    parallel_items(workers_, items, lanes, [&](int64_t item, int64_t lane) {
      Workspace& workspace = workspaces[lane];
      // Copies are made once for the parts; else it's better to read the weights of a part once.
      const bool keeps = parts_ > 1 && copied_;
      const int64_t index = keeps ? item / parts_ : item % chunks_.count();
      const int64_t part = keeps ? item % parts_ : item / chunks_.count();
      const int64_t first = part * num_groups_ / parts_;
      const int64_t end = (part + 1) * num_groups_ / parts_;
      const Chunk chunk = chunks_[index];
      if (!keeps || workspace.chunk != index) prepare(chunk, first, end, &workspace);
      workspace.chunk = index;
      for (int64_t g = first; g < end; ++g) run_group(chunk, group(g), g == first, workspace);
    });
  }

 private:
  static int64_t max_pixels(Workers& workers, const IndexedConvCall& call) {
    const int64_t outputs = call.units.counts[0] * call.outputs(call.units.high).area() +
                            call.units.counts[1] * call.outputs(call.units.low).area();
    const int64_t groups = call.depthwise ? 1 : count_groups(call);
    const int64_t items = workers.num_threads() * kItemsPerThread;
    const int64_t fair = ceil_div(outputs * (groups >= kGroupsApart ? groups : 1), items);
    return std::clamp(fair, kMinPixels, kMaxPixels);
  }

  // Of many groups each is a part, so that a thread reads weights that no other one does. Those of
  // a depthwise convolution are parts where there are few chunks, for all threads to have work.
  int64_t count_parts(Workers& workers) const {
    if (!call_.depthwise) return num_groups_ >= kGroupsApart ? num_groups_ : 1;
    const int64_t items = workers.num_threads() * kItemsPerThread;
    const int64_t parts = ceil_div(items, std::max<int64_t>(chunks_.count(), 1));
    return std::clamp<int64_t>(parts, 1, std::max<int64_t>(num_groups_, 1));
  }

  void convert_weights() {
    weights_ = static_cast<const float*>(call_.weights);
    if (call_.input.element == Element::kFloat32) return;
    const int64_t rows = call_.depthwise ? 1 : call_.panels();
    const int64_t count = call_.depthwise ? call_.window.area() * call_.features
                                          : call_.window.area() * call_.input.channels * kPanel;
    converted_ = std::make_unique_for_overwrite<float[]>(rows * count);
    const auto* weights = static_cast<const uint16_t*>(call_.weights);
    const int64_t bytes = rows * count * static_cast<int64_t>(sizeof(float));
    parallel_for(workers_, rows, bytes, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        float* to = converted_.get() + row * count;
        if (call_.pairs) {
          unpack_pairs(row, to);
        } else {
          kernels_.bfloat16.to_float(weights + row * count, count, to);
        }
      }
    });
    weights_ = converted_.get();
  }

  // A panel of weights in pairs, as they would be plain.
  void unpack_pairs(int64_t panel, float* to) const {
    const PairLayout layout = call_.pair_layout();
    const auto* pairs =
        static_cast<const BFloat16*>(call_.weights) + panel * layout.rows() * 2 * kPanel;
    for (int64_t t = 0; t < layout.taps; ++t) {
      for (int64_t d = 0; d < layout.depth; ++d, to += kPanel) {
        const BFloat16* from = pairs + d / 2 * 2 * kPanel + d % 2;
        for (int k = 0; k < kPanel; ++k) to[k] = to_float(from[2 * k]);
      }
      pairs += layout.steps() * PairLayout::kStep * kPanel;
    }
  }

  // The rows of a depthwise convolution end with their last channel, and no vector may read past
  // it: there, a last panel that isn't full makes a group of its own.
  Group group(int64_t g) const {
    const int64_t panels = call_.depthwise ? call_.features / kPanel : call_.panels();
    if (g == ceil_div(panels, kMaxPanels)) return {panels, 1};
    return equal_group(panels, g);
  }

  bool is_rest(const Group& group) const {
    return call_.depthwise && group.first == call_.features / kPanel;
  }

  static int64_t count_groups(const IndexedConvCall& call) {
    if (!call.depthwise) return ceil_div(call.panels(), kMaxPanels);
    return ceil_div(call.features / kPanel, kMaxPanels) + (call.features % kPanel != 0 ? 1 : 0);
  }

  void reserve(Workspace* workspace) const {
    const int64_t table = chunks_.max_size([&](const Chunk& chunk) {
      return chunk.units * rows_of(chunk, call_.window).size() *
             columns_of(chunk, call_.window).size();
    });
    const int64_t pixels = chunks_.max_size([](const Chunk& chunk) { return chunk.pixels(); });
    workspace->table.resize(table);
    workspace->entries.resize(pixels + kPanel);
    workspace->offsets.resize(taps_);
    if (copied_) workspace->copies.resize(table * call_.input.channels);
    workspace->sums.resize((passes_ == 1 ? kPanel : pixels + kPanel) * kMaxPanels * kPanel);
  }

  // Copies the rows that consecutive positions of a patch read.
  void copy_rows(const int32_t* indices, int64_t count, float* copies) const {
    const int64_t channels = call_.input.channels;
    const RowLoops& loops = row_loops(kernels_, call_.input.element);
    const bool is_float = call_.input.element == Element::kFloat32;
    if (channels == 0) return;
    for (int64_t j = 0; j < count;) {
      const int64_t index = indices[j];
      int64_t run = 1;
      if (index >= 0 && index < call_.input.num_rows) {
        const int64_t max_run = std::min(count - j, call_.input.num_rows - index);
        while (run < max_run && indices[j + run] == index + run) ++run;
      }
      const void* rows = addresses_(index);
      if (is_float) {
        std::memcpy(copies + j * channels, rows, run * channels * sizeof(float));
      } else {
        loops.to_float(rows, run * channels, copies + j * channels);
      }
      j += run;
    }
  }

  // The table of a chunk, where each pixel begins in it, and where each tap lies from there; for
  // groups first_group .. end_group-1.
  void prepare(const Chunk& chunk, int64_t first_group, int64_t end_group,
               Workspace* workspace) const {
    const Window& window = call_.window;
    const int64_t first_channel = group(first_group).first * kPanel;
    const int64_t end_channel = end_group == num_groups_ ? depth_ : group(end_group).first * kPanel;
    const Axis rows = rows_of(chunk, window);
    const Axis columns = columns_of(chunk, window);
    const int64_t height = rows.size();
    const int64_t width = columns.size();
    TableRow* row = workspace->table.data();
    float* copies = workspace->copies.data();
    TableEntry* entry = workspace->entries.data();
    for (int64_t u = 0; u < chunk.units; ++u) {
      const TableEntry first = row;
      for (int64_t i = 0; i < height; ++i, row += width) {
        const int32_t* indices = chunk.patch_row(window, u, rows.source(i));
        if (copied_) {
          fill_copied(indices, columns, row, copies);
          copies += width * call_.input.channels;
        } else {
          fill(indices, columns, row);
          if (call_.depthwise && i < window.height && chunk.units == 1) {
            prefetch_rows(row, width, first_channel, end_channel - first_channel);
          }
        }
      }
      for (int64_t y = 0; y < chunk.height; ++y) {
        const TableEntry begin = first + rows.pixel(y) * width;
        for (int64_t x = 0; x < chunk.width; ++x) *entry++ = begin + columns.pixel(x);
      }
    }
    // A tile may run over the end of the list: it then sums up the last pixel again.
    for (int64_t k = 0; k < kPanel; ++k, ++entry) *entry = entry[-1];
    for (int64_t t = 0; t < taps_; ++t) {
      workspace->offsets[t] =
          merged_ ? t * width : rows.tap(t / window.width) * width + columns.tap(t % window.width);
    }
  }

  // A row of the table.
  void fill(const int32_t* indices, const Axis& columns, TableRow* row) const {
    const int64_t runs = columns.dilation == 1 ? 1 : columns.taps;
    const int64_t run = columns.size() / runs;
    const int64_t step = columns.dilation == 1 ? 1 : columns.stride;
    for (int64_t k = 0; k < runs; ++k, row += run, indices += columns.dilation) {
      for (int64_t j = 0; j < run; ++j) {
        row[j] = addresses_(indices[j * step]);
      }
    }
  }

  // The same of copies, which are made first.
  void fill_copied(const int32_t* indices, const Axis& columns, TableRow* row,
                   float* copies) const {
    const int64_t channels = call_.input.channels;
    const int64_t width = columns.size();
    if (columns.dilation == 1) {
      copy_rows(indices, width, copies);
    } else {
      for (int64_t j = 0; j < width; ++j) {
        copy_rows(indices + columns.source(j), 1, copies + j * channels);
      }
    }
    // Where taps are merged, only the first position of a window is looked up.
    const int64_t step = merged_ ? columns.stride : 1;
    for (int64_t j = 0; j < width; j += step) row[j] = copies + j * channels;
  }

  void run_group(const Chunk& chunk, const Group& group, bool is_first,
                 Workspace& workspace) const {
    const SizedTile* sizes =
        call_.depthwise ? depthwise_.tiles[group.count - 1] : kernels_.conv[group.count - 1];
    const int64_t pixels = chunk.pixels();
    for (int64_t pass = 0; pass < passes_; ++pass) {
      const bool last = pass == passes_ - 1;
      const bool first_read = pass == 0 && !copied_ && (call_.depthwise || is_first);
      for (int64_t pixel = 0; pixel < pixels;) {
        const TableEntry* entries = workspace.entries.data() + pixel;
        const auto row = !call_.depthwise || is_rest(group)
                             ? nullptr
                             : row_kernel(depthwise_, call_.window, entries, pixels - pixel);
        int size = 0;
        while (size + 1 < kTileSizes && sizes[size + 1].pixels >= pixels - pixel) ++size;
        const int64_t wanted = row != nullptr ? kRowPixels : sizes[size].pixels;
        const int64_t live = std::min<int64_t>(wanted, pixels - pixel);
        float* sums = workspace.sums.data() + (passes_ == 1 ? 0 : pixel * group.count * kPanel);
        Tile tile = make_tile(group, pass, entries, workspace, sums);
        Outputs outputs = affine_.outputs(call_, chunk.first_output() + pixel, group, sums);
        outputs.pixels = live;
        const bool straight = last && live == wanted && goes_straight(outputs, group);
        if (straight) send_straight(outputs, &tile);
        const auto ahead = [&](int64_t by) {
          return std::clamp<int64_t>(pixels - pixel - by, 0, wanted);
        };
        if (first_read) {
          prefetch_reads(entries + kReadAhead, ahead(kReadAhead), group, workspace);
        }
        if (straight) prefetch_writes(outputs, kWriteAhead, ahead(kWriteAhead));
        if (is_rest(group)) {
          depthwise_.rest(tile, live, call_.features % kPanel);
        } else if (row != nullptr) {
          row(tile, static_cast<int>(group.count));
        } else {
          sizes[size].accumulate(tile);
        }
        if (last && !straight) row_loops(kernels_, call_.input.element).write(outputs);
        pixel += wanted;
      }
    }
  }

  // Asks for what a tile further on is the first to read: the middle of its windows' last rows.
  // (Without the attributes, GCC takes these for functions without effects and drops their calls.)
  __attribute__((always_inline)) void prefetch_reads(const TableEntry* entries, int64_t pixels,
                                                     const Group& group,
                                                     const Workspace& workspace) const {
    const Window& window = call_.window;
    const int64_t first = call_.depthwise ? group.first * kPanel : 0;
    const int64_t depth = call_.depthwise ? group.count * kPanel : depth_;
    const int64_t x = (window.width - 1) / 2;
    const int64_t columns = std::min(window.stride, window.width - x);
    for (int64_t p = 0; p < pixels; ++p) {
      for (int64_t y = std::max<int64_t>(window.height - window.stride, 0); y < window.height;
           ++y) {
        prefetch_rows(entries[p] + workspace.offsets[y * window.width + x], columns, first, depth);
      }
    }
  }

  // The processor sees no pattern in addresses from a table. Rows are asked into the second level;
  // into the first was slower.
  __attribute__((always_inline)) void prefetch_rows(TableEntry rows, int64_t count, int64_t first,
                                                    int64_t depth) const {
    const int64_t bytes = element_bytes(call_.input.element);
    for (int64_t j = 0; j < count; ++j) {
      const auto* row = static_cast<const std::byte*>(rows[j]) + first * bytes;
      for (int64_t k = 0; k < depth * bytes; k += kLine) __builtin_prefetch(row + k, 0, 2);
    }
  }

  // Asks for where a tile further on writes, so that it does not wait for the lines.
  __attribute__((always_inline)) void prefetch_writes(const Outputs& outputs, int64_t ahead,
                                                      int64_t pixels) const {
    const int64_t bytes = element_bytes(call_.input.element);
    const auto* row = static_cast<const std::byte*>(outputs.out) + ahead * outputs.pitch * bytes;
    for (int64_t p = 0; p < pixels; ++p, row += outputs.pitch * bytes) {
      const int64_t end = outputs.channels * bytes;
      for (int64_t k = 0; k < end; k += kLine) __builtin_prefetch(row + k, 1, 3);
    }
  }

  // Whether a tile can write its outputs itself.
  bool goes_straight(const Outputs& outputs, const Group& group) const {
    const bool widened = copied_ && call_.input.element != Element::kFloat32;
    return !widened && outputs.out2 == nullptr && outputs.channels == group.count * kPanel;
  }

  void send_straight(const Outputs& outputs, Tile* tile) const {
    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    tile->out = outputs.out;
    tile->residual = outputs.residual;
    tile->out_pitch = outputs.pitch;
    tile->scale = outputs.scale;
    tile->bias = outputs.bias;
    tile->min = call_.activation == Activation::kNone ? -kInfinity : 0.0f;
    tile->max = call_.activation == Activation::kRelu6 ? 6.0f : kInfinity;
  }

  Tile make_tile(const Group& group, int64_t pass, const TableEntry* entries,
                 const Workspace& workspace, float* sums) const {
    const int64_t first = pass * taps_ / passes_;
    Tile tile{};
    tile.entries = entries;
    tile.offsets = workspace.offsets.data() + first;
    tile.taps = (pass + 1) * taps_ / passes_ - first;
    tile.depth = depth_;
    tile.start = pass == 0;
    tile.sums = sums;
    tile.pitch = group.count * kPanel;
    if (call_.depthwise) {
      tile.weights = weights_;
      tile.channel = group.first * kPanel;
    } else {
      tile.panel_stride = taps_ * depth_ * kPanel;
      tile.weights = weights_ + group.first * tile.panel_stride + first * depth_ * kPanel;
    }
    return tile;
  }

  Workers& workers_;
  const TileKernels& kernels_;
  const IndexedConvCall& call_;
  const Chunks chunks_;
  const RowAddresses addresses_;
  const Affine affine_;
  const bool copied_;  // The table points to copies of rows.
  const bool merged_;  // The taps of a kernel row are one.
  const int64_t taps_;
  const int64_t depth_;
  const int64_t num_groups_;
  const int64_t parts_;  // Threads share out so many parts of the groups, too.
  const DepthwiseLoops& depthwise_;
  int64_t passes_ = 1;
  const float* weights_ = nullptr;
  std::unique_ptr<float[]> converted_;
};

}  // namespace

Problem run(Workers& workers, const TileKernels& kernels, const IndexedConvCall& call) {
  if (Problem p = check_indices(workers, call.input, call.units); p.found()) return p;
  fill_halos(workers, kernels, call.input);
  if (call.winograd) {
    winograd_conv(workers, kernels, call);
  } else if (call.input.element == Element::kBFloat16 && !call.depthwise &&
             kernels.pairs != nullptr) {
    pair_conv(workers, kernels, call);
  } else {
    Convolution(workers, kernels, call).run();
  }
  return {};
}

}  // namespace segblocks::cpu
