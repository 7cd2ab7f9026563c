// The indexed convolution in bfloat16, by products of warp groups. Compiled for sm_90a alone.

#include <cstdint>

#include "cuda/indexed_conv_groups.cuh"
#include "cuda/indexed_conv_machine.cuh"
#include "cuda/launch.cuh"

#if defined(__CUDA_ARCH__) && !defined(__CUDA_ARCH_FEAT_SM90_ALL)
#error "products of warp groups want sm_90a"
#endif

namespace segblocks::cuda {
namespace {

template <class Tile>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kResident)
    convolve_groups_kernel(const __grid_constant__ TileConvolution call) {
  extern __shared__ __align__(1024) char shared[];
  convolve_by_groups<Tile, Sm80>(call, shared, static_cast<int>(threadIdx.x),
                                 static_cast<int32_t>(blockIdx.x), static_cast<int32_t>(gridDim.x));
}

}  // namespace

cudaError_t launch_groups(cudaStream_t stream, const TileConvolution& call, const Plan& plan,
                          int64_t tiles) {
  using Wide = GroupTile<128>;
  using Narrow = GroupTile<64>;
  return plan.kind == 0
             ? launch_clusters<Wide>(stream, convolve_groups_kernel<Wide>, call, tiles)
             : launch_clusters<Narrow>(stream, convolve_groups_kernel<Narrow>, call, tiles);
}

}  // namespace segblocks::cuda
