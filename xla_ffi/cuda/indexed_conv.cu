// The indexed convolution in bfloat16, on tensor cores.

#include <algorithm>
#include <cstdint>
#include <initializer_list>

#include "cuda/indexed_conv_gemm.cuh"
#include "cuda/indexed_conv_plan.h"
#include "cuda/kernels.h"
#include "cuda/launch.cuh"

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#error "indexed convolutions want sm_80 or newer; set CMAKE_CUDA_ARCHITECTURES to 80 or more"
#endif

namespace segblocks::cuda {
namespace {

// From sm_90 on blocks of threads in a cluster read each other's shared memory.
constexpr int kClusterArchitecture = 90;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define SEGBLOCKS_CLUSTERS
#endif

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

using WideTile = ConvTile<256, 128, 8, true>;
using NarrowTile = ConvTile<256, 64, 8, true>;
using PixelTile = ConvTile<256, 64, 4, true>;

template <class Tile>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kResident)
    convolve_kernel(const __grid_constant__ TileConvolution call) {
  extern __shared__ __align__(128) char shared[];
  convolve<Tile, Sm80>(call, shared, static_cast<int>(threadIdx.x),
                       static_cast<int32_t>(blockIdx.x), static_cast<int32_t>(gridDim.x));
}

Product product_of(const IndexedConvCall& call) {
  const int64_t high = call.units.high.capacity * call.outputs(call.units.high).area();
  return {high, max_output_rows(call) - high, call.features,
          call.window.area() * call.input.channels};
}

// Starts the kernel on as many clusters of `call.parts` blocks as the GPU holds at once.
template <class Tile>
cudaError_t launch_tile(cudaStream_t stream, const TileConvolution& call, int64_t tiles) {
  constexpr int kBytes = Tile::kSharedBytes;
  if (call.parts == 1) {
    return launch_persistent<TileConvolution>(stream, convolve_kernel<Tile>, call, Tile::kThreads,
                                              kBytes, tiles);
  }
  cudaError_t status = cudaFuncSetAttribute(convolve_kernel<Tile>,
                                            cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
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
  status = cudaOccupancyMaxActiveClusters(&clusters, convolve_kernel<Tile>, &launch);
  if (status != cudaSuccess) return status;
  const int64_t most = std::min<int64_t>(tiles, std::max(clusters, 1));
  launch.gridDim.x = static_cast<unsigned>(most * call.parts);
  return cudaLaunchKernelEx(&launch, convolve_kernel<Tile>, call);
}

// How many blocks can share a tile on this GPU, by the code that it runs.
cudaError_t max_parts(int32_t* parts) {
  cudaFuncAttributes code{};
  const cudaError_t status = cudaFuncGetAttributes(&code, convolve_kernel<WideTile>);
  *parts = code.ptxVersion >= kClusterArchitecture ? 8 : 1;
  return status;
}

}  // namespace

cudaError_t launch_tiles(cudaStream_t stream, const IndexedConvCall& call, bool* lends) {
  if (!aligned({call.weights}, 16)) return cudaErrorMisalignedAddress;
  const Product product = product_of(call);
  const int64_t narrow_tiles = tiles_of(product, kTileKinds[1]);
  const auto vectors = [&](int width) {
    return call.input.channels % width == 0 &&
           aligned({call.input.rows, call.input.halos}, sizeof(__nv_bfloat16) * width);
  };
  const bool placed = std::max(most_places(call.window, call.units.high),
                               most_places(call.window, call.units.low)) <= NarrowTile::kPlaces;
  if (!vectors(8) || !placed) {
    const TileConvolution tiles = tile_convolution(call);
    *lends = tiles.lent.any();
    if (call.input.channels == 4 && vectors(4) && placed) {
      return launch_tile<PixelTile>(stream, tiles, narrow_tiles);
    }
    if (vectors(8)) {
      return launch_tile<ConvTile<256, 64, 8, false>>(stream, tiles, narrow_tiles);
    }
    return vectors(4) ? launch_tile<ConvTile<256, 64, 4, false>>(stream, tiles, narrow_tiles)
                      : launch_tile<ConvTile<256, 64, 1, false>>(stream, tiles, narrow_tiles);
  }
  int device = 0;
  int processors = 0;
  int32_t parts = 1;
  cudaError_t status = cudaGetDevice(&device);
  if (status != cudaSuccess) return status;
  status = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  if (status != cudaSuccess) return status;
  status = max_parts(&parts);
  if (status != cudaSuccess) return status;
  const Plan best = plan(product, parts, processors);
  const TileConvolution tiles = tile_convolution(call, best.parts);
  *lends = tiles.lent.any();
  const int64_t count = tiles_of(product, kTileKinds[best.kind]);
  return best.kind == 0 ? launch_tile<WideTile>(stream, tiles, count)
                        : launch_tile<NarrowTile>(stream, tiles, count);
}

cudaError_t launch(cudaStream_t stream, const IndexedConvCall& call) {
  cudaError_t status = launch_halos(stream, call.input);
  if (status != cudaSuccess) return status;
  bool lends = false;
  if (call.depthwise) {
    status = launch_depthwise(stream, call);
  } else if (call.input.element == Element::kFloat32) {
    status = launch_plain(stream, call);
  } else {
    status = launch_tiles(stream, call, &lends);
  }
  return lends || status != cudaSuccess ? status : launch_lent_halos(stream, call);
}

}  // namespace segblocks::cuda
