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

// Comparisons keep NaN.
__device__ inline float activated(float value, Activation activation) {
  if (activation == Activation::kNone) return value;
  const float positive = value < 0.0f ? 0.0f : value;
  return activation == Activation::kRelu6 && positive > 6.0f ? 6.0f : positive;
}

template <int kWidth>
__device__ inline void load_floats(const float* from, float absent, float (&values)[kWidth]) {
#pragma unroll
  for (int k = 0; k < kWidth; ++k) values[k] = from == nullptr ? absent : from[k];
}

// The epilogue of kWidth channels from `column` on, all of them below `features`.
template <typename T, int kWidth>
class Finish {
 public:
  __device__ Finish(const Epilogue<T>& epilogue, int32_t column)
      : epilogue_(epilogue), column_(column) {
    load_floats(at(epilogue.scale), 1.0f, scale_);
    load_floats(at(epilogue.bias), 0.0f, bias_);
    load_floats(at(epilogue.scale2), 0.0f, scale2_);
    load_floats(at(epilogue.bias2), 0.0f, bias2_);
  }

  __device__ void write(int32_t row, const float (&sums)[kWidth]) const {
    const int64_t first = static_cast<int64_t>(row) * epilogue_.features + column_;
    float values[kWidth];
#pragma unroll
    for (int k = 0; k < kWidth; ++k) values[k] = sums[k] * scale_[k] + bias_[k];
    if (epilogue_.residual != nullptr) {
      const auto residual = load<T, kWidth>(epilogue_.residual + first);
#pragma unroll
      for (int k = 0; k < kWidth; ++k) values[k] += to_float(residual.values[k]);
    }
#pragma unroll
    for (int k = 0; k < kWidth; ++k) values[k] = activated(values[k], epilogue_.activation);
    if (epilogue_.out != nullptr) put(epilogue_.out + first, values);
    if (epilogue_.out2 == nullptr) return;
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      values[k] = activated(values[k] * scale2_[k] + bias2_[k], Activation::kRelu);
    }
    put(epilogue_.out2 + first, values);
  }

 private:
  __device__ const float* at(const float* vector) const {
    return vector == nullptr ? nullptr : vector + column_;
  }

  __device__ static void put(T* to, const float (&values)[kWidth]) {
    Vector<T, kWidth> vector;
#pragma unroll
    for (int k = 0; k < kWidth; ++k) from_float(values[k], &vector.values[k]);
    store(to, vector);
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
