// What a thread does for x2 upsampling: some channels of what two inner pixels become.

#ifndef SEGBLOCKS_CUDA_UPSAMPLE2_CUH_
#define SEGBLOCKS_CUDA_UPSAMPLE2_CUH_

#include <cstdint>

#include "cuda/divisor.h"
#include "cuda/epilogue.cuh"
#include "cuda/rows.cuh"
#include "cuda/window_tables.h"

namespace segblocks::cuda {

// Units of one size. A pair is two inner pixels below each other, the last one of an odd column
// alone.
struct UpsampledUnits {
  int32_t capacity;
  int32_t patch_area;
  int32_t patch_width;
  int32_t height;  // Of the inner pixels.
  int32_t width;
  int32_t pairs;
  Divisor pairs_divisor;
  Divisor width_divisor;
  const int32_t* indices;
};

inline UpsampledUnits upsampled_units(const UnitPatches& patches, const UnitOutputs& map) {
  const auto height = static_cast<int32_t>(map.height / 2);
  const auto width = static_cast<int32_t>(map.width / 2);
  const int32_t pairs = (height + 1) / 2 * width;
  return {static_cast<int32_t>(patches.capacity),
          static_cast<int32_t>(patches.area()),
          static_cast<int32_t>(patches.width),
          height,
          width,
          pairs,
          Divisor(pairs),
          Divisor(width),
          patches.indices};
}

template <typename T>
struct Upsample2 {
  UpsampledUnits high;
  UpsampledUnits low;
  const int32_t* counts;
  RowList<T> input;
  Epilogue<T> epilogue;

  SEGBLOCKS_HD int32_t live_high() const { return live_units(counts[0], high); }
  SEGBLOCKS_HD int32_t live_low() const { return live_units(counts[1], low); }

 private:
  SEGBLOCKS_HD static int32_t live_units(int32_t count, const UpsampledUnits& units) {
    return count < 0 ? 0 : min_int32(count, units.capacity);
  }
};

template <typename T>
Upsample2<T> upsample2(const Upsample2Call& call) {
  // With a second affine map only its result is wanted.
  T* out = static_cast<T*>(call.out);
  const bool second = call.scale2 != nullptr;
  return {upsampled_units(call.units.high, call.outputs(call.units.high)),
          upsampled_units(call.units.low, call.outputs(call.units.low)), call.units.counts,
          row_list<T>(call.input),
          Epilogue<T>{static_cast<int32_t>(call.input.channels), Activation::kNone, nullptr,
                      nullptr, static_cast<const T*>(call.residual), call.scale2, call.bias2,
                      second ? nullptr : out, second ? out : nullptr}};
}

// Three neighbors, upsampled along x, in quarters: 3 / 4 of the nearer one, 1 / 4 of the other.
template <typename T, int kWidth>
__device__ inline void widen(const RowList<T>& input, const int32_t* indices, int32_t channel,
                             float (&pair)[2][kWidth]) {
  float left[kWidth];
  float center[kWidth];
  float right[kWidth];
  to_floats<T>(load_row<T, kWidth>(input, indices[0], channel), left);
  to_floats<T>(load_row<T, kWidth>(input, indices[1], channel), center);
  to_floats<T>(load_row<T, kWidth>(input, indices[2], channel), right);
#pragma unroll
  for (int k = 0; k < kWidth; ++k) {
    pair[0][k] = 3.0f * center[k] + left[k];
    pair[1][k] = 3.0f * center[k] + right[k];
  }
}

// What pair `item` (counted over all live units) is upsampled to, kWidth channels.
template <typename T, int kWidth>
__device__ void upsample(const Upsample2<T>& call, int32_t live_high, int32_t item,
                         int32_t channel) {
  const bool in_high = item < live_high * call.high.pairs;
  const UpsampledUnits& units = in_high ? call.high : call.low;
  int32_t rest;
  int32_t x;
  const int32_t unit =
      units.pairs_divisor.divide(in_high ? item : item - live_high * call.high.pairs, &rest);
  const int32_t y = 2 * units.width_divisor.divide(rest, &x);
  const int32_t* indices = units.indices + unit * units.patch_area + y * units.patch_width + x;
  const int32_t before = in_high ? 0 : 4 * live_high * call.high.height * call.high.width;
  const int32_t width = 2 * units.width;
  int32_t first = before + (unit * 2 * units.height + 2 * y) * width + 2 * x;

  const Finish<T, kWidth> finish(call.epilogue, channel, 1.0f / 16);
  const auto put = [&](int32_t row, const float (&near)[kWidth], const float (&far)[kWidth]) {
    float sums[kWidth];
#pragma unroll
    for (int k = 0; k < kWidth; ++k) sums[k] = 3.0f * near[k] + far[k];
    finish.write(row, sums);
  };
  float above[2][kWidth];
  float here[2][kWidth];
  float below[2][kWidth];
  widen(call.input, indices, channel, above);
  widen(call.input, indices + units.patch_width, channel, here);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (y + i >= units.height) break;
    widen(call.input, indices + (2 + i) * units.patch_width, channel, below);
    put(first, here[0], above[0]);
    put(first + 1, here[1], above[1]);
    put(first + width, here[0], below[0]);
    put(first + width + 1, here[1], below[1]);
    first += 2 * width;
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      for (int side = 0; side < 2; ++side) {
        above[side][k] = here[side][k];
        here[side][k] = below[side][k];
      }
    }
  }
}

}  // namespace segblocks::cuda

#endif  // SEGBLOCKS_CUDA_UPSAMPLE2_CUH_
