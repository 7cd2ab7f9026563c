// What a thread does for index tables: an entry, or the rows of a mean.

#ifndef SEGBLOCKS_CUDA_INDEX_TABLES_CUH_
#define SEGBLOCKS_CUDA_INDEX_TABLES_CUH_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "segblocks/calls.h"

namespace segblocks::cuda {

// Entry `entry` of an index table of one resolution.
__device__ inline void find_index(const IndexTablesCall& call, bool high, int64_t entry) {
  const IndexTableLayout& layout = call.layout;
  const int32_t* cells = high ? call.high_cells : call.low_cells;
  int32_t* table = high ? call.high : call.low;
  const int64_t area = layout.patch_area(high);
  const int64_t side = layout.patch_side(high);
  const int64_t cell = cells[entry / area];
  const int64_t position = entry % area;
  const bool some = cell >= 0 && cell < layout.blocks.cells();
  table[entry] = some ? static_cast<int32_t>(layout.index(call.slots, layout.blocks.cell(cell),
                                                          position / side, position % side))
                      : -1;
}

// The rows that halo `halo` is the mean of.
__device__ inline void find_means(const IndexTablesCall& call, int64_t halo) {
  const IndexTableLayout& layout = call.layout;
  const int64_t slot = halo / layout.ring();
  const int64_t cell = call.high_cells[slot];
  const bool some = cell >= 0 && cell < layout.blocks.cells() &&
                    layout.has_halos(call.slots, layout.blocks.cell(cell));
  const int64_t reads = layout.blocks.factor * layout.blocks.factor;
  for (int64_t k = 0; k < reads; ++k) {
    call.means[halo * reads + k] =
        some ? static_cast<int32_t>(layout.mean_row(slot, halo % layout.ring(), k)) : -1;
  }
}

}  // namespace segblocks::cuda

#endif  // SEGBLOCKS_CUDA_INDEX_TABLES_CUH_
