// What follows a sum of an indexed operation, in float32: affine map, residual, activation, and the
// second output.

#ifndef SEGBLOCKS_CUDA_EPILOGUE_CUH_
#define SEGBLOCKS_CUDA_EPILOGUE_CUH_

#include <cstdint>

#include "cuda/vectors.cuh"
#include "segblocks/calls.h"

namespace segblocks::cuda {

template <typename T>
struct Epilogue {
  int32_t features;
  Activation activation;
  const float* scale;
  const float* bias;
  const T* residual;
  const float* scale2;
  const float* bias2;
  T* out;
  T* out2;
};

template <typename T>
Epilogue<T> epilogue_of(const IndexedConvCall& call) {
  return {static_cast<int32_t>(call.features),
          call.activation,
          call.scale,
          call.bias,
          static_cast<const T*>(call.residual),
          call.scale2,
          call.bias2,
          static_cast<T*>(call.out),
          static_cast<T*>(call.out2)};
}

// max(value, 0); NaN stays.
__device__ inline float rectified(float value) {
#ifdef __CUDA_ARCH__
  float result;
  asm("max.NaN.f32 %0, %1, 0f00000000;" : "=f"(result) : "f"(value));
  return result;
#else
  return value < 0.0f ? 0.0f : value;
#endif
}

template <int kWidth>
__device__ inline void activate(Activation activation, float (&values)[kWidth]) {
  if (activation == Activation::kNone) return;
#pragma unroll
  for (int k = 0; k < kWidth; ++k) values[k] = rectified(values[k]);
  if (activation == Activation::kRelu) return;
#pragma unroll
  for (int k = 0; k < kWidth; ++k) values[k] = values[k] > 6.0f ? 6.0f : values[k];
}

template <int kWidth>
__device__ inline void load_floats(const float* from, float absent, float (&values)[kWidth]) {
  if (from == nullptr) {
#pragma unroll
    for (int k = 0; k < kWidth; ++k) values[k] = absent;
    return;
  }
  load_vector(from, values);
}

// The epilogue of kWidth channels from `column` on, all of them below `features`. Where kWidth is a
// multiple of 4, all vectors are aligned to 16 bytes. `unit` is what the sums count in.
template <typename T, int kWidth>
class Finish {
 public:
  __device__ Finish(const Epilogue<T>& epilogue, int32_t column, float unit = 1.0f)
      : epilogue_(epilogue), column_(column) {
    load_floats(at(epilogue.scale), unit, scale_);
    load_floats(at(epilogue.bias), 0.0f, bias_);
    load_floats(at(epilogue.scale2), 0.0f, scale2_);
    load_floats(at(epilogue.bias2), 0.0f, bias2_);
  }

  // Returns what it has stored in the second output, or in the first one.
  __device__ Packed<T, kWidth> write(int32_t row, const float (&sums)[kWidth],
                                     bool second = false) const {
    Packed<T, kWidth> stored;
    const int64_t first = static_cast<int64_t>(row) * epilogue_.features + column_;
    float values[kWidth];
#pragma unroll
    for (int k = 0; k < kWidth; ++k) values[k] = sums[k] * scale_[k] + bias_[k];
    if (epilogue_.residual != nullptr) {
      float residual[kWidth];
      load_floats_of(epilogue_.residual + first, residual);
#pragma unroll
      for (int k = 0; k < kWidth; ++k) values[k] += residual[k];
    }
    activate(epilogue_.activation, values);
    if (epilogue_.out != nullptr) {
      stored = from_floats<T>(values);
      store_packed<kWidth>(epilogue_.out + first, stored);
    }
    if (epilogue_.out2 == nullptr) return stored;
#pragma unroll
    for (int k = 0; k < kWidth; ++k) values[k] = values[k] * scale2_[k] + bias2_[k];
    activate(Activation::kRelu, values);
    const auto other = from_floats<T>(values);
    store_packed<kWidth>(epilogue_.out2 + first, other);
    return second ? other : stored;
  }

 private:
  __device__ const float* at(const float* vector) const {
    return vector == nullptr ? nullptr : vector + column_;
  }

  const Epilogue<T>& epilogue_;
  int32_t column_;
  float scale_[kWidth];
  float bias_[kWidth];
  float scale2_[kWidth];
  float bias2_[kWidth];
};

}  // namespace segblocks::cuda

#endif  // SEGBLOCKS_CUDA_EPILOGUE_CUH_
