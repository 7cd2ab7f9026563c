// The best class of every pixel of upsampled logits.

#include <algorithm>
#include <cstdint>

#include "cuda/kernels.h"
#include "cuda/launch.cuh"
#include "cuda/upsample_argmax.cuh"

namespace segblocks::cuda {
namespace {

template <typename T, int kFactor>
__global__ void __launch_bounds__(kThreads) upsample_argmax_kernel(const UpsampleArgmaxCall call) {
  const int64_t items = label_items(call);
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t item = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; item < items;
       item += step) {
    find_labels<T, kFactor>(call, item);
  }
}

template <typename T>
cudaError_t launch_factor(cudaStream_t stream, const UpsampleArgmaxCall& call) {
  constexpr int64_t kMaxBlocks = 16384;
  const int64_t blocks = std::min((label_items(call) + kThreads - 1) / kThreads, kMaxBlocks);
  const auto kernel = call.factor == 2   ? upsample_argmax_kernel<T, 2>
                      : call.factor == 4 ? upsample_argmax_kernel<T, 4>
                                         : upsample_argmax_kernel<T, 8>;
  kernel<<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(call);
  return cudaGetLastError();
}

}  // namespace

cudaError_t launch(cudaStream_t stream, const UpsampleArgmaxCall& call) {
  switch (call.element) {
    case Element::kFloat32:
      return launch_factor<float>(stream, call);
    case Element::kBFloat16:
      return launch_factor<__nv_bfloat16>(stream, call);
    case Element::kFloat16:
      return launch_factor<__half>(stream, call);
    case Element::kUint8:
      break;
  }
  return cudaErrorInvalidValue;
}

}  // namespace segblocks::cuda
