// A convolution on products (cpu/products.h).
//
// What a chunk reads is copied by index into a thread's scratch, each pixel's channels filled up
// with zeros to whole steps. Blocks of a few tiles then run over taps and steps, panel by panel,
// and the outputs of each are written while the next one runs.

#ifndef SEGBLOCKS_CPU_PRODUCT_CONV_H_
#define SEGBLOCKS_CPU_PRODUCT_CONV_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "cpu/copy_plan.h"
#include "cpu/indexed_conv.h"
#include "cpu/products.h"
#include "cpu/products_pending.h"
#include "cpu/row_copier.h"

namespace segblocks::cpu {
namespace {

// Of a chunk; as many as can be where there are many weights to read for each.
constexpr int64_t kMinPixels = 96;
constexpr int64_t kMaxPixels = 384;
// Chunks are to be high as well as wide: what lies around them is copied, too.
constexpr int64_t kMaxWidth = 2 * kTilePixels;
// Weights that stay in a core's own cache while a chunk's blocks pass over them.
constexpr int64_t kPassBytes = 640 * 1024;

// Memory that begins at a line of the cache.
class Scratch {
 public:
  void resize(size_t size, bool zeros) {
    size_t room = size + kStepBytes;
    bytes_ = std::make_unique_for_overwrite<char[]>(room);
    if (zeros) std::memset(bytes_.get(), 0, room);
    void* begin = bytes_.get();
    begin_ = static_cast<char*>(std::align(kStepBytes, size, begin, room));
  }
  char* get() const { return begin_; }

 private:
  std::unique_ptr<char[]> bytes_;
  char* begin_ = nullptr;
};

// Tiles that run at a time.
struct TileBlock {
  CopyPlan::Tile tiles[kStackTiles];
  int count;
  bool stacked;
};

// What a thread works in.
struct Workspace {
  int64_t chunk = -1;  // Whose copies are there.
  Scratch copies;
  Scratch sums[2];  // Of the block that runs, and of the one before.
  std::vector<int64_t> offsets;
  std::vector<CopyPlan::Tile> tiles;
  std::vector<TileBlock> blocks;  // Of the tiles.
  const char* pixels = nullptr;   // The copies, or the rows themselves.
  int64_t pixel_bytes = 0;        // From pixel to pixel of a tile.
};

// What taps read: all of a window, or, merged, all of each of its rows.
struct ProductLayout {
  int64_t taps;
  int64_t depth;  // Bytes that a tap reads.
  bool merged;

  int64_t steps() const { return ceil_div(depth, kStepBytes); }
  int64_t panel_bytes() const { return taps * steps() * kStepWeightBytes; }
};

// Call is IndexedConvCall or QuantizedConvCall. Epilogue makes outputs for products to write: T
// outputs(call, row, group, sums) of all channels of a group in the row `row`.
template <typename Call, typename T, typename Epilogue>
class ProductConvolution {
 public:
  // The weights are (panels, panel_bytes), see cpu/products.h.
  ProductConvolution(Workers& workers, const Products<T>& products, void (*write)(const T&),
                     const Call& call, const ProductLayout& layout, const void* weights)
      : workers_(workers),
        products_(products),
        write_(write),
        call_(call),
        layout_(layout),
        copy_bytes_(layout_.steps() * kStepBytes),
        panel_bytes_(layout_.panel_bytes()),
        chunks_(call, max_pixels(), kMaxWidth, kStackTiles),
        addresses_(call.input),
        epilogue_(call),
        num_groups_(count_groups()),
        weights_(static_cast<const char*>(weights)) {}

  void run() {
    const int64_t items = chunks_.count() * num_groups_;
    const int64_t lanes = std::min(std::max<int64_t>(workers_.num_threads(), 1), items);
    if (items == 0) return;
    std::vector<Workspace> workspaces(lanes);
    reserve(&workspaces);
    const int64_t blocks = ceil_div(call_.panels(), kBlockPanels);
    parallel_items(workers_, items, lanes, [&](int64_t item, int64_t lane) {
      Workspace& workspace = workspaces[lane];
      const int64_t index = item / num_groups_;
      const int64_t g = item % num_groups_;
      if (workspace.chunk != index) prepare(chunks_[index], &workspace);
      workspace.chunk = index;
      const int64_t first = g * blocks / num_groups_ * kBlockPanels;
      const int64_t last = (g + 1) * blocks / num_groups_ * kBlockPanels;
      products_.begin();
      run_panels(first, std::min(last, call_.panels()), workspace);
      products_.end();
    });
  }

