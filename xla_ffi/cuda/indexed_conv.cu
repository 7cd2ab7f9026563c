// The indexed convolution in bfloat16, on tensor cores.

#include <algorithm>
#include <cstdint>
#include <initializer_list>

#include "cuda/indexed_conv_gemm.cuh"
#include "cuda/indexed_conv_machine.cuh"
#include "cuda/indexed_conv_plan.h"
#include "cuda/kernels.h"
#include "cuda/launch.cuh"

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#error "indexed convolutions want sm_80 or newer; set CMAKE_CUDA_ARCHITECTURES to 80 or more"
#endif

namespace segblocks::cuda {
namespace {

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

template <class Tile>
cudaError_t launch_tile(cudaStream_t stream, const TileConvolution& call, int64_t tiles) {
  return launch_clusters<Tile>(stream, convolve_kernel<Tile>, call, tiles);
}

// From sm_90 on blocks of threads in a cluster read each other's shared memory.
constexpr int kClusterArchitecture = 90;
// How many blocks can share a tile on this GPU, by the code that it runs.
cudaError_t max_parts(int32_t* parts) {
  cudaFuncAttributes code{};
  const cudaError_t status = cudaFuncGetAttributes(&code, convolve_kernel<WideTile>);
  *parts = code.ptxVersion >= kClusterArchitecture ? 8 : 1;
  return status;
}

#ifdef SEGBLOCKS_WARP_GROUPS
cudaError_t has_warp_groups(int device, bool* groups) {
  int major = 0;
  int minor = 0;
  cudaError_t status = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  if (status != cudaSuccess) return status;
  status = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  *groups = major == 9 && minor == 0;
  return status;
}

// The product as the slices of channels make it.
Product group_product(const IndexedConvCall& call, Product product) {
  const int64_t places =
      std::max(most_places(call.window, call.units.high), most_places(call.window, call.units.low));
  product.terms =
      call.window.area() * slices_of(static_cast<int32_t>(call.input.channels)) * kSliceChannels;
  product.places = call.window.area() == 1 ? kTileRows : places;
  return product;
}
#endif

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
#ifdef SEGBLOCKS_WARP_GROUPS
  bool groups = false;
  status = has_warp_groups(device, &groups);
  if (status != cudaSuccess) return status;
  const Product padded = group_product(call, product);
  const Plan by_groups =
      plan(kGroupKinds, padded, max_group_parts(call.input.channels, parts), processors);
  if (groups && by_groups.clocks < best.clocks) {
    const TileConvolution tiles = tile_convolution(call, by_groups.parts);
    *lends = tiles.lent.any();
    return launch_groups(stream, tiles, by_groups, tiles_of(padded, kGroupKinds[by_groups.kind]));
  }
#endif
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
