// What a thread does for max pooling: some channels of an output row.

#ifndef SEGBLOCKS_CUDA_MAX_POOL_CUH_
#define SEGBLOCKS_CUDA_MAX_POOL_CUH_

#include <cstdint>

#include "cuda/rows.cuh"
#include "cuda/vectors.cuh"
#include "cuda/window_tables.h"

namespace segblocks::cuda {

template <typename T>
struct MaxPool {
  WindowTables tables;
  RowList<T> input;
  int32_t window;
  T* out;
};

// kWidth channels of a live output row. Any NaN makes the maximum NaN.
template <typename T, int kWidth>
__device__ void pool(const MaxPool<T>& call, const LiveRows& live, int32_t row, int32_t channel) {
  const WindowOrigin origin = call.tables.origin(live, row);
  float best[kWidth];
  load_row(call.input, call.tables.index_at(origin, 0, 0), channel, best);
  for (int32_t y = 0; y < call.window; ++y) {
    for (int32_t x = 0; x < call.window; ++x) {
      float values[kWidth];
      load_row(call.input, call.tables.index_at(origin, y, x), channel, values);
#pragma unroll
      for (int k = 0; k < kWidth; ++k) {
        if (values[k] > best[k] || values[k] != values[k]) best[k] = values[k];
      }
    }
  }
  Vector<T, kWidth> result;
#pragma unroll
  for (int k = 0; k < kWidth; ++k) from_float(best[k], &result.values[k]);
  store(call.out + static_cast<int64_t>(row) * call.input.channels + channel, result);
}

}  // namespace segblocks::cuda

#endif  // SEGBLOCKS_CUDA_MAX_POOL_CUH_
