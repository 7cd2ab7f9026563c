// Vectors of SEGBLOCKS_LANES floats; see tiles_body.h.

#ifndef SEGBLOCKS_CPU_TILES_VECTORS_H_
#define SEGBLOCKS_CPU_TILES_VECTORS_H_

#include <stdint.h>
#ifdef __AVX2__
#include <immintrin.h>
#endif

#include "cpu/half.h"
#include "cpu/tiles.h"

namespace segblocks::cpu {
namespace {

constexpr int kLanes = SEGBLOCKS_LANES;
constexpr int kPanelVectors = kPanel / kLanes;

typedef float Vector __attribute__((vector_size(4 * kLanes)));
typedef float Unaligned __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
typedef int32_t SignedVector __attribute__((vector_size(4 * kLanes)));
typedef uint32_t WordVector __attribute__((vector_size(4 * kLanes)));
typedef uint16_t BitsVector __attribute__((vector_size(2 * kLanes)));
typedef uint8_t UnalignedBytes __attribute__((vector_size(kLanes), aligned(1), may_alias));
typedef uint16_t UnalignedBits __attribute__((vector_size(2 * kLanes), aligned(2), may_alias));

// Of as many bytes as a vector of floats.
typedef uint16_t PairedBits __attribute__((vector_size(4 * kLanes)));
typedef int16_t PairedShorts __attribute__((vector_size(4 * kLanes)));
typedef uint16_t UnalignedPairedBits
    __attribute__((vector_size(4 * kLanes), aligned(2), may_alias));

SEGBLOCKS_INLINE Vector load(const float* p) { return *reinterpret_cast<const Unaligned*>(p); }

SEGBLOCKS_INLINE void store(float* p, Vector v) { *reinterpret_cast<Unaligned*>(p) = v; }

SEGBLOCKS_INLINE Vector get_vector(const float* p) { return load(p); }

SEGBLOCKS_INLINE Vector get_vector(const BFloat16* p) {
  const BitsVector bits = *reinterpret_cast<const UnalignedBits*>(p);
#if SEGBLOCKS_LANES == 16 && defined(__AVX512F__)
  // Masked, like all intrinsics here: some compilers take the unused lanes of the others for
  // uninitialized. Their own conversions are in halves.
  const __m512i words = _mm512_maskz_cvtepu16_epi32(0xffff, reinterpret_cast<__m256i>(bits));
  return reinterpret_cast<Vector>(reinterpret_cast<WordVector>(words) << 16);
#elif SEGBLOCKS_LANES == 8 && defined(__AVX2__)
  const __m256i words = _mm256_cvtepu16_epi32(reinterpret_cast<__m128i>(bits));
  return reinterpret_cast<Vector>(reinterpret_cast<WordVector>(words) << 16);
#else
  return reinterpret_cast<Vector>(__builtin_convertvector(bits, WordVector) << 16);
#endif
}

SEGBLOCKS_INLINE Vector get_vector(const uint8_t* p) {
#if SEGBLOCKS_LANES == 16 && defined(__AVX512F__)
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  const __m512i words = _mm512_maskz_cvtepu8_epi32(0xffff, bytes);
  return reinterpret_cast<Vector>(_mm512_maskz_cvtepi32_ps(0xffff, words));
#elif SEGBLOCKS_LANES == 8 && defined(__AVX2__)
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
  return reinterpret_cast<Vector>(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)));
#else
  // Step by step: some compilers convert the lanes one by one otherwise.
  const auto bytes = *reinterpret_cast<const UnalignedBytes*>(p);
  const BitsVector bits = __builtin_convertvector(bytes, BitsVector);
  const WordVector words = __builtin_convertvector(bits, WordVector);
  return __builtin_convertvector(reinterpret_cast<SignedVector>(words), Vector);
#endif
}

SEGBLOCKS_INLINE void put_vector(Vector value, float* p) { store(p, value); }

#if SEGBLOCKS_LANES == 16 && defined(__AVX512BF16__)
// Subnormal numbers become zeros here.
SEGBLOCKS_INLINE void put_vector(Vector value, BFloat16* p) {
  *reinterpret_cast<UnalignedBits*>(p) =
      reinterpret_cast<BitsVector>(_mm512_cvtneps_pbh(reinterpret_cast<__m512>(value)));
}
#else
SEGBLOCKS_INLINE void put_vector(Vector value, BFloat16* p) {
  const WordVector bits = reinterpret_cast<WordVector>(value);
  const WordVector rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const WordVector number = reinterpret_cast<WordVector>(value == value);
  const WordVector result = (number & rounded) | (~number & ((bits >> 16) | 0x40u));
  *reinterpret_cast<UnalignedBits*>(p) = __builtin_convertvector(result, BitsVector);
}
#endif

// NaN stays NaN in all of these.
SEGBLOCKS_INLINE float relu(float y) { return y < 0.0f ? 0.0f : y; }
SEGBLOCKS_INLINE float at_most_6(float y) { return y > 6.0f ? 6.0f : y; }
#if SEGBLOCKS_LANES == 16 && defined(__AVX512F__)
SEGBLOCKS_INLINE Vector at_least(Vector y, Vector least) {
  return reinterpret_cast<Vector>(
      _mm512_maskz_max_ps(0xffff, reinterpret_cast<__m512>(least), reinterpret_cast<__m512>(y)));
}
SEGBLOCKS_INLINE Vector at_most(Vector y, Vector most) {
  return reinterpret_cast<Vector>(
      _mm512_maskz_min_ps(0xffff, reinterpret_cast<__m512>(most), reinterpret_cast<__m512>(y)));
}
#else
SEGBLOCKS_INLINE Vector at_least(Vector y, Vector least) { return y < least ? least : y; }
SEGBLOCKS_INLINE Vector at_most(Vector y, Vector most) { return y > most ? most : y; }
#endif
SEGBLOCKS_INLINE Vector relu(Vector y) { return at_least(y, Vector{}); }
SEGBLOCKS_INLINE Vector at_most_6(Vector y) { return at_most(y, Vector{} + 6.0f); }

// Reads and writes of one number, or of a vector of them, at a time.
template <typename V, typename T>
SEGBLOCKS_INLINE V get_at(const T* p) {
  if constexpr (sizeof(V) == sizeof(float)) {
    return to_float(*p);
  } else {
    return get_vector(p);
  }
}

template <typename T>
SEGBLOCKS_INLINE void put_at(float value, T* p) {
  from_float(value, p);
}

template <typename T>
SEGBLOCKS_INLINE void put_at(Vector value, T* p) {
  put_vector(value, p);
}

struct VectorPair {
  Vector half[2];
};

template <typename T>
SEGBLOCKS_INLINE VectorPair get_pair(const T* p) {
  return {{get_vector(p), get_vector(p + kLanes)}};
}

template <typename T>
SEGBLOCKS_INLINE void put_pair(VectorPair values, T* p) {
#if SEGBLOCKS_LANES == 16 && defined(__AVX512BF16__)
  if constexpr (sizeof(T) == sizeof(BFloat16)) {
    const auto low = reinterpret_cast<__m512>(values.half[0]);
    const auto high = reinterpret_cast<__m512>(values.half[1]);
    _mm512_storeu_si512(p, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low)));
    return;
  }
#endif
  put_vector(values.half[0], p);
  put_vector(values.half[1], p + kLanes);
}

}  // namespace
}  // namespace segblocks::cpu

#endif  // SEGBLOCKS_CPU_TILES_VECTORS_H_
