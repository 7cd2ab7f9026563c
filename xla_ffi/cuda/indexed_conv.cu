// The indexed convolution in bfloat16, on tensor cores.

#include <cstdint>
#include <initializer_list>

#include "cuda/indexed_conv_gemm.cuh"
#include "cuda/kernels.h"
#include "cuda/launch.cuh"

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#error "indexed convolutions want sm_80 or newer; set CMAKE_CUDA_ARCHITECTURES to 80 or more"
#endif

namespace segblocks::cuda {
namespace {

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
};

template <class Tile>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kColumns == 64 ? 3 : 2)
    convolve_kernel(const __grid_constant__ TileConvolution call) {
  extern __shared__ __align__(128) char shared[];
  convolve<Tile, Sm80>(call, shared, static_cast<int>(threadIdx.x),
                       static_cast<int32_t>(blockIdx.x), static_cast<int32_t>(gridDim.x));
}

int64_t tiles_of(const IndexedConvCall& call, int64_t rows, int64_t columns) {
  // The rows of the two sizes of units have tiles of their own.
  const int64_t high = call.units.high.capacity * call.outputs(call.units.high).area();
  const int64_t low = max_output_rows(call) - high;
  return ((high + rows - 1) / rows + (low + rows - 1) / rows) *
         ((call.features + columns - 1) / columns);
}

template <class Tile>
cudaError_t launch_tile(cudaStream_t stream, const TileConvolution& tiles,
                        const IndexedConvCall& call) {
  return launch_persistent<TileConvolution>(stream, convolve_kernel<Tile>, tiles, Tile::kThreads,
                                            Tile::kSharedBytes,
                                            tiles_of(call, Tile::kRows, Tile::kColumns));
}

}  // namespace

cudaError_t launch_tiles(cudaStream_t stream, const IndexedConvCall& call) {
  // Wide tiles read rows less often; too few of them would leave multiprocessors idle.
  constexpr int64_t kManyTiles = 256;
  if (!aligned({call.weights}, 16)) return cudaErrorMisalignedAddress;
  const TileConvolution tiles = tile_convolution(call);
  const int64_t channels = call.input.channels;
  const std::initializer_list<const void*> rows = {call.input.rows, call.input.halos};
  if (channels % 8 == 0 && aligned(rows, 16)) {
    const bool waste = (call.features + 63) / 64 % 2 != 0;
    if (!waste && tiles_of(call, 128, 128) >= kManyTiles) {
      return launch_tile<ConvTile<128, 8>>(stream, tiles, call);
    }
    return launch_tile<ConvTile<64, 8>>(stream, tiles, call);
  }
  if (channels % 4 == 0 && aligned(rows, 8)) {
    return launch_tile<ConvTile<64, 4>>(stream, tiles, call);
  }
  return launch_tile<ConvTile<64, 1>>(stream, tiles, call);
}

cudaError_t launch(cudaStream_t stream, const IndexedConvCall& call) {
  const cudaError_t status = launch_halos(stream, call.input);
  if (status != cudaSuccess) return status;
  if (call.depthwise) return launch_depthwise(stream, call);
  return call.input.element == Element::kFloat32 ? launch_plain(stream, call)
                                                 : launch_tiles(stream, call);
}

}  // namespace segblocks::cuda
