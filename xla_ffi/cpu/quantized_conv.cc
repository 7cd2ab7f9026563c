// The indexed convolution of bytes: chunks, tables and tiles as in indexed_conv.cc, whole-number
// sums, and bytes or float32 out.
//
// One group multiplies bytes in place, found by address, where there are no products for it. A
// depthwise convolution has a row for each weight, which no dot product of bytes serves: it sums up
// in float32, which is exact.

#include "cpu/quantized_conv.h"

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <vector>

#include "cpu/indexed_conv.h"
#include "cpu/kernels.h"

namespace segblocks::cpu {
namespace {

constexpr int64_t kMinPixels = 96;
constexpr int64_t kMaxPixels = 384;

// Convolutions of one group, or depthwise ones.
template <bool kDepthwise>
class Quantized {
 public:
  using Sum = std::conditional_t<kDepthwise, float, int32_t>;

  Quantized(Workers& workers, const TileKernels& kernels, const QuantizedConvCall& call)
      : workers_(workers),
        kernels_(kernels),
        call_(call),
        chunks_(call, max_pixels(workers, call)),
        addresses_(call.input),
        affine_(call),
        row_(kDepthwise ? call.input.channels : call.groups() * kByteGroup),
        copied_(row_ != call.input.channels),
        num_groups_(count_groups(call)),
        apart_(num_groups_ >= kGroupsApart && !kDepthwise) {
    if constexpr (kDepthwise) {
      weights_.assign(call.weights, call.weights + call.window.area() * call.features);
    }
  }

  void run() {
    const int64_t items = chunks_.count() * (apart_ ? num_groups_ : 1);
    const int64_t lanes = std::min(std::max<int64_t>(workers_.num_threads(), 1), items);
    if (items == 0) return;
    std::vector<Workspace> workspaces(lanes);
    for (Workspace& workspace : workspaces) reserve(&workspace);
    parallel_items(workers_, items, lanes, [&](int64_t item, int64_t lane) {
      Workspace& workspace = workspaces[lane];
      const Chunk chunk = chunks_[apart_ ? item % chunks_.count() : item];
      prepare(chunk, &workspace);
      if (apart_) return run_group(chunk, group(item / chunks_.count()), workspace);
      for (int64_t g = 0; g < num_groups_; ++g) run_group(chunk, group(g), workspace);
    });
  }

 private:
  // What a thread works in.
  struct Workspace {
    std::vector<TableRow> table;
    std::vector<TableEntry> entries;
    std::vector<int64_t> offsets;
    std::vector<uint8_t> copies;
    std::vector<Sum> sums;
  };

  static int64_t max_pixels(Workers& workers, const QuantizedConvCall& call) {
    const int64_t outputs = call.units.counts[0] * call.outputs(call.units.high).area() +
                            call.units.counts[1] * call.outputs(call.units.low).area();
    const int64_t groups = kDepthwise ? 1 : count_groups(call);
    const int64_t items = workers.num_threads() * kItemsPerThread;
    const int64_t fair = ceil_div(outputs * (groups >= kGroupsApart ? groups : 1), items);
    return std::clamp(fair, kMinPixels, kMaxPixels);
  }

  // As for float32, a last panel of a depthwise convolution that isn't full is a group of its own.
  static int64_t count_groups(const QuantizedConvCall& call) {
    if (!kDepthwise) return ceil_div(call.panels(), kMaxPanels);
    return ceil_div(call.features / kPanel, kMaxPanels) + (call.features % kPanel != 0 ? 1 : 0);
  }

  Group group(int64_t g) const {
    const int64_t panels = kDepthwise ? call_.features / kPanel : call_.panels();
    if (g == ceil_div(panels, kMaxPanels)) return {panels, 1};
    return equal_group(panels, g);
  }

  bool is_rest(const Group& group) const {
    return kDepthwise && group.first == call_.features / kPanel;
  }

  void reserve(Workspace* workspace) const {
    const int64_t table = chunks_.max_size([&](const Chunk& chunk) {
      return chunk.units * rows_of(chunk, call_.window).size() *
             columns_of(chunk, call_.window).size();
    });
    const int64_t pixels = chunks_.max_size([](const Chunk& chunk) { return chunk.pixels(); });
    workspace->table.resize(table);
    workspace->entries.resize(pixels + kPanel);
    workspace->offsets.resize(call_.window.area());
    if (copied_) workspace->copies.resize(table * row_);
    workspace->sums.resize(kPanel * kMaxPanels * kPanel);
  }

