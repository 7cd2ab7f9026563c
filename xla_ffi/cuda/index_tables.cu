// Index tables of a grid of blocks.

#include <algorithm>
#include <cstdint>

#include "cuda/index_tables.cuh"
#include "cuda/kernels.h"
#include "cuda/launch.cuh"

namespace segblocks::cuda {
namespace {

// y runs over units, high ones first, x over parts of one.
template <bool kOneCell>
__global__ void __launch_bounds__(kThreads, 1)
    index_tables_kernel(const __grid_constant__ IndexTables tables) {
  __shared__ Neighbor neighbors[kNeighbors];
  const IndexTablesCall& call = tables.call;
  const IndexTableLayout& layout = call.layout;
  const auto num_high = static_cast<int32_t>(layout.blocks.num_high);
  const auto units = static_cast<int32_t>(layout.blocks.cells());
  const auto first = static_cast<int32_t>(blockIdx.x * blockDim.x + threadIdx.x);
  const auto step = static_cast<int32_t>(gridDim.x * blockDim.x);
  for (auto index = static_cast<int32_t>(blockIdx.y); index < units;
       index += static_cast<int32_t>(gridDim.y)) {
    const bool high = index < num_high;
    const int32_t unit = high ? index : index - num_high;
    const auto area = static_cast<int32_t>(layout.patch_area(high));
    int32_t* table = (high ? call.high : call.low) + static_cast<int64_t>(unit) * area;
    bool lends = false;
    if constexpr (kOneCell) {
      const TableUnit own(tables, high, unit);
      const auto zone = static_cast<int>(threadIdx.x);
      __syncthreads();  // Behind the last unit's reads.
      if (zone < kNeighbors) neighbors[zone] = own.neighbor(zone);
      __syncthreads();
      for (int i = 0; high && i < kNeighbors; ++i) lends = lends || neighbors[i].borrows;
      const Neighbor center = neighbors[kNeighbors / 2];
      const bool fast = center.first >= 0 && center.same;
      if (fast) {
        const int32_t groups = own.num_groups();
        for (int32_t group = first; group < groups; group += step) {
          own.write_group(center.first, group, table);
        }
      }
      const int32_t others = fast ? own.frame() : area;
      for (int32_t i = first; i < others; i += step) {
        const int32_t entry = fast ? own.in_frame(i) : i;
        table[entry] = own.find(neighbors, entry);
      }
    } else {
      lends = high && lends_far(call, unit);
      for (int32_t entry = first; entry < area; entry += step) {
        table[entry] = find_far(call, high, unit, entry);
      }
    }
    if (!high) continue;
    const auto ring = static_cast<int32_t>(layout.ring());
    for (int32_t g = first; g < ring; g += step) write_means(call, unit, g, lends);
  }
}

}  // namespace

cudaError_t launch(cudaStream_t stream, const IndexTablesCall& call) {
  constexpr int64_t kMaxInGrid = 65535;
  constexpr int64_t kEntries = 32;  // Of a thread: what finding the neighbors costs is shared.
  const IndexTableLayout& layout = call.layout;
  const int64_t entries = layout.patch_area(layout.blocks.num_high > 0);
  const int64_t threads = std::clamp<int64_t>((entries + 255) / 256 * 32, 32, kThreads);
  const int64_t parts = (entries + kEntries * threads - 1) / (kEntries * threads);
  const dim3 grid(static_cast<unsigned>(std::clamp<int64_t>(parts, 1, kMaxInGrid)),
                  static_cast<unsigned>(std::min(layout.blocks.cells(), kMaxInGrid)));
  const auto kernel =
      reaches_one_cell(layout) ? index_tables_kernel<true> : index_tables_kernel<false>;
  kernel<<<grid, static_cast<unsigned>(threads), 0, stream>>>(index_tables(call));
  return cudaGetLastError();
}

}  // namespace segblocks::cuda
