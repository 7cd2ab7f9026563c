// What a thread does for x2 upsampling: some channels of four output rows.

#ifndef SEGBLOCKS_CUDA_UPSAMPLE2_CUH_
#define SEGBLOCKS_CUDA_UPSAMPLE2_CUH_

#include <cstdint>

#include "cuda/epilogue.cuh"
#include "cuda/rows.cuh"
#include "cuda/window_tables.h"

namespace segblocks::cuda {

template <typename T>
struct Upsample2 {
  WindowTables tables;
  RowList<T> input;
  Epilogue<T> epilogue;
};

template <typename T>
Upsample2<T> upsample2(const Upsample2Call& call) {
  // With a second affine map only its result is wanted.
  T* out = static_cast<T*>(call.out);
  const bool second = call.scale2 != nullptr;
  return {window_tables(call), row_list<T>(call.input),
          Epilogue<T>{static_cast<int32_t>(call.input.channels), Activation::kNone, nullptr,
                      nullptr, static_cast<const T*>(call.residual), call.scale2, call.bias2,
                      second ? nullptr : out, second ? out : nullptr}};
}

// The four output rows that inner pixel `pixel` (counted over all live units) is upsampled to.
template <typename T, int kWidth>
__device__ void upsample(const Upsample2<T>& call, const LiveRows& live, int32_t pixel,
                         int32_t channel) {
  const WindowOrigin origin = call.tables.origin(live, pixel);
  // Rows of the 3 x 3 neighborhood, upsampled along x, go into the sums along y.
  float sums[2][2][kWidth] = {};
#pragma unroll
  for (int y = 0; y < 3; ++y) {
    float left[kWidth];
    float center[kWidth];
    float right[kWidth];
    load_row(call.input, call.tables.index_at(origin, y, 0), channel, left);
    load_row(call.input, call.tables.index_at(origin, y, 1), channel, center);
    load_row(call.input, call.tables.index_at(origin, y, 2), channel, right);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      const float before = 0.25f * left[k] + 0.75f * center[k];
      const float behind = 0.75f * center[k] + 0.25f * right[k];
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
  const int32_t first = first_upsampled(call.tables, live, pixel);
  const int32_t width = 2 * (pixel < live.high ? call.tables.high : call.tables.low).map_width;
  const Finish<T, kWidth> finish(call.epilogue, channel);
  finish.write(first, sums[0][0]);
  finish.write(first + 1, sums[0][1]);
  finish.write(first + width, sums[1][0]);
  finish.write(first + width + 1, sums[1][1]);
}

}  // namespace segblocks::cuda

#endif  // SEGBLOCKS_CUDA_UPSAMPLE2_CUH_
