// Bilinear upsampling by 2 of units that see one row around them.

#include <cstdint>

#include "cuda/kernels.h"
#include "cuda/launch.cuh"
#include "cuda/upsample2.cuh"

namespace segblocks::cuda {
namespace {

template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads)
    upsample2_kernel(const __grid_constant__ Upsample2<T> call) {
  const LiveRows live = call.tables.live();
  for_each_vector<kWidth>(live.all, call.input.channels, [&](int32_t pixel, int32_t channel) {
    upsample<T, kWidth>(call, live, pixel, channel);
  });
}

}  // namespace

cudaError_t launch(cudaStream_t stream, const Upsample2Call& call) {
  const cudaError_t status = launch_halos(stream, call.input);
  if (status != cudaSuccess) return status;
  return with_indexed_vectors(
      call.input.element, call.input.channels,
      {call.input.rows, call.input.halos, call.residual, call.out}, [&](auto vector) {
        using V = decltype(vector);
        using T = typename V::Element;
        const LaunchShape shape =
            item_shape(max_output_rows(call) / 4, call.input.channels, V::width);
        upsample2_kernel<T, V::width><<<shape.grid, shape.threads, 0, stream>>>(upsample2<T>(call));
        return cudaGetLastError();
      });
}

}  // namespace segblocks::cuda
