// What a warp does for index tables: entries of a unit, and the rows of its halos.

#ifndef SEGBLOCKS_CUDA_INDEX_TABLES_CUH_
#define SEGBLOCKS_CUDA_INDEX_TABLES_CUH_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/divisor.h"
#include "segblocks/calls.h"

namespace segblocks::cuda {

// The patches of a layer's blocks of one size.
struct TablePatches {
  int32_t units;
  int32_t side;  // Of a block.
  int32_t area;  // Of a patch.
  Divisor sides;
  Divisor patch;  // The side of a patch.
  Divisor warps;  // That share a patch.
  int32_t* table;

  SEGBLOCKS_HD int32_t all_warps() const { return units * warps.value(); }
};

struct LayerTable {
  TablePatches high;
  TablePatches low;
  int32_t first_warp;  // Of the launch.
  int32_t padding;
  int32_t ring;
  int32_t high_pixels;  // Of all high blocks.
  int32_t pixels;
  Border border;
  bool near;  // Patches reach no farther than the cells around their own.
  Divisor both_paddings;
  int32_t* means;
};

struct GridTables {
  const int32_t* slots;
  const int32_t* high_cells;
  const int32_t* low_cells;
  int32_t images;
  int32_t cells;
  int32_t num_high;
  int32_t warps;
  Divisor cells_down;
  Divisor cells_across;
  Divisor factor;
  int32_t count;
  LayerTable layers[LayerTablesCall::kMaxLayers];

  SEGBLOCKS_HD IndexTableLayout layout(const LayerTable& layer) const {
    return {{images, cells_down.value(), cells_across.value(), layer.high.side, factor.value(),
             num_high, 1},
            layer.padding,
            layer.border};
  }
};

inline TablePatches table_patches(const IndexTableLayout& layout, bool high, int32_t* table) {
  constexpr int64_t kEntries = 2048;  // Of a warp: what finding the neighbors costs is shared.
  const BlockLayout& blocks = layout.blocks;
  return {static_cast<int32_t>(high ? blocks.num_high : blocks.num_low()),
          static_cast<int32_t>(blocks.side(high)),
          static_cast<int32_t>(layout.patch_area(high)),
          Divisor(blocks.side(high)),
          Divisor(layout.patch_side(high)),
          Divisor((layout.patch_area(high) + kEntries - 1) / kEntries),
          table};
}

inline GridTables grid_tables(const LayerTablesCall& call) {
  const IndexTablesCall& one = call.layers[0];
  const BlockLayout& grid = one.layout.blocks;
  GridTables tables{one.slots,
                    one.high_cells,
                    one.low_cells,
                    static_cast<int32_t>(grid.images),
                    static_cast<int32_t>(grid.cells()),
                    static_cast<int32_t>(grid.num_high),
                    0,
                    Divisor(grid.grid_height),
                    Divisor(grid.grid_width),
                    Divisor(grid.factor),
                    call.count,
                    {}};
  for (int k = 0; k < call.count; ++k) {
    const IndexTableLayout& layout = call.layers[k].layout;
    LayerTable& layer = tables.layers[k];
    layer = {table_patches(layout, true, call.layers[k].high),
             table_patches(layout, false, call.layers[k].low),
             tables.warps,
             static_cast<int32_t>(layout.padding),
             static_cast<int32_t>(layout.ring()),
             static_cast<int32_t>(layout.blocks.num_high * layout.blocks.area(true)),
             static_cast<int32_t>(layout.blocks.num_pixels()),
             layout.border,
             layout.halo_reach() == 1,
             Divisor(2 * layout.padding),
             call.layers[k].means};
    tables.warps += layer.high.all_warps() + layer.low.all_warps();
  }
  return tables;
}

// One of the 3 x 3 cells around a unit, and its own.
struct alignas(8) Neighbor {
  // The index at the cell's first pixel, or that of its first halo; -1: there is none.
  int32_t first;
  bool same;     // The cell has the unit's resolution.
  bool borrows;  // It may read halos of the unit, if that is high.
};
constexpr int kNeighbors = 9;

// A unit of a layer's tables, where patches reach one cell.
class TableUnit {
 public:
  __device__ TableUnit(const GridTables& grid, const LayerTable& layer, bool high, int32_t unit)
      : grid_(grid), layer_(layer), high_(high) {
    side_ = (high ? layer.high : layer.low).side;
    const int32_t index = (high ? grid.high_cells : grid.low_cells)[unit];
    if (index < 0 || index >= grid.cells) return;
    const int32_t slot = grid.slots[index];
    some_ = slot >= 0 && slot < grid.cells;
    image_ = grid.cells_down.divide(grid.cells_across.divide(index, &cell_x_), &cell_y_);
    const bool own = layer.border == Border::kBlock;
    const bool edge = layer.border == Border::kImage;
    const int32_t end = side_ - 1;
    first_y_ = own || (edge && cell_y_ == 0) ? 0 : -layer.padding;
    first_x_ = own || (edge && cell_x_ == 0) ? 0 : -layer.padding;
    const bool bottom = edge && cell_y_ == grid.cells_down.value() - 1;
    const bool right = edge && cell_x_ == grid.cells_across.value() - 1;
    last_y_ = own || bottom ? end : end + layer.padding;
    last_x_ = own || right ? end : end + layer.padding;
  }

