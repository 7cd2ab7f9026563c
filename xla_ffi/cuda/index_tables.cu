// Index tables of a grid of blocks.

#include <algorithm>
#include <cstdint>

#include "cuda/index_tables.cuh"
#include "cuda/kernels.h"
#include "cuda/launch.cuh"

namespace segblocks::cuda {
namespace {

__global__ void __launch_bounds__(kThreads)
    index_tables_kernel(const __grid_constant__ IndexTablesCall call) {
  const IndexTableLayout& layout = call.layout;
  const int64_t high = layout.blocks.num_high * layout.patch_area(true);
  const int64_t low = layout.blocks.num_low() * layout.patch_area(false);
  const int64_t all = high + low + layout.num_halos();
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

cudaError_t launch(cudaStream_t stream, const IndexTablesCall& call) {
  constexpr int64_t kMaxBlocks = 4096;
  const IndexTableLayout& layout = call.layout;
  const int64_t all = layout.blocks.num_high * layout.patch_area(true) +
                      layout.blocks.num_low() * layout.patch_area(false) + layout.num_halos();
  const int64_t blocks = std::min((all + kThreads - 1) / kThreads, kMaxBlocks);
  index_tables_kernel<<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(call);
  return cudaGetLastError();
}

}  // namespace segblocks::cuda
