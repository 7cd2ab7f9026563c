// What kernels of indexed convolutions on tensor cores have in common: the instructions that they
// use, and how they are started.

#ifndef SEGBLOCKS_CUDA_INDEXED_CONV_MACHINE_CUH_
#define SEGBLOCKS_CUDA_INDEXED_CONV_MACHINE_CUH_

#include <algorithm>
#include <cstdint>
#include <cute/tensor.hpp>

#include "cuda/indexed_conv_plan.h"
#include "cuda/indexed_conv_tile.cuh"
#include "cuda/launch.cuh"

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define SEGBLOCKS_CLUSTERS
#endif

namespace segblocks::cuda {

// The instructions of sm_80 and up.
struct Sm80 {
  using Multiply = cute::SM80_16x8x16_F32BF16BF16F32_TN;
  using LoadRows = cute::SM75_U32x4_LDSM_N;
  using LoadWeights = cute::SM75_U16x8_LDSM_T;

  // Through the L1 cache: neighboring windows read the same rows.
  template <int kElements>
  __device__ static void copy_row(void* to, const void* from, bool some) {
    using Chunk = cute::uint_bit_t<16 * kElements>;
    cute::SM80_CP_ASYNC_CACHEALWAYS_ZFILL<Chunk>::copy(*static_cast<const Chunk*>(from),
                                                       *static_cast<Chunk*>(to), some);
  }
  __device__ static void copy_weights(void* to, const void* from, bool some) {
    using Chunk = cute::uint128_t;
    cute::SM80_CP_ASYNC_CACHEGLOBAL_ZFILL<Chunk>::copy(*static_cast<const Chunk*>(from),
                                                       *static_cast<Chunk*>(to), some);
  }
  __device__ static void commit() { cute::cp_async_fence(); }
  template <int kPending>
  __device__ static void wait() {
    cute::cp_async_wait<kPending>();
  }
  __device__ static void sync() { __syncthreads(); }
  // Products of warp groups see what this thread has copied, or written, before a barrier.
  __device__ static void fence_copies() { cute::tma_store_fence(); }

  // All threads of the cluster; what they wrote to shared memory can be read behind it.
  __device__ static void sync_cluster() {
#ifdef SEGBLOCKS_CLUSTERS
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
  }
  // What block `part` of the cluster has where this one has `from`.
  template <int kLoad>
  __device__ static Vector<float, kLoad> load_of(int32_t part, const float* from) {
    Vector<float, kLoad> result{};
#ifdef SEGBLOCKS_CLUSTERS
    const auto own = static_cast<uint32_t>(__cvta_generic_to_shared(from));
    uint32_t at;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(at) : "r"(own), "r"(part));
    if constexpr (kLoad == 4) {
      asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
                   : "=f"(result.values[0]), "=f"(result.values[1]), "=f"(result.values[2]),
                     "=f"(result.values[3])
                   : "r"(at));
    } else {
      static_assert(kLoad == 1);
      asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(result.values[0]) : "r"(at));
    }
#endif
    return result;
  }
};

// Starts the kernel on as many clusters of `call.parts` blocks as the GPU holds at once.
template <class Tile>
cudaError_t launch_clusters(cudaStream_t stream, void (*kernel)(TileConvolution),
                            const TileConvolution& call, int64_t tiles) {
  constexpr int kBytes = Tile::kSharedBytes;
  if (call.parts == 1) {
    return launch_persistent<TileConvolution>(stream, kernel, call, Tile::kThreads, kBytes, tiles);
  }
  cudaError_t status =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  if (status != cudaSuccess) return status;
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {static_cast<unsigned>(call.parts), 1, 1};
  cudaLaunchConfig_t launch{};
  launch.gridDim = cluster.val.clusterDim.x;
  launch.blockDim = Tile::kThreads;
  launch.dynamicSmemBytes = kBytes;
  launch.stream = stream;
  launch.attrs = &cluster;
  launch.numAttrs = 1;
  int clusters = 0;
  status = cudaOccupancyMaxActiveClusters(&clusters, kernel, &launch);
  if (status != cudaSuccess) return status;
  const int64_t most = std::min<int64_t>(tiles, std::max(clusters, 1));
  launch.gridDim.x = static_cast<unsigned>(most * call.parts);
  return cudaLaunchKernelEx(&launch, kernel, call);
}

// Starts convolutions by products of warp groups; only on GPUs of compute capability 9.0.
cudaError_t launch_groups(cudaStream_t stream, const TileConvolution& call, const Plan& plan,
                          int64_t tiles);

}  // namespace segblocks::cuda

#endif  // SEGBLOCKS_CUDA_INDEXED_CONV_MACHINE_CUH_
