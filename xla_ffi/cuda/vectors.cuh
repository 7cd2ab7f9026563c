// Groups of channels that a thread moves at once, in the three number formats.

#ifndef SEGBLOCKS_CUDA_VECTORS_CUH_
#define SEGBLOCKS_CUDA_VECTORS_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <type_traits>

#include "segblocks/calls.h"

namespace segblocks::cuda {

__device__ inline float to_float(float value) { return value; }
__device__ inline float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }
__device__ inline float to_float(__half value) { return __half2float(value); }

__device__ inline void from_float(float value, float* result) { *result = value; }
__device__ inline void from_float(float value, __nv_bfloat16* result) {
  *result = __float2bfloat16_rn(value);
}
__device__ inline void from_float(float value, __half* result) { *result = __float2half_rn(value); }

template <typename T, int kWidth>
struct alignas(sizeof(T) * kWidth) Vector {
  T values[kWidth];
};

template <typename T, int kWidth>
__device__ inline Vector<T, kWidth> load(const T* from) {
  return *reinterpret_cast<const Vector<T, kWidth>*>(from);
}

// Floats of a vector for each channel, aligned to 16 bytes where kWidth is a multiple of 4.
template <int kWidth>
__device__ inline void load_vector(const float* from, float (&values)[kWidth]) {
  constexpr int kLoad = kWidth % 4 == 0 ? 4 : 1;
#pragma unroll
  for (int k = 0; k < kWidth; k += kLoad) {
    const auto part = load<float, kLoad>(from + k);
#pragma unroll
    for (int i = 0; i < kLoad; ++i) values[k + i] = part.values[i];
  }
}

template <typename T, int kWidth>
__device__ inline void store(T* to, const Vector<T, kWidth>& vector) {
  *reinterpret_cast<Vector<T, kWidth>*>(to) = vector;
}

// A vector in registers: bfloat16 in words of two.
template <typename T, int kWidth>
constexpr bool kInPairs = std::is_same_v<T, __nv_bfloat16> && kWidth % 2 == 0;
template <typename T, int kWidth>
using Packed =
    std::conditional_t<kInPairs<T, kWidth>, Vector<uint32_t, (kWidth + 1) / 2>, Vector<T, kWidth>>;

template <typename T, int kWidth>
__device__ inline Packed<T, kWidth> load_packed(const T* from) {
  return *reinterpret_cast<const Packed<T, kWidth>*>(from);
}

template <int kWidth, typename T>
__device__ inline void store_packed(T* to, const Packed<T, kWidth>& vector) {
  *reinterpret_cast<Packed<T, kWidth>*>(to) = vector;
}

template <typename T, int kWidth>
__device__ inline void to_floats(const Packed<T, kWidth>& vector, float (&values)[kWidth]) {
#pragma unroll
  for (int k = 0; k < kWidth; ++k) {
    if constexpr (kInPairs<T, kWidth>) {
      // A bfloat16 is the upper half of its float32.
      const uint32_t word = vector.values[k / 2];
#ifdef __CUDA_ARCH__
      if (k % 2 == 0) {
        asm("shl.b32 %0, %1, 16;" : "=f"(values[k]) : "r"(word));
      } else {
        asm("and.b32 %0, %1, 0xffff0000;" : "=f"(values[k]) : "r"(word));
      }
#else
      const uint32_t bits = k % 2 == 0 ? word << 16 : word & 0xffff0000u;
      std::memcpy(&values[k], &bits, sizeof(bits));
#endif
    } else {
      values[k] = to_float(vector.values[k]);
    }
  }
}

template <typename T, int kWidth>
__device__ inline void load_floats_of(const T* from, float (&values)[kWidth]) {
  to_floats<T>(load_packed<T, kWidth>(from), values);
}

template <typename T, int kWidth>
__device__ inline Packed<T, kWidth> from_floats(const float (&values)[kWidth]) {
  Packed<T, kWidth> vector;
  if constexpr (kInPairs<T, kWidth>) {
#pragma unroll
    for (int k = 0; k < kWidth; k += 2) {
      const __nv_bfloat162 pair = __floats2bfloat162_rn(values[k], values[k + 1]);
      std::memcpy(&vector.values[k / 2], &pair, sizeof(pair));
    }
  } else {
#pragma unroll
    for (int k = 0; k < kWidth; ++k) from_float(values[k], &vector.values[k]);
  }
  return vector;
}

// The larger of two; NaN where one of them is.
__device__ inline float larger(float a, float b) { return b > a || b != b ? b : a; }
__device__ inline __nv_bfloat16 larger(__nv_bfloat16 a, __nv_bfloat16 b) {
  return __hmax_nan(a, b);
}
// Of two bfloat16 each.
__device__ inline uint32_t larger(uint32_t a, uint32_t b) {
  __nv_bfloat162 pairs[2];
  std::memcpy(static_cast<void*>(&pairs[0]), &a, sizeof(a));
  std::memcpy(static_cast<void*>(&pairs[1]), &b, sizeof(b));
  const __nv_bfloat162 pair = __hmax2_nan(pairs[0], pairs[1]);
  uint32_t word;
  std::memcpy(&word, &pair, sizeof(pair));
  return word;
}

// Weighted sums of vectors in float32, rounded once.
template <typename T, int kWidth>
struct VectorSum {
  float sums[kWidth] = {};

  __device__ void add(const T* from, float weight) { add(load_packed<T, kWidth>(from), weight); }
  __device__ void add(const Packed<T, kWidth>& vector, float weight) {
    float values[kWidth];
    to_floats<T>(vector, values);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) sums[k] += weight * values[k];
  }

  __device__ void write(float scale, T* to) const {
    float values[kWidth];
#pragma unroll
    for (int k = 0; k < kWidth; ++k) values[k] = scale * sums[k];
    store_packed<kWidth>(to, from_floats<T>(values));
  }
};

template <typename T, int kWidth>
struct VectorType {
  using Element = T;
  static constexpr int width = kWidth;
};

// Calls run(VectorType) with 16-byte vectors where channels and pointers allow, else with scalars.
template <typename T, typename Run>
cudaError_t with_width(int64_t channels, std::initializer_list<const void*> pointers,
                       const Run& run) {
  constexpr int kBytes = 16;
  constexpr int kWidth = kBytes / sizeof(T);
  bool wide = channels % kWidth == 0;
  for (const void* pointer : pointers) wide &= reinterpret_cast<uintptr_t>(pointer) % kBytes == 0;
  return wide ? run(VectorType<T, kWidth>{}) : run(VectorType<T, 1>{});
}

template <typename Run>
cudaError_t with_vectors(Element element, int64_t channels,
                         std::initializer_list<const void*> pointers, const Run& run) {
  switch (element) {
    case Element::kFloat32:
      return with_width<float>(channels, pointers, run);
    case Element::kBFloat16:
      return with_width<__nv_bfloat16>(channels, pointers, run);
    case Element::kFloat16:
      return with_width<__half>(channels, pointers, run);
    case Element::kUint8:
      break;
  }
  return cudaErrorInvalidValue;
}

}  // namespace segblocks::cuda

#endif  // SEGBLOCKS_CUDA_VECTORS_CUH_
