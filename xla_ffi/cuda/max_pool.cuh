// What a thread does for max pooling: some channels of an output row.

#ifndef SEGBLOCKS_CUDA_MAX_POOL_CUH_
#define SEGBLOCKS_CUDA_MAX_POOL_CUH_

#include <cmath>
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

// kWidth channels of a live output row. Any NaN makes the maximum NaN. kWindow: the window's side,
// where it is known; else 0.
template <typename T, int kWidth, int kWindow = 0>
__device__ void pool(const MaxPool<T>& call, const LiveRows& live, int32_t row, int32_t channel) {
  int32_t pitch;
  const int32_t* indices = call.tables.window(call.tables.origin(live, row), &pitch);
  float lowest[kWidth];
#pragma unroll
  for (int k = 0; k < kWidth; ++k) lowest[k] = -INFINITY;
  auto best = from_floats<T>(lowest);
  const int32_t window = kWindow > 0 ? kWindow : call.window;
#pragma unroll
  for (int32_t y = 0; y < window; ++y, indices += pitch) {
#pragma unroll
    for (int32_t x = 0; x < window; ++x) {
      const auto row = load_row<T, kWidth>(call.input, indices[x], channel);
#pragma unroll
      for (size_t k = 0; k < sizeof(best.values) / sizeof(best.values[0]); ++k) {
        best.values[k] = larger(best.values[k], row.values[k]);
      }
    }
  }
  store_packed<kWidth>(call.out + static_cast<int64_t>(row) * call.input.channels + channel, best);
}

}  // namespace segblocks::cuda

#endif  // SEGBLOCKS_CUDA_MAX_POOL_CUH_
