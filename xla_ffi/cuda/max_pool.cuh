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

template <typename T, int kWidth>
__device__ inline void raise(Packed<T, kWidth>& best, const Packed<T, kWidth>& row) {
#pragma unroll
  for (size_t k = 0; k < sizeof(best.values) / sizeof(best.values[0]); ++k) {
    best.values[k] = larger(best.values[k], row.values[k]);
  }
}

// kWidth channels of a live output row. Any NaN makes the maximum NaN. kWindow: the window's side,
// where it is known; else 0.
template <typename T, int kWidth, int kWindow = 0>
__device__ void pool(const MaxPool<T>& call, const LiveRows& live, int32_t row, int32_t channel) {
  int32_t pitch;
  const int32_t* indices = call.tables.window(call.tables.origin(live, row), &pitch);
  T* out = call.out + static_cast<int64_t>(row) * call.input.channels + channel;
  if constexpr (kWindow > 0) {
    int32_t window[kWindow * kWindow];
#pragma unroll
    for (int y = 0; y < kWindow; ++y) {
#pragma unroll
      for (int x = 0; x < kWindow; ++x) window[y * kWindow + x] = indices[y * pitch + x];
    }
    // Halos and zeros are rare.
    if (all_given(window, call.input.num_rows)) {
      const GivenRows<T> rows(call.input, channel);
      auto best = rows.template load<kWidth>(window[0]);
#pragma unroll
      for (int k = 1; k < kWindow * kWindow; ++k) {
        raise<T, kWidth>(best, rows.template load<kWidth>(window[k]));
      }
      store_packed<kWidth>(out, best);
      return;
    }
  }
  const int32_t window = kWindow > 0 ? kWindow : call.window;
  auto best = load_row<T, kWidth>(call.input, indices[0], channel);
#pragma unroll 1
  for (int32_t y = 0; y < window; ++y, indices += pitch) {
#pragma unroll 1
    for (int32_t x = 0; x < window; ++x) {
      raise<T, kWidth>(best, load_row<T, kWidth>(call.input, indices[x], channel));
    }
  }
  store_packed<kWidth>(out, best);
}

}  // namespace segblocks::cuda

#endif  // SEGBLOCKS_CUDA_MAX_POOL_CUH_