  // Zones are the cells row by row.
  __device__ Neighbor neighbor(int zone) const {
    const int32_t y = cell_y_ + zone / 3 - 1;
    const int32_t x = cell_x_ + zone % 3 - 1;
    const int32_t down = grid_.cells_down.value();
    const int32_t across = grid_.cells_across.value();
    if (!some_ || y < 0 || x < 0 || y >= down || x >= across) return {-1, false, false};
    const int32_t slot = grid_.slots[(image_ * down + y) * across + x];
    if (slot < 0 || slot >= grid_.cells) return {-1, false, slot >= 0};
    const bool is_high = slot < grid_.num_high;
    const int32_t side = layer_.high.side;
    const int32_t low_side = layer_.low.side;
    int32_t first = is_high ? slot * side * side
                            : layer_.high_pixels + (slot - grid_.num_high) * low_side * low_side;
    if (is_high && !high_) first = layer_.pixels + slot * layer_.ring;
    return {first, is_high == high_, !is_high};
  }

  // An entry of the patch, given all neighbors, row by row.
  __device__ int32_t find(const Neighbor* neighbors, int32_t entry) const {
    int32_t x;
    int32_t y = patches().patch.divide(entry, &x) - layer_.padding;
    x -= layer_.padding;
    y = y < first_y_ ? first_y_ : y > last_y_ ? last_y_ : y;
    x = x < first_x_ ? first_x_ : x > last_x_ ? last_x_ : x;
    const int32_t zone_y = (y >= 0 ? 1 : 0) + (y >= side_ ? 1 : 0);
    const int32_t zone_x = (x >= 0 ? 1 : 0) + (x >= side_ ? 1 : 0);
    y -= (zone_y - 1) * side_;
    x -= (zone_x - 1) * side_;
    const Neighbor neighbor = neighbors[zone_y * 3 + zone_x];
    if (neighbor.first < 0) return -1;
    if (neighbor.same) return neighbor.first + y * side_ + x;
    if (!high_) return neighbor.first + ring_position(layer_.low.side, layer_.padding, y, x);
    return neighbor.first + grid_.factor.divide(y) * layer_.low.side + grid_.factor.divide(x);
  }

  // The entries that lie outside of the unit's own cell, and the f-th of them.
  __device__ int32_t frame() const { return patches().area - side_ * side_; }
  __device__ int32_t in_frame(int32_t f) const {
    const int32_t above = layer_.padding * patches().patch.value();
    if (f < above) return f;
    const int32_t beside = f - above;
    if (beside >= side_ * 2 * layer_.padding) return f + side_ * side_;
    int32_t column;
    const int32_t row = layer_.both_paddings.divide(beside, &column);
    return above + row * patches().patch.value() +
           (column < layer_.padding ? column : column + side_);
  }

