// Groups of channels that a thread moves at once, in the three number formats.

#ifndef SEGBLOCKS_CUDA_VECTORS_CUH_
#define SEGBLOCKS_CUDA_VECTORS_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
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

template <typename T, int kWidth>
__device__ inline void store(T* to, const Vector<T, kWidth>& vector) {
  *reinterpret_cast<Vector<T, kWidth>*>(to) = vector;
}

// Weighted sums of vectors in float32, rounded once.
template <typename T, int kWidth>
struct VectorSum {
  float sums[kWidth] = {};

  __device__ void add(const T* from, float weight) {
    const Vector<T, kWidth> vector = load<T, kWidth>(from);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) sums[k] += weight * to_float(vector.values[k]);
  }

  __device__ void write(float scale, T* to) const {
    Vector<T, kWidth> vector;
#pragma unroll
    for (int k = 0; k < kWidth; ++k) from_float(scale * sums[k], &vector.values[k]);
    store(to, vector);
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
