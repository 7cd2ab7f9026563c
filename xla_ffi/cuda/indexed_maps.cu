// Ghost rows, pooling, enlarging, and index tables.

#include <algorithm>
#include <cstdint>

#include "cuda/indexed_launch.cuh"
#include "cuda/indexed_maps.cuh"
#include "cuda/kernels.h"

namespace segblocks::cuda {
namespace {

template <typename T, int kWidth>
__global__ void __launch_bounds__(kItemThreads)
    ghosts_kernel(const __grid_constant__ GhostRows<T> call) {
  for_each_vector<kWidth>(call.count, call.input.channels, [&](int32_t ghost, int32_t channel) {
    average<T, kWidth>(call, ghost, channel);
  });
}

template <typename T, int kWidth>
__global__ void __launch_bounds__(kItemThreads)
    max_pool_kernel(const __grid_constant__ MaxPool<T> call) {
  const LiveRows live = call.tables.live();
  for_each_vector<kWidth>(live.all, call.input.channels, [&](int32_t row, int32_t channel) {
    pool<T, kWidth>(call, live, row, channel);
  });
}

template <typename T, int kWidth>
__global__ void __launch_bounds__(kItemThreads)
    upsample2_kernel(const __grid_constant__ Upsample2<T> call) {
  const LiveRows live = call.tables.live();
  for_each_vector<kWidth>(live.all, call.input.channels, [&](int32_t pixel, int32_t channel) {
    enlarge<T, kWidth>(call, live, pixel, channel);
  });
}

__global__ void __launch_bounds__(kItemThreads)
    index_tables_kernel(const __grid_constant__ IndexTablesCall call) {
  const IndexTableLayout& layout = call.layout;
  const int64_t high = layout.blocks.num_high * layout.patch_area(true);
  const int64_t low = layout.blocks.num_low() * layout.patch_area(false);
  const int64_t all = high + low + layout.num_ghosts();
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < all;
       i += step) {
    if (i < high) {
      find_index(call, true, i);
    } else if (i < high + low) {
      find_index(call, false, i - high);
    } else {
      find_means(call, i - high - low);
    }
  }
}

}  // namespace

cudaError_t launch_ghosts(cudaStream_t stream, const IndexedRows& input) {
  if (input.num_ghosts == 0 || input.channels == 0) return cudaSuccess;
  return with_indexed_vectors(
      input.element, input.channels, {input.rows, input.ghosts}, [&](auto vector) {
        using V = decltype(vector);
        using T = typename V::Element;
        const ItemShape shape = item_shape(input.num_ghosts, input.channels, V::width);
        const GhostRows<T> ghosts{
            row_list<T>(input), input.means, static_cast<int32_t>(input.ghost_reads),
            static_cast<int32_t>(input.num_ghosts), static_cast<T*>(input.ghosts)};
        ghosts_kernel<T, V::width><<<shape.grid, shape.threads, 0, stream>>>(ghosts);
        return cudaGetLastError();
      });
}

cudaError_t launch(cudaStream_t stream, const IndexedMaxPoolCall& call) {
  const cudaError_t status = launch_ghosts(stream, call.input);
  if (status != cudaSuccess) return status;
  return with_indexed_vectors(
      call.input.element, call.input.channels, {call.input.rows, call.input.ghosts, call.out},
      [&](auto vector) {
        using V = decltype(vector);
        using T = typename V::Element;
        const ItemShape shape = item_shape(max_output_rows(call), call.input.channels, V::width);
        const MaxPool<T> pool{window_tables(call), row_list<T>(call.input),
                              static_cast<int32_t>(call.window.height), static_cast<T*>(call.out)};
        max_pool_kernel<T, V::width><<<shape.grid, shape.threads, 0, stream>>>(pool);
        return cudaGetLastError();
      });
}

cudaError_t launch(cudaStream_t stream, const IndexedUpsample2Call& call) {
  const cudaError_t status = launch_ghosts(stream, call.input);
  if (status != cudaSuccess) return status;
  return with_indexed_vectors(
      call.input.element, call.input.channels,
      {call.input.rows, call.input.ghosts, call.residual, call.out}, [&](auto vector) {
        using V = decltype(vector);
        using T = typename V::Element;
        const ItemShape shape =
            item_shape(max_output_rows(call) / 4, call.input.channels, V::width);
        upsample2_kernel<T, V::width><<<shape.grid, shape.threads, 0, stream>>>(upsample2<T>(call));
        return cudaGetLastError();
      });
}

cudaError_t launch(cudaStream_t stream, const IndexTablesCall& call) {
  constexpr int64_t kMostBlocks = 4096;
  const IndexTableLayout& layout = call.layout;
  const int64_t all = layout.blocks.num_high * layout.patch_area(true) +
                      layout.blocks.num_low() * layout.patch_area(false) + layout.num_ghosts();
  const int64_t blocks = std::min((all + kItemThreads - 1) / kItemThreads, kMostBlocks);
  index_tables_kernel<<<static_cast<unsigned>(blocks), kItemThreads, 0, stream>>>(call);
  return cudaGetLastError();
}

}  // namespace segblocks::cuda
