// How blocks, pixels and channels are spread over threads.

#ifndef SEGBLOCKS_CUDA_ITEMS_CUH_
#define SEGBLOCKS_CUDA_ITEMS_CUH_

#include <algorithm>
#include <cstdint>

#include "segblocks/layout.h"

namespace segblocks::cuda {

constexpr int kThreads = 256;

struct LaunchShape {
  dim3 grid;
  dim3 threads;
};

// A row of blocks of threads for each cell: x runs over channels, then pixels.
//
// Cells with fewer pixels than `most_pixels` leave their surplus blocks of threads at once.
inline LaunchShape launch_shape(const BlockLayout& layout, int64_t most_pixels, int width) {
  constexpr int64_t kMostInGrid = 65535;
  const int64_t vectors = layout.channels / width;
  int64_t across = 1;
  while (across < vectors && across < kThreads) across *= 2;
  const int64_t down = kThreads / across;
  const int64_t groups = std::max<int64_t>((most_pixels + down - 1) / down, 1);
  return {dim3(static_cast<unsigned>(std::min(groups, kMostInGrid)),
               static_cast<unsigned>(std::min(layout.cells(), kMostInGrid))),
          dim3(static_cast<unsigned>(across), static_cast<unsigned>(down))};
}

// Calls body(cell, slot, pixel, first channel) for this thread's share of the pixels 0 ..
// pixels(slot)-1 of every block whose slot is in range.
template <int kWidth, typename Pixels, typename Body>
__device__ inline void for_each_item(const BlockLayout& layout, const int32_t* slots,
                                     const Pixels& pixels, const Body& body) {
  const int64_t pixel_step = static_cast<int64_t>(gridDim.x) * blockDim.y;
  const int64_t first_pixel = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  const int64_t channel_step = static_cast<int64_t>(blockDim.x) * kWidth;
  for (int64_t index = blockIdx.y; index < layout.cells(); index += gridDim.y) {
    const int64_t slot = slots[index];
    if (!layout.has_slot(slot)) continue;
    const int64_t count = pixels(layout.is_high(slot));
    if (first_pixel >= count) continue;
    const Cell cell = layout.cell(index);
    for (int64_t pixel = first_pixel; pixel < count; pixel += pixel_step) {
      for (int64_t channel = static_cast<int64_t>(threadIdx.x) * kWidth; channel < layout.channels;
           channel += channel_step) {
        body(cell, slot, pixel, channel);
      }
    }
  }
}

}  // namespace segblocks::cuda

#endif  // SEGBLOCKS_CUDA_ITEMS_CUH_
