// What a block of threads does for index tables: entries of a unit, and the rows of its halos.

#ifndef SEGBLOCKS_CUDA_INDEX_TABLES_CUH_
#define SEGBLOCKS_CUDA_INDEX_TABLES_CUH_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/divisor.h"
#include "segblocks/calls.h"

namespace segblocks::cuda {

struct IndexTables {
  IndexTablesCall call;
  Divisor high_side;  // Of patches.
  Divisor low_side;
  Divisor factor;
};

inline IndexTables index_tables(const IndexTablesCall& call) {
  const IndexTableLayout& layout = call.layout;
  return {call, Divisor(layout.patch_side(true)), Divisor(layout.patch_side(false)),
          Divisor(layout.blocks.factor)};
}

// Whether patches reach no farther than the cells around their own.
SEGBLOCKS_HD bool reaches_one_cell(const IndexTableLayout& layout) {
  return layout.halo_reach() == 1;
}

// One of the 3 x 3 cells around a unit, and its own.
struct Neighbor {
  int32_t first;  // The index at the cell's first pixel, or that of its first halo; -1: there is none.
  bool same;      // The cell has the unit's resolution.
  bool borrows;   // It may read halos of the unit, if that is high.
};
constexpr int kNeighbors = 9;

// A unit of the tables, where patches reach one cell.
class TableUnit {
 public:
  __device__ TableUnit(const IndexTables& tables, bool high, int32_t unit)
      : tables_(tables), high_(high) {
    const IndexTableLayout& layout = tables.call.layout;
    const BlockLayout& blocks = layout.blocks;
    side_ = static_cast<int32_t>(blocks.side(high));
    const int32_t index = (high ? tables.call.high_cells : tables.call.low_cells)[unit];
    if (index < 0 || index >= blocks.cells()) return;
    some_ = blocks.has_slot(tables.call.slots[index]);
    cell_x_ = index % static_cast<int32_t>(blocks.grid_width);
    cell_y_ = index / static_cast<int32_t>(blocks.grid_width);
    image_ = cell_y_ / static_cast<int32_t>(blocks.grid_height);
    cell_y_ -= image_ * static_cast<int32_t>(blocks.grid_height);
    const bool own = layout.border == Border::kBlock;
    const bool edge = layout.border == Border::kImage;
    const auto padding = static_cast<int32_t>(layout.padding);
    const int32_t end = side_ - 1;
    first_y_ = own || (edge && cell_y_ == 0) ? 0 : -padding;
    first_x_ = own || (edge && cell_x_ == 0) ? 0 : -padding;
    last_y_ = own || (edge && cell_y_ == blocks.grid_height - 1) ? end : end + padding;
    last_x_ = own || (edge && cell_x_ == blocks.grid_width - 1) ? end : end + padding;
  }

  // Zones are the cells row by row.
  __device__ Neighbor neighbor(int zone) const {
    const IndexTableLayout& layout = tables_.call.layout;
    const BlockLayout& blocks = layout.blocks;
    const int32_t y = cell_y_ + zone / 3 - 1;
    const int32_t x = cell_x_ + zone % 3 - 1;
    if (!some_ || y < 0 || x < 0 || y >= blocks.grid_height || x >= blocks.grid_width) {
      return {-1, false, false};
    }
    const int64_t slot = tables_.call.slots[blocks.index({image_, y, x})];
    if (!blocks.has_slot(slot)) return {-1, false, slot >= 0};
    const bool same = blocks.is_high(slot) == high_;
    const int64_t first = high_ || same ? blocks.pixel(slot, 0, 0)
                                        : blocks.num_pixels() + slot * layout.ring();
    return {static_cast<int32_t>(first), same, !blocks.is_high(slot)};
  }

  // An entry of the patch, given all neighbors, row by row.
  __device__ int32_t find(const Neighbor* neighbors, int32_t entry) const {
    const IndexTableLayout& layout = tables_.call.layout;
    const auto padding = static_cast<int32_t>(layout.padding);
    int32_t x;
    int32_t y = (high_ ? tables_.high_side : tables_.low_side).divide(entry, &x) - padding;
    x -= padding;
    y = y < first_y_ ? first_y_ : y > last_y_ ? last_y_ : y;
    x = x < first_x_ ? first_x_ : x > last_x_ ? last_x_ : x;
    int zone = 4;
    if (y < 0) {
      y += side_;
      zone -= 3;
    } else if (y >= side_) {
      y -= side_;
      zone += 3;
    }
    if (x < 0) {
      x += side_;
      zone -= 1;
    } else if (x >= side_) {
      x -= side_;
      zone += 1;
    }
    const Neighbor neighbor = neighbors[zone];
    if (neighbor.first < 0) return -1;
    if (neighbor.same) return neighbor.first + y * side_ + x;
    if (!high_) return neighbor.first + layout.ring_position(y, x);
    const auto pitch = static_cast<int32_t>(layout.blocks.low_block());
    return neighbor.first + tables_.factor.divide(y) * pitch + tables_.factor.divide(x);
  }

 private:
  const IndexTables& tables_;
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
__device__ inline int32_t find_far(const IndexTablesCall& call, bool high, int32_t unit,
                                   int32_t entry) {
  const IndexTableLayout& layout = call.layout;
  const int64_t cell = (high ? call.high_cells : call.low_cells)[unit];
  if (cell < 0 || cell >= layout.blocks.cells()) return -1;
  const int64_t side = layout.patch_side(high);
  return static_cast<int32_t>(
      layout.index(call.slots, layout.blocks.cell(cell), entry / side, entry % side));
}

// Whether a low block may read a halo of the high block in `slot`, however far it reaches.
__device__ inline bool lends_far(const IndexTablesCall& call, int32_t slot) {
  const IndexTableLayout& layout = call.layout;
  const int64_t cell = call.high_cells[slot];
  return cell >= 0 && cell < layout.blocks.cells() &&
         layout.has_halos(call.slots, layout.blocks.cell(cell));
}

// Writes the rows that halo g of a high block is the mean of: none where nothing reads it.
__device__ inline void write_means(const IndexTablesCall& call, int32_t slot, int32_t g,
                                   bool read) {
  const IndexTableLayout& layout = call.layout;
  const auto factor = static_cast<int32_t>(layout.blocks.factor);
  const auto side = static_cast<int32_t>(layout.blocks.block);
  int32_t y;
  int32_t x;
  layout.ring_cell(g, &y, &x);
  int32_t* means = call.means + (slot * layout.ring() + g) * factor * factor;
  auto row = static_cast<int32_t>(layout.blocks.pixel(slot, 0, 0)) + (y * side + x) * factor;
  for (int32_t i = 0; i < factor; ++i, row += side) {
    for (int32_t j = 0; j < factor; ++j) *means++ = read ? row + j : -1;
  }
}

}  // namespace segblocks::cuda

#endif  // SEGBLOCKS_CUDA_INDEX_TABLES_CUH_
