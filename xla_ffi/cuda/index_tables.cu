// Index tables of the layers of a grid of blocks, all in one launch.

#include <cstdint>

#include "cuda/index_tables.cuh"
#include "cuda/kernels.h"
#include "cuda/launch.cuh"

namespace segblocks::cuda {
namespace {

constexpr int32_t kLanes = 32;
constexpr uint32_t kAllLanes = 0xffffffff;

// Warps share the patches of all layers and units, the high ones of a layer first.
__global__ void __launch_bounds__(kThreads, 1)
    index_tables_kernel(const __grid_constant__ GridTables grid) {
  __shared__ Neighbor all_neighbors[kThreads / kLanes][kNeighbors];
  const auto lane = static_cast<int32_t>(threadIdx.x) % kLanes;
  Neighbor* neighbors = all_neighbors[threadIdx.x / kLanes];
  const auto item = static_cast<int32_t>((blockIdx.x * blockDim.x + threadIdx.x) / kLanes);
  if (item >= grid.warps) return;
  int32_t number = 0;
  while (number + 1 < grid.count && item >= grid.layers[number + 1].first_warp) ++number;
  const LayerTable& layer = grid.layers[number];
  const int32_t in_layer = item - layer.first_warp;
  const bool high = in_layer < layer.high.all_warps();
  const TablePatches& patches = high ? layer.high : layer.low;
  int32_t part;
  const int32_t unit =
      patches.warps.divide(high ? in_layer : in_layer - layer.high.all_warps(), &part);
  int32_t* table = patches.table + static_cast<int64_t>(unit) * patches.area;
  const int32_t first = part * kLanes + lane;
  const int32_t step = patches.warps.value() * kLanes;
  bool lends;
  if (layer.near) {
    const TableUnit own(grid, layer, high, unit);
    bool borrows = false;
    if (lane < kNeighbors) {
      neighbors[lane] = own.neighbor(lane);
      borrows = neighbors[lane].borrows;
    }
    lends = __any_sync(kAllLanes, borrows);
    __syncwarp();
    const int32_t pixel = neighbors[kNeighbors / 2].first;
    const int32_t groups = own.num_groups();
    for (int32_t group = first; group < groups; group += step) {
      own.write_group(pixel, group, table);
    }
    const int32_t frame = own.frame();
    for (int32_t f = first; f < frame; f += step) {
      const int32_t entry = own.in_frame(f);
      table[entry] = own.find(neighbors, entry);
    }
  } else {
    lends = high && lends_far(grid, layer, unit);
    for (int32_t entry = first; entry < patches.area; entry += step) {
      table[entry] = find_far(grid, layer, high, unit, entry);
    }
  }
  if (!high) return;
  for (int32_t g = first; g < layer.ring; g += step) write_means(grid, layer, unit, g, lends);
}

}  // namespace

cudaError_t launch(cudaStream_t stream, const LayerTablesCall& call) {
  const GridTables grid = grid_tables(call);
  constexpr int64_t kWarps = kThreads / kLanes;
  const auto blocks = static_cast<unsigned>((grid.warps + kWarps - 1) / kWarps);
  index_tables_kernel<<<blocks, kThreads, 0, stream>>>(grid);
  return cudaGetLastError();
}

}  // namespace segblocks::cuda
