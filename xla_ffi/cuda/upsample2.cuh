// What a thread does for x2 upsampling: some channels of what two inner pixels become.

#ifndef SEGBLOCKS_CUDA_UPSAMPLE2_CUH_
#define SEGBLOCKS_CUDA_UPSAMPLE2_CUH_

#include <cmath>
#include <cstdint>

#include "cuda/divisor.h"
#include "cuda/lent_halos.cuh"
#include "cuda/rows.cuh"
#include "cuda/vectors.cuh"
#include "cuda/window_tables.h"
#include "segblocks/calls.h"

namespace segblocks::cuda {

// Units of one size. A strip is inner pixels below each other, those of a thread; the last one of a
// column may be shorter.
struct UpsampledUnits {
  int32_t capacity;
  int32_t patch_area;
  int32_t patch_width;
  int32_t height;  // Of the inner pixels.
  int32_t width;
  int32_t strip;
  int32_t strips;
  Divisor strips_divisor;
  Divisor width_divisor;
  const int32_t* indices;
};

inline UpsampledUnits upsampled_units(const UnitPatches& patches, const UnitOutputs& map) {
  const auto height = static_cast<int32_t>(map.height / 2);
  const auto width = static_cast<int32_t>(map.width / 2);
  const int32_t strip = height < 16 ? 4 : 8;  // Long ones where many threads remain.
  const int32_t strips = (height + strip - 1) / strip * width;
  return {static_cast<int32_t>(patches.capacity),
          static_cast<int32_t>(patches.area()),
          static_cast<int32_t>(patches.width),
          height,
          width,
          strip,
          strips,
          Divisor(strips),
          Divisor(width),
          patches.indices};
}

template <typename T>
struct Upsample2 {
  UpsampledUnits high;
  UpsampledUnits low;
  const int32_t* counts;
  RowList<T> input;
  const T* residual;  // As scale2 and bias2 null where there is none.
  const float* scale2;
  const float* bias2;
  T* out;
  LentRing<T> lent;

  SEGBLOCKS_HD int32_t live_high() const { return live_units(counts[0], high); }
  SEGBLOCKS_HD int32_t live_low() const { return live_units(counts[1], low); }
  SEGBLOCKS_HD int32_t live_strips() const {
    return live_high() * high.strips + live_low() * low.strips;
  }

 private:
  SEGBLOCKS_HD static int32_t live_units(int32_t count, const UpsampledUnits& units) {
    return count < 0 ? 0 : min_int32(count, units.capacity);
  }
};

template <typename T>
Upsample2<T> upsample2(const Upsample2Call& call) {
  return {upsampled_units(call.units.high, call.outputs(call.units.high)),
          upsampled_units(call.units.low, call.outputs(call.units.low)),
          call.units.counts,
          row_list<T>(call.input),
          static_cast<const T*>(call.residual),
          call.scale2,
          call.bias2,
          static_cast<T*>(call.out),
          lent_ring<T>(call.lent)};
}

// Three neighbors, upsampled along x, in quarters: 3 / 4 of the nearer one, 1 / 4 of the other.
template <typename T, int kWidth>
__device__ inline void widen(const RowList<T>& input, const GivenRows<T>& given,
                             const int32_t* indices, int32_t channel, float (&pair)[2][kWidth]) {
  const int32_t around[3] = {indices[0], indices[1], indices[2]};
  Packed<T, kWidth> rows[3];
  if (all_given(around, input.num_rows)) {
#pragma unroll
    for (int k = 0; k < 3; ++k) rows[k] = given.template load<kWidth>(around[k]);
  } else {
#pragma unroll
    for (int k = 0; k < 3; ++k) rows[k] = load_row<T, kWidth>(input, around[k], channel);
  }
  float left[kWidth];
  float center[kWidth];
  float right[kWidth];
  to_floats<T>(rows[0], left);
  to_floats<T>(rows[1], center);
  to_floats<T>(rows[2], right);
#pragma unroll
  for (int k = 0; k < kWidth; ++k) {
    pair[0][k] = 3.0f * center[k] + left[k];
    pair[1][k] = 3.0f * center[k] + right[k];
  }
}

// What follows the sums, in sixteenths, of kWidth channels: residual and second affine map.
template <typename T, int kWidth>
struct Upsampled {
  bool add;
  bool map;
  float scale[kWidth];
  float bias[kWidth];

  __device__ Upsampled(const Upsample2<T>& call, int32_t channel)
      : add(call.residual != nullptr), map(call.scale2 != nullptr) {
    if (!map) return;
    load_vector(call.scale2 + channel, scale);
    load_vector(call.bias2 + channel, bias);
  }

