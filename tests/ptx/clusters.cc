// Shared memory of the blocks of a cluster.

#include "ptx/memory.h"

namespace segblocks::ptx {

void Memory::end_warp(int warp) {
  const int block = warp / (warps_ / blocks_);
  if (--alive_[block] > 0 || blocks_ == 1) return;
  // With its last warp the block's shared memory goes.
  for (size_t at = 0; at < shared_bytes_ / 2; ++at) {
    const Cell& cell = cells_[static_cast<size_t>(block) * kSharedBytes / 2 + at];
    for (int i = 0; i < 2; ++i) {
      const int32_t reader = cell.readers[i];
      if (reader < 0 || reader / kLanes / (warps_ / blocks_) == block) continue;
      if (!before(reader, cell.read_clocks[i], warp * kLanes)) {
        fail("race: a block ends while thread " + std::to_string(reader) +
                 " of its cluster reads its shared address " + std::to_string(2 * at),
             warp * kLanes);
      }
    }
  }
}

uint32_t Memory::shared_of(uint32_t block, uint32_t address, int thread) const {
  if (block >= static_cast<uint32_t>(blocks_)) fail("mapa of a block beyond the cluster", thread);
  return (block + 1) << kBlockShift | address;
}

size_t Memory::place_of(uint64_t address, int thread) const {
  const auto own = static_cast<uint64_t>(thread / kLanes / (warps_ / blocks_));
  const uint64_t block = address >> kBlockShift == 0 ? own : (address >> kBlockShift) - 1;
  if (block >= static_cast<uint64_t>(blocks_)) fail("shared address beyond the cluster", thread);
  if (alive_[block] == 0) fail("access to shared memory of a block that has ended", thread);
  return block * kSharedBytes + (address & ((1 << kBlockShift) - 1));
}

}  // namespace segblocks::ptx
