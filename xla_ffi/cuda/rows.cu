// The halos of rows found by index.

#include <cstdint>

#include "cuda/launch.cuh"
#include "cuda/rows.cuh"

namespace segblocks::cuda {
namespace {

template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads) halos_kernel(const __grid_constant__ HaloRows<T> call) {
  for_each_vector<kWidth>(call.count, call.input.channels, [&](int32_t halo, int32_t channel) {
    average<T, kWidth>(call, halo, channel);
  });
}

}  // namespace

cudaError_t launch_halos(cudaStream_t stream, const IndexedRows& input) {
  if (input.num_halos == 0 || input.channels == 0) return cudaSuccess;
  return with_indexed_vectors(
      input.element, input.channels, {input.rows, input.halos}, [&](auto vector) {
        using V = decltype(vector);
        using T = typename V::Element;
        const LaunchShape shape = item_shape(input.num_halos, input.channels, V::width);
        const HaloRows<T> halos{
            row_list<T>(input), input.means, static_cast<int32_t>(input.halo_reads),
            static_cast<int32_t>(input.num_halos), static_cast<T*>(input.halos)};
        halos_kernel<T, V::width><<<shape.grid, shape.threads, 0, stream>>>(halos);
        return cudaGetLastError();
      });
}

}  // namespace segblocks::cuda