  // Returns what it has written.
  __device__ Packed<T, kWidth> write(const float (&near)[kWidth], const float (&far)[kWidth],
                                     const T* residual, T* out) const {
    float values[kWidth];
#pragma unroll
    for (int k = 0; k < kWidth; ++k) values[k] = std::fma(3.0f, near[k], far[k]);
    if (add) {
      float added[kWidth];
      load_floats_of(residual, added);
#pragma unroll
      for (int k = 0; k < kWidth; ++k) values[k] = std::fma(values[k], 1.0f / 16, added[k]);
    } else {
#pragma unroll
      for (int k = 0; k < kWidth; ++k) values[k] *= 1.0f / 16;
    }
    if (!map) {
      const auto packed = from_floats<T>(values);
      store_packed<kWidth>(out, packed);
      return packed;
    }
#pragma unroll
    for (int k = 0; k < kWidth; ++k) values[k] = std::fma(values[k], scale[k], bias[k]);
    // Rounding keeps signs, so that it may come first.
    auto packed = from_floats<T>(values);
    const Packed<T, kWidth> zeros{};
#pragma unroll
    for (size_t k = 0; k < sizeof(packed.values) / sizeof(packed.values[0]); ++k) {
      packed.values[k] = larger(zeros.values[k], packed.values[k]);
    }
    store_packed<kWidth>(out, packed);
    return packed;
  }
};

// What strip `item` (counted over all live units) is upsampled to, kWidth channels.
template <typename T, int kWidth>
__device__ void upsample(const Upsample2<T>& call, int32_t live_high, int32_t item,
                         int32_t channel) {
  const bool in_high = item < live_high * call.high.strips;
  const UpsampledUnits units = in_high ? call.high : call.low;
  int32_t rest;
  int32_t x;
  const int32_t unit =
      units.strips_divisor.divide(in_high ? item : item - live_high * call.high.strips, &rest);
  const int32_t y = units.strip * units.width_divisor.divide(rest, &x);
  const int32_t* indices = units.indices + unit * units.patch_area + y * units.patch_width + x;
  const int32_t before = in_high ? 0 : 4 * live_high * call.high.height * call.high.width;
  const int32_t row = before + (unit * units.height + y) * 4 * units.width + 2 * x;
  const int32_t channels = call.input.channels;
  const int64_t first = int64_t{row} * channels + channel;
  const int64_t next_row = int64_t{2 * units.width} * channels;

  const RowList<T> input = call.input;
  const GivenRows<T> given(input, channel);
  const Upsampled<T, kWidth> result(call, channel);
  T* out = call.out + first;
  const T* residual = result.add ? call.residual + first : out;
  const bool lends = in_high && call.lent.any();
  int32_t inner_y = y;
  // One inner pixel, between its neighbors; `below` is found.
  const auto step = [&](const float (&above)[2][kWidth], const float (&here)[2][kWidth],
                        float (&below)[2][kWidth]) {
    indices += units.patch_width;
    widen(input, given, indices, channel, below);
    Packed<T, kWidth> cell[4];
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      const auto& far = side == 0 ? above : below;
      cell[2 * side] = result.write(here[0], far[0], residual, out);
      cell[2 * side + 1] = result.write(here[1], far[1], residual + channels, out + channels);
      residual += next_row;
      out += next_row;
    }
    // The inner pixel is a cell of the map of means.
    const int32_t halo = lends ? call.lent.number(unit, inner_y++, x) : -1;
    if (halo < 0) return;
    VectorSum<T, kWidth> mean;
#pragma unroll
    for (int k = 0; k < 4; ++k) mean.add(cell[k], 1.0f);
    mean.write(0.25f, call.lent.halos + int64_t{halo} * channels + channel);
  };
  float a[2][kWidth];
  float b[2][kWidth];
  float c[2][kWidth];
  widen(input, given, indices, channel, a);
  indices += units.patch_width;
  widen(input, given, indices, channel, b);
  // The three rows take turns, so that none is copied.
  int32_t left = min_int32(units.strip, units.height - y);
#pragma unroll 1
  for (;;) {
    step(a, b, c);
    if (--left == 0) break;
    step(b, c, a);
    if (--left == 0) break;
    step(c, a, b);
    if (--left == 0) break;
  }
}

}  // namespace segblocks::cuda

#endif  // SEGBLOCKS_CUDA_UPSAMPLE2_CUH_
