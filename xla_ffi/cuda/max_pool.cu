// The maximum over windows of rows found by index.

#include <cstdint>

#include "cuda/kernels.h"
#include "cuda/launch.cuh"
#include "cuda/max_pool.cuh"

namespace segblocks::cuda {
namespace {

template <typename T, int kWidth, int kWindow>
__global__ void __launch_bounds__(kThreads, 1)
    max_pool_kernel(const __grid_constant__ MaxPool<T> call) {
  const LiveRows live = call.tables.live();
  for_each_vector<kWidth>(live.all, call.input.channels, [&](int32_t row, int32_t channel) {
    pool<T, kWidth, kWindow>(call, live, row, channel);
  });
}

}  // namespace

cudaError_t launch(cudaStream_t stream, const MaxPoolCall& call) {
  const cudaError_t status = launch_halos(stream, call.input);
  if (status != cudaSuccess) return status;
  return with_indexed_vectors(
      call.input.element, call.input.channels, {call.input.rows, call.input.halos, call.out},
      [&](auto vector) {
        using V = decltype(vector);
        using T = typename V::Element;
        const LaunchShape shape = item_shape(max_output_rows(call), call.input.channels, V::width);
        const MaxPool<T> pool{window_tables(call), row_list<T>(call.input),
                              static_cast<int32_t>(call.window.height), static_cast<T*>(call.out)};
        const auto kernel =
            pool.window == 3 ? max_pool_kernel<T, V::width, 3> : max_pool_kernel<T, V::width, 0>;
        kernel<<<shape.grid, shape.threads, 0, stream>>>(pool);
        return cudaGetLastError();
      });
}

}  // namespace segblocks::cuda