  // Groups of entries of the own cell, below each other; writes one of them. `first` is the index
  // at the cell's first pixel, or -1.
  static constexpr int kGroup = 4;
  __device__ int32_t num_groups() const { return (side_ + kGroup - 1) / kGroup * side_; }
  __device__ void write_group(int32_t first, int32_t group, int32_t* table) const {
    int32_t x;
    const int32_t y = patches().sides.divide(group, &x) * kGroup;
    const int32_t width = patches().patch.value();
    int32_t* to = table + (y + layer_.padding) * width + layer_.padding + x;
    const int32_t step = first < 0 ? 0 : side_;
    int32_t index = first < 0 ? -1 : first + y * side_ + x;
    if (y + kGroup <= side_) {
#pragma unroll
      for (int i = 0; i < kGroup; ++i, index += step, to += width) *to = index;
    } else {
#pragma unroll 1
      for (int i = y; i < side_; ++i, index += step, to += width) *to = index;
    }
  }

 private:
  __device__ const TablePatches& patches() const { return high_ ? layer_.high : layer_.low; }

  const GridTables& grid_;
  const LayerTable& layer_;
  bool high_;
  bool some_ = false;
  int32_t side_;
  int32_t image_ = 0;
  int32_t cell_y_ = 0;
  int32_t cell_x_ = 0;
  int32_t first_y_ = 0;  // What positions are clamped to.
  int32_t last_y_ = 0;
  int32_t first_x_ = 0;
  int32_t last_x_ = 0;
};

// Entry `entry` of a unit, where patches may reach farther.
__device__ inline int32_t find_far(const GridTables& grid, const LayerTable& layer, bool high,
                                   int32_t unit, int32_t entry) {
  const IndexTableLayout layout = grid.layout(layer);
  const int64_t cell = (high ? grid.high_cells : grid.low_cells)[unit];
  if (cell < 0 || cell >= grid.cells) return -1;
  const int64_t side = layout.patch_side(high);
  return static_cast<int32_t>(
      layout.index(grid.slots, layout.blocks.cell(cell), entry / side, entry % side));
}

// Whether a low block may read a halo of the high block in `slot`, however far it reaches.
__device__ inline bool lends_far(const GridTables& grid, const LayerTable& layer, int32_t slot) {
  const IndexTableLayout layout = grid.layout(layer);
  const int64_t cell = grid.high_cells[slot];
  return cell >= 0 && cell < grid.cells && layout.has_halos(grid.slots, layout.blocks.cell(cell));
}

// Writes the rows that halo g of a high block is the mean of: none where nothing reads it.
__device__ inline void write_means(const GridTables& grid, const LayerTable& layer, int32_t slot,
                                   int32_t g, bool read) {
  const int32_t factor = grid.factor.value();
  const int32_t side = layer.high.side;
  const int32_t low_side = layer.low.side;
  // As IndexTableLayout::ring_cell() has it.
  const int32_t edge = layer.padding;
  const int32_t inner = low_side - 2 * edge;
  const int32_t above = edge * low_side;
  int32_t y;
  int32_t x;
  if (inner <= 0 || g < above) {
    y = layer.low.sides.divide(g, &x);
  } else if (g < above + inner * 2 * edge) {
    y = edge + layer.both_paddings.divide(g - above, &x);
    x = x < edge ? x : x + inner;
  } else {
    y = low_side - edge + layer.low.sides.divide(g - above - inner * 2 * edge, &x);
  }
  int32_t* means = layer.means + (slot * layer.ring + g) * factor * factor;
  int32_t row = slot * side * side + (y * side + x) * factor;
  for (int32_t i = 0; i < factor; ++i, row += side) {
    for (int32_t j = 0; j < factor; ++j) *means++ = read ? row + j : -1;
  }
}

}  // namespace segblocks::cuda

#endif  // SEGBLOCKS_CUDA_INDEX_TABLES_CUH_
