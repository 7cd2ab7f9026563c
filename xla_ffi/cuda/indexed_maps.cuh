// What a thread does in ghost rows, pooling, enlarging, and index tables: one item of each.

#ifndef SEGBLOCKS_CUDA_INDEXED_MAPS_CUH_
#define SEGBLOCKS_CUDA_INDEXED_MAPS_CUH_

#include <cstdint>

#include "cuda/indexed_epilogue.cuh"
#include "cuda/vectors.cuh"
#include "segblocks/indexed_geometry.h"

namespace segblocks::cuda {

template <typename T>
struct GhostRows {
  RowList<T> input;
  const int32_t* means;
  int32_t reads;
  int32_t count;
  T* ghosts;
};

template <typename T>
struct MaxPool {
  WindowTables tables;
  RowList<T> input;
  int32_t window;
  T* out;
};

template <typename T>
struct Upsample2 {
  WindowTables tables;
  RowList<T> input;
  Epilogue<T> epilogue;
};

template <typename T>
Upsample2<T> upsample2(const IndexedUpsample2Call& call) {
  // With a second affine map only its result is wanted.
  T* out = static_cast<T*>(call.out);
  const bool second = call.scale2 != nullptr;
  return {window_tables(call), row_list<T>(call.input),
          Epilogue<T>{static_cast<int32_t>(call.input.channels), Activation::kNone, nullptr,
                      nullptr, static_cast<const T*>(call.residual), call.scale2, call.bias2,
                      second ? nullptr : out, second ? out : nullptr}};
}

// kWidth channels of a ghost.
template <typename T, int kWidth>
__device__ void average(const GhostRows<T>& call, int32_t ghost, int32_t channel) {
  const int32_t* means = call.means + static_cast<int64_t>(ghost) * call.reads;
  if (means[0] < 0) return;
  VectorSum<T, kWidth> sum;
  for (int32_t read = 0; read < call.reads; ++read) {
    const int32_t index = means[read];
    if (index >= 0 && index < call.input.num_rows) sum.add(call.input.row(index) + channel, 1.0f);
  }
  sum.write(1.0f / static_cast<float>(call.reads),
            call.ghosts + static_cast<int64_t>(ghost) * call.input.channels + channel);
}

// kWidth channels of a row; zeros where there is none.
template <typename T, int kWidth>
__device__ inline void load_row(const RowList<T>& input, int32_t index, int32_t channel,
                                float (&values)[kWidth]) {
  if (input.has(index)) {
    const auto vector = load<T, kWidth>(input.row(index) + channel);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) values[k] = to_float(vector.values[k]);
  } else {
#pragma unroll
    for (int k = 0; k < kWidth; ++k) values[k] = 0.0f;
  }
}

// kWidth channels of a live output row. Any NaN makes the maximum NaN.
template <typename T, int kWidth>
__device__ void pool(const MaxPool<T>& call, const LiveRows& live, int32_t row, int32_t channel) {
  const WindowOrigin origin = call.tables.origin(live, row);
  float most[kWidth];
  load_row(call.input, call.tables.index_at(origin, 0, 0), channel, most);
  for (int32_t y = 0; y < call.window; ++y) {
    for (int32_t x = 0; x < call.window; ++x) {
      float values[kWidth];
      load_row(call.input, call.tables.index_at(origin, y, x), channel, values);
#pragma unroll
      for (int k = 0; k < kWidth; ++k) {
        if (values[k] > most[k] || values[k] != values[k]) most[k] = values[k];
      }
    }
  }
  Vector<T, kWidth> result;
#pragma unroll
  for (int k = 0; k < kWidth; ++k) from_float(most[k], &result.values[k]);
  store(call.out + static_cast<int64_t>(row) * call.input.channels + channel, result);
}

// The four output rows that inner pixel `pixel` (counted over all live units) is enlarged to.
template <typename T, int kWidth>
__device__ void enlarge(const Upsample2<T>& call, const LiveRows& live, int32_t pixel,
                        int32_t channel) {
  const WindowOrigin origin = call.tables.origin(live, pixel);
  // Rows of the 3 x 3 neighbourhood, enlarged along x, go into the sums along y.
  float sums[2][2][kWidth] = {};
#pragma unroll
  for (int y = 0; y < 3; ++y) {
    float left[kWidth];
    float centre[kWidth];
    float right[kWidth];
    load_row(call.input, call.tables.index_at(origin, y, 0), channel, left);
    load_row(call.input, call.tables.index_at(origin, y, 1), channel, centre);
    load_row(call.input, call.tables.index_at(origin, y, 2), channel, right);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      const float before = 0.25f * left[k] + 0.75f * centre[k];
      const float behind = 0.75f * centre[k] + 0.25f * right[k];
      if (y < 2) {
        const float weight = y == 0 ? 0.25f : 0.75f;
        sums[0][0][k] += weight * before;
        sums[0][1][k] += weight * behind;
      }
      if (y > 0) {
        const float weight = y == 1 ? 0.75f : 0.25f;
        sums[1][0][k] += weight * before;
        sums[1][1][k] += weight * behind;
      }
    }
  }
  const int32_t first = first_enlarged(call.tables, live, pixel);
  const int32_t width = 2 * (pixel < live.high ? call.tables.high : call.tables.low).map_width;
  const Finish<T, kWidth> finish(call.epilogue, channel);
  finish.write(first, sums[0][0]);
  finish.write(first + 1, sums[0][1]);
  finish.write(first + width, sums[1][0]);
  finish.write(first + width + 1, sums[1][1]);
}

// Entry `entry` of an index table of one resolution.
__device__ inline void find_index(const IndexTablesCall& call, bool high, int64_t entry) {
  const IndexTableLayout& layout = call.layout;
  const int32_t* cells = high ? call.high_cells : call.low_cells;
  int32_t* table = high ? call.high : call.low;
  const int64_t area = layout.patch_area(high);
  const int64_t side = layout.patch_side(high);
  const int64_t cell = cells[entry / area];
  const int64_t position = entry % area;
  const bool some = cell >= 0 && cell < layout.blocks.cells();
  table[entry] = some ? static_cast<int32_t>(layout.index(call.slots, layout.blocks.cell(cell),
                                                          position / side, position % side))
                      : -1;
}

// The rows that ghost `ghost` is the mean of.
__device__ inline void find_means(const IndexTablesCall& call, int64_t ghost) {
  const IndexTableLayout& layout = call.layout;
  const int64_t slot = ghost / layout.ring();
  const int64_t cell = call.high_cells[slot];
  const bool some = cell >= 0 && cell < layout.blocks.cells() &&
                    layout.has_ghosts(call.slots, layout.blocks.cell(cell));
  const int64_t reads = layout.blocks.factor * layout.blocks.factor;
  for (int64_t k = 0; k < reads; ++k) {
    call.means[ghost * reads + k] =
        some ? static_cast<int32_t>(layout.mean_row(slot, ghost % layout.ring(), k)) : -1;
  }
}

}  // namespace segblocks::cuda

#endif  // SEGBLOCKS_CUDA_INDEXED_MAPS_CUH_