 private:
  bool has_many_weights() const { return call_.panels() * panel_bytes_ > kPassBytes; }

  int64_t max_pixels() const {
    if (has_many_weights()) return kMaxPixels;
    const int64_t outputs = call_.units.counts[0] * call_.outputs(call_.units.high).area() +
                            call_.units.counts[1] * call_.outputs(call_.units.low).area();
    const int64_t items = std::max<int64_t>(workers_.num_threads(), 1) * kItemsPerThread;
    return std::clamp(ceil_div(outputs, items), kMinPixels, kMaxPixels);
  }

  // Threads share out the panels, too, where there are few chunks for each.
  int64_t count_groups() const {
    if (!has_many_weights() || chunks_.count() == 0) return 1;
    const int64_t wanted = ceil_div(workers_.num_threads() * kItemsPerThread, chunks_.count());
    return std::clamp<int64_t>(wanted, 1, ceil_div(call_.panels(), kBlockPanels));
  }

  void reserve(std::vector<Workspace>* workspaces) const {
    int64_t copies = 0;
    int64_t tiles = 0;
    for (int64_t index = 0; index < chunks_.count(); ++index) {
      const Chunk chunk = chunks_[index];
      const CopyPlan plan(chunk, call_.window, layout_.merged);
      // The last tile reads beyond its live pixels.
      copies = std::max(copies, plan.num_copies() + kTilePixels * plan.pixel_step());
      tiles = std::max(tiles, plan.num_tiles());
    }
    for (Workspace& workspace : *workspaces) {
      workspace.copies.resize(copies * copy_bytes_, layout_.depth % kStepBytes != 0);
      for (Scratch& sums : workspace.sums) {
        sums.resize(kStackTiles * kTilePixels * kBlockPanels * kPanel * sizeof(float), false);
      }
      workspace.offsets.resize(layout_.taps);
      workspace.tiles.reserve(tiles);
      workspace.blocks.reserve(tiles);
    }
  }

  // Copies what a chunk reads, and finds its tiles and taps.
  void prepare(const Chunk& chunk, Workspace* workspace) const {
    const CopyPlan plan(chunk, call_.window, layout_.merged);
    workspace->tiles.clear();
    plan.for_each_tile([&](const CopyPlan::Tile& tile) { workspace->tiles.push_back(tile); });
    find_blocks(chunk, plan, workspace);
    workspace->pixel_bytes = plan.pixel_step() * copy_bytes_;
    for (int64_t t = 0; t < layout_.taps; ++t) {
      const int64_t width = layout_.merged ? 1 : call_.window.width;
      workspace->offsets[t] = plan.tap(t / width, t % width) * copy_bytes_;
    }
    workspace->pixels = rows_themselves(chunk, workspace->tiles.back());
    if (workspace->pixels != nullptr) return;
    char* copies = workspace->copies.get();
    workspace->pixels = copies;
    const RowCopier copier(products_.copy, call_, addresses_, layout_.merged);
    plan.for_each_line([&](const CopyPlan::Line& line) {
      const int32_t* indices = chunk.patch_row(call_.window, line.unit, line.row) + line.column;
      copier.copy(indices, line.count, line.step, copies + line.position * copy_bytes_);
    });
  }

  // Makes blocks of a chunk's tiles: stacks where there are enough below each other.
  void find_blocks(const Chunk& chunk, const CopyPlan& plan, Workspace* workspace) const {
    const std::vector<CopyPlan::Tile>& tiles = workspace->tiles;
    const auto count = static_cast<int64_t>(tiles.size());
    const bool fits = call_.window.height == kStackTaps && !layout_.merged;
    const int64_t below = fits ? plan.tiles_to_below() : 0;
    const int64_t unit_tiles = below > 0 ? below * chunk.height : count;
    const int64_t in_stacks = below > 0 ? chunk.height / kStackTiles * kStackTiles * below : 0;
    workspace->blocks.clear();
    const auto add = [&](int64_t first, int64_t number, int64_t step) {
      TileBlock block{{}, static_cast<int>(number), number == kStackTiles};
      for (int64_t k = 0; k < number; ++k) block.tiles[k] = tiles[first + k * step];
      workspace->blocks.push_back(block);
    };
    for (int64_t unit = 0; unit < count; unit += unit_tiles) {
      for (int64_t k = 0; k < in_stacks / kStackTiles; ++k) {
        add(unit + k / below * kStackTiles * below + k % below, kStackTiles, below);
      }
      for (int64_t k = in_stacks; k < unit_tiles; k += kBlockTiles) {
        add(unit + k, std::min<int64_t>(unit_tiles - k, kBlockTiles), 1);
      }
    }
  }

