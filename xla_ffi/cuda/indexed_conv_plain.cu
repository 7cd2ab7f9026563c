// Indexed convolutions without tensor cores.

#include <cstdint>

#include "cuda/indexed_conv_plain.cuh"
#include "cuda/launch.cuh"

namespace segblocks::cuda {
namespace {

struct Simple {
  __device__ static void sync() { __syncthreads(); }
};

__global__ void __launch_bounds__(PlainTile::kThreads)
    plain_kernel(const __grid_constant__ PlainConvolution<float> call) {
  extern __shared__ __align__(16) float shared[];
  convolve_plain<Simple>(call, shared, static_cast<int>(threadIdx.x),
                         static_cast<int32_t>(blockIdx.x), static_cast<int32_t>(gridDim.x));
}

template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads)
    depthwise_kernel(const __grid_constant__ PlainConvolution<T> call) {
  const LiveRows live = call.tables.live();
  const int32_t groups = (live.all + kDepthwiseRows - 1) / kDepthwiseRows;
  for_each_vector<kWidth>(groups, call.input.channels, [&](int32_t group, int32_t channel) {
    convolve_depthwise<T, kWidth>(call, live, group * kDepthwiseRows, channel);
  });
}

}  // namespace

cudaError_t launch_plain(cudaStream_t stream, const IndexedConvCall& call) {
  const int64_t down = (max_output_rows(call) + PlainTile::kRows - 1) / PlainTile::kRows;
  const int64_t across = (call.features + PlainTile::kColumns - 1) / PlainTile::kColumns;
  return launch_persistent<PlainConvolution<float>>(
      stream, plain_kernel, plain_convolution<float>(call), PlainTile::kThreads,
      PlainTile::kSharedBytes, down * across);
}

cudaError_t launch_depthwise(cudaStream_t stream, const IndexedConvCall& call) {
  return with_indexed_vectors(
      call.input.element, call.input.channels,
      {call.input.rows, call.input.halos, call.weights, call.residual, call.out, call.out2,
       call.scale, call.bias, call.scale2, call.bias2},
      [&](auto vector) {
        using V = decltype(vector);
        using T = typename V::Element;
        const LaunchShape shape =
            item_shape(max_output_rows(call) / kDepthwiseRows + 1, call.input.channels, V::width);
        depthwise_kernel<T, V::width>
            <<<shape.grid, shape.threads, 0, stream>>>(plain_convolution<T>(call));
        return cudaGetLastError();
      });
}

}  // namespace segblocks::cuda
