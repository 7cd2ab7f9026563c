// Vectors of SEGBLOCKS_LANES floats; see tiles_body.h.

#ifndef SEGBLOCKS_CPU_TILES_VECTORS_H_
#define SEGBLOCKS_CPU_TILES_VECTORS_H_

#include <stdint.h>

#include "cpu/tiles.h"

namespace segblocks::cpu {
namespace {

constexpr int kLanes = SEGBLOCKS_LANES;
constexpr int kPanelVectors = kPanel / kLanes;

typedef float Vector __attribute__((vector_size(4 * kLanes)));
typedef float Unaligned __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
typedef uint32_t WordVector __attribute__((vector_size(4 * kLanes)));
typedef uint16_t Bits;  // Of a bfloat16.
typedef Bits BitsVector __attribute__((vector_size(2 * kLanes)));
typedef Bits UnalignedBits __attribute__((vector_size(2 * kLanes), aligned(2), may_alias));

inline __attribute__((always_inline)) Vector load(const float* p) {
  return *reinterpret_cast<const Unaligned*>(p);
}

inline __attribute__((always_inline)) void store(float* p, Vector v) {
  *reinterpret_cast<Unaligned*>(p) = v;
}

inline __attribute__((always_inline)) float get(float value) { return value; }

inline __attribute__((always_inline)) float get(Bits value) {
  return __builtin_bit_cast(float, static_cast<uint32_t>(value) << 16);
}

inline __attribute__((always_inline)) Vector get_vector(const float* p) { return load(p); }

inline __attribute__((always_inline)) Vector get_vector(const Bits* p) {
  const BitsVector bits = *reinterpret_cast<const UnalignedBits*>(p);
  return reinterpret_cast<Vector>(__builtin_convertvector(bits, WordVector) << 16);
}

inline __attribute__((always_inline)) void put(float value, float* out) { *out = value; }
inline __attribute__((always_inline)) void put_vector(Vector value, float* p) { store(p, value); }

// Rounds to nearest, ties to even.
inline __attribute__((always_inline)) void put(float value, Bits* out) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, value);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  *out = static_cast<Bits>(value == value ? rounded : (bits >> 16) | 0x40u);
}

inline __attribute__((always_inline)) void put_vector(Vector value, Bits* p) {
  const WordVector bits = reinterpret_cast<WordVector>(value);
  const WordVector rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const WordVector number = reinterpret_cast<WordVector>(value == value);
  const WordVector result = (number & rounded) | (~number & ((bits >> 16) | 0x40u));
  *reinterpret_cast<UnalignedBits*>(p) = __builtin_convertvector(result, BitsVector);
}

// NaN stays NaN in both.
inline __attribute__((always_inline)) float relu(float y) { return y < 0.0f ? 0.0f : y; }
inline __attribute__((always_inline)) float at_most_6(float y) { return y > 6.0f ? 6.0f : y; }
inline __attribute__((always_inline)) Vector relu(Vector y) {
  const Vector zero = {};
  return y < zero ? zero : y;
}
inline __attribute__((always_inline)) Vector at_most_6(Vector y) {
  const Vector six = Vector{} + 6.0f;
  return y > six ? six : y;
}

// Reads and writes of one number, or of a vector of them, at a time.
template <typename V, typename T>
inline __attribute__((always_inline)) V get_at(const T* p) {
  if constexpr (sizeof(V) == sizeof(float)) {
    return get(*p);
  } else {
    return get_vector(p);
  }
}

template <typename T>
inline __attribute__((always_inline)) void put_at(float value, T* p) {
  put(value, p);
}

template <typename T>
inline __attribute__((always_inline)) void put_at(Vector value, T* p) {
  put_vector(value, p);
}

}  // namespace
}  // namespace segblocks::cpu

#endif  // SEGBLOCKS_CPU_TILES_VECTORS_H_
