// What a block of threads does for index tables: entries of a unit, and the rows of its halos.

#ifndef SEGBLOCKS_CUDA_INDEX_TABLES_CUH_
#define SEGBLOCKS_CUDA_INDEX_TABLES_CUH_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/divisor.h"
#include "segblocks/calls.h"

namespace segblocks::cuda {

// A call, and what all threads need of it in 32 bits.
struct IndexTables {
  IndexTablesCall call;
  int32_t cells;
  int32_t num_high;
  int32_t grid_height;
  int32_t padding;
  int32_t low_side;
  int32_t high_area;  // Pixels of a block.
  int32_t low_area;
  int32_t high_pixels;  // Of all high blocks.
  int32_t pixels;
  int32_t ring;
  Divisor cells_down;
  Divisor cells_across;
  Divisor high_patch;  // Sides of patches.
  Divisor low_patch;
  Divisor factor;
  Divisor both_paddings;
  Divisor high_groups;  // Of kGroup entries in a row of a block.
  Divisor low_groups;
};
constexpr int kGroup = 4;

inline IndexTables index_tables(const IndexTablesCall& call) {
  const IndexTableLayout& layout = call.layout;
  const BlockLayout& blocks = layout.blocks;
  const auto small = [](int64_t value) { return static_cast<int32_t>(value); };
  return {call,
          small(blocks.cells()),
          small(blocks.num_high),
          small(blocks.grid_height),
          small(layout.padding),
          small(blocks.low_block()),
          small(blocks.area(true)),
          small(blocks.area(false)),
          small(blocks.num_high * blocks.area(true)),
          small(blocks.num_pixels()),
          small(layout.ring()),
          Divisor(blocks.grid_height),
          Divisor(blocks.grid_width),
          Divisor(layout.patch_side(true)),
          Divisor(layout.patch_side(false)),
          Divisor(blocks.factor),
          Divisor(2 * layout.padding),
          Divisor((blocks.block + kGroup - 1) / kGroup),
          Divisor((blocks.low_block() + kGroup - 1) / kGroup)};
}

// Whether patches reach no farther than the cells around their own.
inline bool reaches_one_cell(const IndexTableLayout& layout) { return layout.halo_reach() == 1; }

// One of the 3 x 3 cells around a unit, and its own.
struct alignas(8) Neighbor {
  int32_t
      first;  // The index at the cell's first pixel, or that of its first halo; -1: there is none.
  bool same;  // The cell has the unit's resolution.
  bool borrows;  // It may read halos of the unit, if that is high.
};
constexpr int kNeighbors = 9;

// A unit of the tables, where patches reach one cell.
class TableUnit {
 public:
  __device__ TableUnit(const IndexTables& tables, bool high, int32_t unit)
      : tables_(tables), high_(high) {
    side_ = high ? static_cast<int32_t>(tables.call.layout.blocks.block) : tables.low_side;
    const int32_t index = (high ? tables.call.high_cells : tables.call.low_cells)[unit];
    if (index < 0 || index >= tables.cells) return;
    const int32_t slot = tables.call.slots[index];
    some_ = slot >= 0 && slot < tables.cells;
    image_ = tables.cells_down.divide(tables.cells_across.divide(index, &cell_x_), &cell_y_);
    const Border border = tables.call.layout.border;
    const bool own = border == Border::kBlock;
    const bool edge = border == Border::kImage;
    const int32_t end = side_ - 1;
    first_y_ = own || (edge && cell_y_ == 0) ? 0 : -tables.padding;
    first_x_ = own || (edge && cell_x_ == 0) ? 0 : -tables.padding;
    const bool bottom = edge && cell_y_ == tables.grid_height - 1;
    const bool right = edge && cell_x_ == tables.cells_across.value() - 1;
    last_y_ = own || bottom ? end : end + tables.padding;
    last_x_ = own || right ? end : end + tables.padding;
  }

  // Zones are the cells row by row.
  __device__ Neighbor neighbor(int zone) const {
    const IndexTables& t = tables_;
    const int32_t y = cell_y_ + zone / 3 - 1;
    const int32_t x = cell_x_ + zone % 3 - 1;
    const int32_t across = t.cells_across.value();
    if (!some_ || y < 0 || x < 0 || y >= t.grid_height || x >= across) return {-1, false, false};
    const int32_t slot = t.call.slots[(image_ * t.grid_height + y) * across + x];
    if (slot < 0 || slot >= t.cells) return {-1, false, slot >= 0};
    const bool is_high = slot < t.num_high;
    int32_t first = is_high ? slot * t.high_area : t.high_pixels + (slot - t.num_high) * t.low_area;
    if (is_high && !high_) first = t.pixels + slot * t.ring;
    return {first, is_high == high_, !is_high};
  }

  // An entry of the patch, given all neighbors, row by row.
  __device__ int32_t find(const Neighbor* neighbors, int32_t entry) const {
    int32_t x;
    int32_t y = patch().divide(entry, &x) - tables_.padding;
    x -= tables_.padding;
    y = y < first_y_ ? first_y_ : y > last_y_ ? last_y_ : y;
    x = x < first_x_ ? first_x_ : x > last_x_ ? last_x_ : x;
    const int32_t zone_y = (y >= 0 ? 1 : 0) + (y >= side_ ? 1 : 0);
    const int32_t zone_x = (x >= 0 ? 1 : 0) + (x >= side_ ? 1 : 0);
    y -= (zone_y - 1) * side_;
    x -= (zone_x - 1) * side_;
    const Neighbor neighbor = neighbors[zone_y * 3 + zone_x];
    if (neighbor.first < 0) return -1;
    if (neighbor.same) return neighbor.first + y * side_ + x;
    if (!high_) return neighbor.first + tables_.call.layout.ring_position(y, x);
    return neighbor.first + tables_.factor.divide(y) * tables_.low_side + tables_.factor.divide(x);
  }

  // The entries that lie outside of the unit's own cell, and the f-th of them.
  __device__ int32_t frame() const { return patch().value() * patch().value() - side_ * side_; }
  __device__ int32_t in_frame(int32_t f) const {
    const int32_t above = tables_.padding * patch().value();
    if (f < above) return f;
    const int32_t beside = f - above;
    if (beside >= side_ * 2 * tables_.padding) return f + side_ * side_;
    int32_t column;
    const int32_t row = tables_.both_paddings.divide(beside, &column);
    return above + row * patch().value() + (column < tables_.padding ? column : column + side_);
  }

  // Groups of entries of the own cell, whose pixels follow each other; writes one of them.
  __device__ int32_t num_groups() const { return groups().value() * side_; }
  __device__ void write_group(int32_t first, int32_t group, int32_t* table) const {
    int32_t x;
    const int32_t y = groups().divide(group, &x);
    x *= kGroup;
    int32_t* to = table + (y + tables_.padding) * patch().value() + tables_.padding + x;
    first += y * side_ + x;
#pragma unroll
    for (int i = 0; i < kGroup; ++i) {
      if (x + i < side_) to[i] = first + i;
    }
  }

 private:
  __device__ const Divisor& patch() const { return high_ ? tables_.high_patch : tables_.low_patch; }
  __device__ const Divisor& groups() const {
    return high_ ? tables_.high_groups : tables_.low_groups;
  }

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
