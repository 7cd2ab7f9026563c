// Bilinear upsampling by 2 of units that see one row around them.

#include <cstdint>

#include "cuda/kernels.h"
#include "cuda/launch.cuh"
#include "cuda/upsample2.cuh"

namespace segblocks::cuda {
namespace {

template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads, 1)
    upsample2_kernel(const __grid_constant__ Upsample2<T> call) {
  const int32_t live_high = call.live_high();
  const int32_t strips = call.live_strips();
  for_each_vector<kWidth>(strips, call.input.channels, [&](int32_t strip, int32_t channel) {
    upsample<T, kWidth>(call, live_high, strip, channel);
  });
}

}  // namespace

cudaError_t launch(cudaStream_t stream, const Upsample2Call& call) {
  const cudaError_t status = launch_halos(stream, call.input);
  if (status != cudaSuccess) return status;
  return with_indexed_vectors(
      call.input.element, call.input.channels,
      {call.input.rows, call.input.halos, call.residual, call.out, call.scale2, call.bias2,
       call.lent.halos},
      [&](auto vector) {
        using V = decltype(vector);
        using T = typename V::Element;
        const Upsample2<T> units = upsample2<T>(call);
        const int64_t strips = int64_t{units.high.capacity} * units.high.strips +
                               int64_t{units.low.capacity} * units.low.strips;
        const LaunchShape shape = item_shape(strips, call.input.channels, V::width);
        upsample2_kernel<T, V::width><<<shape.grid, shape.threads, 0, stream>>>(units);
        return cudaGetLastError();
      });
}

}  // namespace segblocks::cuda
