// Labels of 16-bit logits by whole numbers: a sum and its class in one word, so that a maximum
// finds both.

#ifndef SEGBLOCKS_CUDA_LABEL_KEYS_CUH_
#define SEGBLOCKS_CUDA_LABEL_KEYS_CUH_

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "cuda/upsample_argmax.cuh"
#include "cuda/vectors.cuh"
#include "cuda/window_tables.h"
#include "segblocks/calls.h"

namespace segblocks::cuda {

// Logits of 16 bits as whole numbers of a tile's unit: weighted sums in 32 bits are exact, and have
// room below them for a code of the class. So the best class, at a tie the lowest, is a maximum.
constexpr int32_t kClassCodes = 32;
__device__ inline uint32_t class_code(int32_t k) {
  return static_cast<uint32_t>(kClassCodes - 1 - k);
}
__device__ inline int32_t class_of(int32_t key) {
  return kClassCodes - 1 - (key & (kClassCodes - 1));
}

// Bits of a whole number, besides its sign: those of a sum less those of codes and weights.
template <int kFactor>
constexpr int kWholeBits = kFactor == 2   ? 21
                           : kFactor == 4 ? 20
                                          : 18;

template <typename T>
__device__ inline uint32_t bits_of(T value) {
  uint16_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}
__device__ inline float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// The unit of a tile, from the bits of its largest absolute value.
template <typename T, int kFactor>
struct WholeScale {
  static constexpr int kMantissa = std::is_same_v<T, __half> ? 10 : 7;
  static constexpr int kBias = std::is_same_v<T, __half> ? 15 : 127;
  static constexpr uint32_t kInfinity = std::is_same_v<T, __half> ? 0x7c00u : 0x7f80u;
  // 1.5 * 2^23, whose sum with a whole number has it in its lower bits; and its bits.
  static constexpr float kOffset = 12582912.0f;
  static constexpr uint32_t kOffsetBits = 0x4b400000u;

  float scale;     // 1 / unit.
  float smallest;  // All above it are multiples of the unit, and itself.

  __device__ explicit WholeScale(uint32_t largest) {
    constexpr int kBits = kWholeBits<kFactor>;
    const auto biased = static_cast<int32_t>(largest >> kMantissa);
    const int32_t exponent = (biased > 0 ? biased : 1) - kBias;
    // float32 has powers of 2 down to 2^-126; where the unit would be less than 2^-126, none is
    // sure.
    const int32_t power = kBits - 1 - exponent;
    const int32_t least = kMantissa - power;
    scale = float_of(static_cast<uint32_t>(min_int32(power, 126) + 127) << 23);
    smallest = power > 126    ? INFINITY
               : least < -126 ? 0.0f
                              : float_of(static_cast<uint32_t>(least + 127) << 23);
  }

  // The number, plus kOffsetBits.
  __device__ uint32_t whole(float value) const {
    const float sum = std::fma(value, scale, kOffset);
    uint32_t bits;
    std::memcpy(&bits, &sum, sizeof(bits));
    return bits;
  }
  __device__ bool sure(float value) const { return std::fabs(value) >= smallest || value == 0.0f; }
};

// kTimes * value + sum: one instruction, which the compiler doesn't take apart to multiply out
// sums.
template <int kTimes>
__device__ inline uint32_t times(uint32_t value, uint32_t sum) {
#ifdef __CUDA_ARCH__
  uint32_t result;
  asm("mad.lo.u32 %0, %1, %2, %3;" : "=r"(result) : "r"(value), "n"(kTimes), "r"(sum));
  return result;
#else
  return kTimes * value + sum;
#endif
}

// Raises a row's keys.
template <int kFactor, int... kPhases>
__device__ inline void raise_keys(uint32_t first, uint32_t across, int32_t (&best)[kFactor],
                                  std::integer_sequence<int, kPhases...>) {
  const auto up = [&](int p, uint32_t sum) {
    const auto key = static_cast<int32_t>(sum);
    best[p] = key > best[p] ? key : best[p];
  };
  (up(kPhases, kPhases == 0 ? first : times<2 * kPhases>(across, first)), ...);
}

// Raises the keys of phases first_phase .. first_phase+kLabelRows-1 to those of a class, whose
// whole numbers are those of a corner's pixels. Sums are taken modulo 2^32, until kOffsetBits is
// gone.
template <int kFactor>
__device__ inline void raise_keys(const uint32_t (&corner)[4], uint32_t code, int first_phase,
                                  int32_t (&best)[kLabelRows<kFactor>][kFactor]) {
  const uint32_t left_step = (corner[2] - corner[0]) * kClassCodes;
  const uint32_t right_step = (corner[3] - corner[1]) * kClassCodes;
  const auto phase = static_cast<uint32_t>(2 * first_phase + 1);
  constexpr int kTimes = 2 * kFactor * kClassCodes;
  const uint32_t left = times<kTimes>(corner[0], left_step * phase);
  const uint32_t right = times<kTimes>(corner[1], right_step * phase);
  uint32_t across = right - left;
  uint32_t first = times<2 * kFactor>(left, across + code);
  const uint32_t across_step = 2 * (right_step - left_step);
  const uint32_t first_step = times<4 * kFactor>(left_step, across_step);
#pragma unroll
  for (int row = 0; row < kLabelRows<kFactor>; ++row) {
    raise_keys<kFactor>(first, across, best[row], std::make_integer_sequence<int, kFactor>{});
    first += first_step;
    across += across_step;
  }
}

// Labels of a corner, from the whole numbers of its pixels.
template <typename T, int kFactor>
__device__ inline void find_labels(const uint32_t* const (&corner)[4], int32_t classes,
                                   int first_phase,
                                   LabelRow<kFactor> (&labels)[kLabelRows<kFactor>]) {
  constexpr int kRows = kLabelRows<kFactor>;
  constexpr uint32_t kWeights = 4 * kFactor * kFactor;
  int32_t best[kRows][kFactor];
#pragma unroll
  for (int row = 0; row < kRows; ++row) {
#pragma unroll
    for (int p = 0; p < kFactor; ++p) best[row][p] = INT32_MIN;
  }
  uint32_t code =
      class_code(0) - WholeScale<T, kFactor>::kOffsetBits * (kWeights * uint32_t{kClassCodes});
#pragma unroll 4
  for (int32_t k = 0; k < classes; ++k, --code) {
    const uint32_t pixels[4] = {corner[0][k], corner[1][k], corner[2][k], corner[3][k]};
    raise_keys<kFactor>(pixels, code, first_phase, best);
  }
#pragma unroll
  for (int row = 0; row < kRows; ++row) {
#pragma unroll
    for (int p = 0; p < kFactor; ++p) {
      labels[row].values[p] = static_cast<uint8_t>(class_of(best[row][p]));
    }
  }
}

}  // namespace segblocks::cuda

#endif  // SEGBLOCKS_CUDA_LABEL_KEYS_CUH_
