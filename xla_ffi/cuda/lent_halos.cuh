// Halos that an operation lends: means of 2 x 2 of the rows that it writes, for the operation that
// reads these.

#ifndef SEGBLOCKS_CUDA_LENT_HALOS_CUH_
#define SEGBLOCKS_CUDA_LENT_HALOS_CUH_

#include <cstdint>

#include "cuda/vectors.cuh"
#include "cuda/window_tables.h"
#include "segblocks/calls.h"

namespace segblocks::cuda {

// Of each high unit the means of a ring of its map of means, `side` x `side`.
template <typename T>
struct LentRing {
  int32_t side;
  int32_t edge;
  bool second;  // Of the second output.
  T* halos;     // null: nothing is lent.

  SEGBLOCKS_HD bool any() const { return halos != nullptr; }
  // The number of cell (y, x) of a unit among the halos; -1: it is none.
  SEGBLOCKS_HD int32_t number(int32_t unit, int32_t y, int32_t x) const {
    const bool inner = y >= edge && y < side - edge && x >= edge && x < side - edge;
    return inner ? -1 : unit * ring_size(side, edge) + ring_position(side, edge, y, x);
  }
};

template <typename T>
LentRing<T> lent_ring(const LentHalos& lent) {
  return {static_cast<int32_t>(lent.side), static_cast<int32_t>(lent.edge), lent.second,
          static_cast<T*>(lent.halos)};
}

// A cell of 2 x 2 outputs of a high unit, counted over all of them.
struct OutputCell {
  int32_t unit;
  int32_t y;
  int32_t x;
  int32_t row;  // That of its first output.

  __device__ OutputCell(const WindowTables::Size& units, int32_t cell) {
    int32_t before;  // Rows of the unit, in its cells before this one.
    int32_t column;
    unit = units.map_area.divide(4 * cell, &before);
    y = units.map_width.divide(before / 2, &column);
    x = column / 2;
    row = 4 * cell - column;
  }
};

// Finished rows, whose halos are still to be lent.
template <typename T>
struct LentRows {
  WindowTables tables;
  LentRing<T> ring;
  int32_t features;
  const T* rows;
};

template <typename T, int kWidth>
__device__ void lend(const LentRows<T>& call, int32_t number, int32_t channel) {
  const OutputCell cell(call.tables.high, number);
  const int32_t halo = call.ring.number(cell.unit, cell.y, cell.x);
  if (halo < 0) return;
  const int64_t line = int64_t{call.tables.high.map_width.value()} * call.features;
  const T* first = call.rows + int64_t{cell.row} * call.features + channel;
  VectorSum<T, kWidth> sum;
#pragma unroll
  for (int k = 0; k < 4; ++k) sum.add(first + k / 2 * line + k % 2 * call.features, 1.0f);
  sum.write(0.25f, call.ring.halos + int64_t{halo} * call.features + channel);
}

}  // namespace segblocks::cuda

#endif  // SEGBLOCKS_CUDA_LENT_HALOS_CUH_