  // Where a pointwise convolution's chunk is a run of rows and their channels are whole steps, the
  // first of them; else null. The last tile may read rows behind the run.
  const char* rows_themselves(const Chunk& chunk, const CopyPlan::Tile& last) const {
    const Window& window = call_.window;
    if (window.area() != 1 || window.stride != 1 || !chunk.has_whole_rows()) return nullptr;
    if (layout_.depth % kStepBytes != 0) return nullptr;
    const int32_t* indices = chunk.patch_row(window, 0, 0);
    const int64_t first = indices[0];
    if (first < 0 || first + last.position + kTilePixels > call_.input.num_rows) return nullptr;
    bool follow = true;
    for (int64_t k = 0; k < chunk.pixels(); ++k) follow &= indices[k] == first + k;
    return follow ? static_cast<const char*>(addresses_(first)) : nullptr;
  }

  // Runs panels first .. last-1 of the chunk that is prepared.
  void run_panels(int64_t first, int64_t last, const Workspace& workspace) const {
    const int64_t block_bytes = std::max<int64_t>(kBlockPanels * panel_bytes_, 1);
    const int64_t pass = std::max<int64_t>(kPassBytes / block_bytes, 1) * kBlockPanels;
    Pending<T> pending{};
    pending.write = write_;
    std::vector<T> outputs;  // Of the first row, by group.
    for (int64_t panel = first; panel < last; panel += kBlockPanels) {
      outputs.push_back(epilogue_.outputs(call_, 0, {panel, group_of(panel, last).count}, nullptr));
    }
    int turn = 0;
    for (int64_t begin = first; begin < last; begin += pass) {
      const int64_t end = std::min(begin + pass, last);
      for (const TileBlock& block : workspace.blocks) {
        for (int64_t panel = begin; panel < end; panel += kBlockPanels) {
          run_block(block, group_of(panel, last), workspace, workspace.sums[turn].get(), &pending);
          set_pending(block, outputs[(panel - first) / kBlockPanels], workspace.sums[turn].get(),
                      &pending);
          turn = 1 - turn;
        }
      }
    }
    write_all(&pending);
  }

  Group group_of(int64_t panel, int64_t last) const {
    return {panel, std::min<int64_t>(last - panel, kBlockPanels)};
  }

  // Runs a block, and writes the pending rows.
  void run_block(const TileBlock& tiles, const Group& group, const Workspace& workspace, char* sums,
                 Pending<T>* pending) const {
    ProductBlock<T> block;
    for (int t = 0; t < tiles.count; ++t) {
      block.pixels[t] = workspace.pixels + tiles.tiles[t].position * copy_bytes_;
    }
    block.tiles = tiles.count;
    block.down = tiles.stacked ? block.pixels[1] - block.pixels[0] : 0;
    block.panels = static_cast<int>(group.count);
    block.pixel_bytes = workspace.pixel_bytes;
    block.offsets = workspace.offsets.data();
    block.taps = layout_.taps;
    block.steps = layout_.steps();
    block.weights = weights_ + group.first * panel_bytes_;
    block.panel_bytes = panel_bytes_;
    block.sums = reinterpret_cast<float*>(sums);
    block.pending = pending;
    products_.block(block);
  }

  // Makes a block's rows the pending ones; `first` says where those of row 0 go.
  void set_pending(const TileBlock& tiles, const T& first, const char* sums,
                   Pending<T>* pending) const {
    pending->tiles = tiles.count;
    pending->done = 0;
    for (int t = 0; t < tiles.count; ++t) {
      pending->outputs[t] = rows_of(first, tiles.tiles[t].output, tiles.tiles[t].live);
      pending->outputs[t].sums =
          reinterpret_cast<const float*>(sums) + t * kTilePixels * first.sums_pitch;
    }
  }

  Workers& workers_;
  const Products<T>& products_;
  void (*const write_)(const T&);
  const Call& call_;
  const ProductLayout layout_;
  const int64_t copy_bytes_;  // Of a copy.
  const int64_t panel_bytes_;
  const Chunks chunks_;
  const RowAddresses addresses_;
  const Epilogue epilogue_;
  const int64_t num_groups_;
  const char* weights_;
};

}  // namespace
}  // namespace segblocks::cpu

#endif  // SEGBLOCKS_CPU_PRODUCT_CONV_H_