  // The table of a chunk, where each pixel begins in it, and where each tap lies from there.
  void prepare(const Chunk& chunk, Workspace* workspace) const {
    const Window& window = call_.window;
    const Axis rows = rows_of(chunk, window);
    const Axis columns = columns_of(chunk, window);
    const int64_t height = rows.size();
    const int64_t width = columns.size();
    TableRow* row = workspace->table.data();
    uint8_t* copies = workspace->copies.data();
    TableEntry* entry = workspace->entries.data();
    for (int64_t u = 0; u < chunk.units; ++u) {
      const TableEntry first = row;
      for (int64_t i = 0; i < height; ++i) {
        const int32_t* indices = chunk.patch_row(window, u, rows.source(i));
        for (int64_t j = 0; j < width; ++j) {
          const void* bytes = addresses_(indices[columns.source(j)]);
          *row++ = copied_ ? copy(bytes, &copies) : bytes;
        }
      }
      for (int64_t y = 0; y < chunk.height; ++y) {
        const TableEntry begin = first + rows.pixel(y) * width;
        for (int64_t x = 0; x < chunk.width; ++x) *entry++ = begin + columns.pixel(x);
      }
    }
    // A tile may run over the end of the list: it then sums up the last pixel again.
    for (int64_t k = 0; k < kPanel; ++k, ++entry) *entry = entry[-1];
    for (int64_t t = 0; t < window.area(); ++t) {
      workspace->offsets[t] = rows.tap(t / window.width) * width + columns.tap(t % window.width);
    }
  }

  // Filled up to whole groups of channels, whose weights are 0.
  TableRow copy(const void* bytes, uint8_t** copies) const {
    uint8_t* to = *copies;
    *copies += row_;
    std::memcpy(to, bytes, call_.input.channels);
    return to;
  }

  void run_group(const Chunk& chunk, const Group& group, Workspace& workspace) const {
    const int64_t pixels = chunk.pixels();
    for (int64_t pixel = 0; pixel < pixels;) {
      const int64_t wanted = sum_up(group, workspace, pixel, pixels - pixel);
      ByteOutputs outputs =
          affine_.outputs(call_, chunk.first_output() + pixel, group, workspace.sums.data());
      outputs.pixels = std::min(wanted, pixels - pixel);
      (kDepthwise ? kernels_.bytes->write_depthwise : kernels_.bytes->write)(outputs);
      pixel += wanted;
    }
  }

  // Sums of the next pixels of a chunk, of which `left` are left; returns how many.
  int64_t sum_up(const Group& group, Workspace& workspace, int64_t pixel, int64_t left) const {
    const TableEntry* entries = workspace.entries.data() + pixel;
    const auto& sizes = [&]() -> const auto& {
      if constexpr (kDepthwise)
        return kernels_.depthwise_uint8.tiles[group.count - 1];
      else
        return kernels_.bytes->conv[group.count - 1];
    }();
    int size = 0;
    while (size + 1 < kTileSizes && sizes[size + 1].pixels >= left) ++size;
    if constexpr (kDepthwise) {
      Tile tile{};
      tile.entries = entries;
      tile.offsets = workspace.offsets.data();
      tile.taps = call_.window.area();
      tile.depth = call_.input.channels;
      tile.weights = weights_.data();
      tile.channel = group.first * kPanel;
      tile.start = true;
      tile.sums = workspace.sums.data();
      tile.pitch = group.count * kPanel;
      if (is_rest(group)) {
        const int64_t live = std::min<int64_t>(sizes[size].pixels, left);
        kernels_.depthwise_uint8.rest(tile, live, call_.features % kPanel);
      } else if (const auto row =
                     row_kernel(kernels_.depthwise_uint8, call_.window, entries, left)) {
        row(tile, static_cast<int>(group.count));
        return kRowPixels;
      } else {
        sizes[size].accumulate(tile);
      }
    } else {
      ByteTile tile{};
      tile.entries = entries;
      tile.offsets = workspace.offsets.data();
      tile.taps = call_.window.area();
      tile.groups = call_.groups();
      tile.panel_stride = tile.taps * tile.groups * kPanel * kByteGroup;
      tile.weights = call_.weights + group.first * tile.panel_stride;
      tile.sums = workspace.sums.data();
      tile.pitch = group.count * kPanel;
      sizes[size].accumulate(tile);
    }
    return sizes[size].pixels;
  }

  Workers& workers_;
  const TileKernels& kernels_;
  const QuantizedConvCall& call_;
  const Chunks chunks_;
  const RowAddresses addresses_;
  const ByteAffine affine_;
  const int64_t row_;  // Of a row in the table, in elements.
  const bool copied_;  // The table points to copies of rows.
  const int64_t num_groups_;
  const bool apart_;            // Threads share out groups of panels, too.
  std::vector<float> weights_;  // Depthwise.
};

}  // namespace

Problem run(Workers& workers, const TileKernels& kernels, const QuantizedConvCall& call) {
  if (Problem p = check_indices(workers, call.input, call.units); p.found()) return p;
  fill_halos(workers, kernels, call.input);
  if (call.empty()) return {};
  if (call.depthwise) {
    Quantized<true>(workers, kernels, call).run();
  } else if (kernels.bytes->products != nullptr) {
    byte_conv(workers, kernels, call);
  } else {
    Quantized<false>(workers, kernels, call).run();
  }
  return {};
}

}  // namespace segblocks::cpu
