// The half-precision formats and their conversions, rounding to nearest, ties to even; bytes.
//
// Each file that includes this has functions of its own: files of inner loops are compiled with
// flags of their own, see tiles.h.

#ifndef SEGBLOCKS_CPU_HALF_H_
#define SEGBLOCKS_CPU_HALF_H_

#include <stdint.h>

namespace segblocks::cpu {

struct BFloat16 {
  uint16_t bits;
};

struct Float16 {
  uint16_t bits;
};

namespace {

#define SEGBLOCKS_INLINE inline __attribute__((always_inline))

SEGBLOCKS_INLINE float to_float(float value) { return value; }

SEGBLOCKS_INLINE float to_float(uint8_t value) { return value; }

SEGBLOCKS_INLINE float to_float(BFloat16 value) {
  return __builtin_bit_cast(float, static_cast<uint32_t>(value.bits) << 16);
}

// Subnormals pass through normal floats only: XLA's threads may flush subnormal floats to zero.
SEGBLOCKS_INLINE float to_float(Float16 value) {
  const uint32_t exponent = value.bits & 0x7c00u;
  const uint32_t shifted = (value.bits & 0x7fffu) << 13;
  const float smallest = __builtin_bit_cast(float, 113u << 23);
  const float subnormal = __builtin_bit_cast(float, shifted + (113u << 23)) - smallest;
  const uint32_t normal = shifted + ((exponent == 0x7c00u ? 224u : 112u) << 23);
  const uint32_t bits = exponent == 0 ? __builtin_bit_cast(uint32_t, subnormal) : normal;
  return __builtin_bit_cast(float, bits | (value.bits & 0x8000u) << 16);
}

SEGBLOCKS_INLINE void from_float(float value, float* result) { *result = value; }

SEGBLOCKS_INLINE void from_float(float value, BFloat16* result) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, value);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  result->bits = static_cast<uint16_t>(value == value ? rounded : (bits >> 16) | 0x40u);
}

SEGBLOCKS_INLINE void from_float(float value, Float16* result) {
  constexpr uint32_t kInfinity = 255u << 23;
  constexpr uint32_t kOverflow = (127u + 16u) << 23;
  constexpr uint32_t kSmallestNormal = 113u << 23;
  // Adding this number leaves the bits of a subnormal, rounded, at the end of the mantissa.
  constexpr uint32_t kAlign = ((127u - 15u) + (23u - 10u) + 1u) << 23;
  uint32_t bits = __builtin_bit_cast(uint32_t, value);
  const uint32_t sign = bits & 0x80000000u;
  bits ^= sign;
  uint32_t half;
  if (bits >= kOverflow) {
    half = bits > kInfinity ? 0x7e00u : 0x7c00u;
  } else if (bits < kSmallestNormal) {
    const float aligned = __builtin_bit_cast(float, bits) + __builtin_bit_cast(float, kAlign);
    half = __builtin_bit_cast(uint32_t, aligned) - kAlign;
  } else {
    half = (bits - ((127u - 15u) << 23) + 0xfffu + ((bits >> 13) & 1u)) >> 13;
  }
  result->bits = static_cast<uint16_t>(half | sign >> 16);
}

}  // namespace
}  // namespace segblocks::cpu

#endif  // SEGBLOCKS_CPU_HALF_H_
