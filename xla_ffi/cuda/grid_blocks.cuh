// The blocks of a grid as threads see them: 64-bit offsets of blocks, 32-bit arithmetic within one.

#ifndef SEGBLOCKS_CUDA_GRID_BLOCKS_CUH_
#define SEGBLOCKS_CUDA_GRID_BLOCKS_CUH_

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <limits>

#include "cuda/divisor.h"
#include "cuda/launch.cuh"
#include "cuda/vectors.cuh"
#include "segblocks/layout.h"

namespace segblocks::cuda {

// Where the elements of a block begin, in the images and in the packed list.
struct BlockPlace {
  bool some;  // Whether the block's slot is in range.
  bool high;
  int64_t image;
  int64_t packed;
};

struct GridBlocks {
  const int32_t* slots;
  int32_t cells;
  int32_t num_high;
  int32_t block;
  int32_t low_block;
  int32_t factor;
  int32_t channels;
  Divisor grid_height;
  Divisor grid_width;
  Divisor high_vectors;   // In a row of a high block, of channels.
  Divisor low_vectors;    // In a row of a low block.
  Divisor pixel_vectors;  // In a pixel.
  Divisor high_runs;      // In a row of a high block, of elements that are copied at once.
  int64_t image_row;      // Elements in a row of an image,
  int64_t high_block;     // in a high block,
  int64_t low_elements;   // and in all high blocks.

  __device__ BlockPlace place(int32_t index) const {
    const int32_t slot = slots[index];
    int32_t x;
    const int32_t row = grid_width.divide(index, &x);
    const bool high = slot < num_high;
    const int64_t low_area = static_cast<int64_t>(low_block) * low_block * channels;
    return {slot >= 0 && slot < cells, high,
            row * (block * image_row) + static_cast<int64_t>(x) * block * channels,
            high ? slot * high_block : low_elements + (slot - num_high) * low_area};
  }
};

// Whether positions within a block, and numbers of blocks, have 31 bits.
inline bool fits_int32(const BlockLayout& layout) {
  constexpr int64_t kMax = std::numeric_limits<int32_t>::max() / 2;
  return layout.area(true) * layout.channels <= kMax && layout.cells() <= kMax;
}

inline GridBlocks grid_blocks(const BlockLayout& layout, const int32_t* slots, int width, int run) {
  const int64_t high_block = layout.area(true) * layout.channels;
  return {slots,
          static_cast<int32_t>(layout.cells()),
          static_cast<int32_t>(layout.num_high),
          static_cast<int32_t>(layout.block),
          static_cast<int32_t>(layout.low_block()),
          static_cast<int32_t>(layout.factor),
          static_cast<int32_t>(layout.channels),
          Divisor(layout.grid_height),
          Divisor(layout.grid_width),
          Divisor(layout.block * layout.channels / width),
          Divisor(layout.low_block() * layout.channels / width),
          Divisor(layout.channels / width),
          Divisor(layout.block * layout.channels / run),
          layout.grid_width * layout.block * layout.channels,
          high_block,
          layout.num_high * high_block};
}

// Threads for the blocks of a grid: y over cells, x over the `items` of one.
inline LaunchShape blocks_shape(const BlockLayout& layout, int64_t items) {
  constexpr int64_t kMaxInGrid = 65535;
  constexpr int64_t kItems = 4;  // Of a thread: what finding its block costs is shared.
  const int64_t groups = (items + kItems * kThreads - 1) / (kItems * kThreads);
  return {dim3(static_cast<unsigned>(std::clamp<int64_t>(groups, 1, kMaxInGrid)),
               static_cast<unsigned>(std::min(layout.cells(), kMaxInGrid))),
          dim3(kThreads)};
}

// Copies a high block between the images and the packed list, this thread's share of its rows.
template <typename T, int kRun, bool kFromImage>
__device__ void copy_block(const GridBlocks& blocks, const BlockPlace& place, const T* from,
                           T* to) {
  constexpr int kBatch = 4;  // Loads in flight.
  const auto step = static_cast<int32_t>(gridDim.x * blockDim.x);
  const int32_t count = blocks.block * blocks.high_runs.value();
  const T* source = from + (kFromImage ? place.image : place.packed);
  T* target = to + (kFromImage ? place.packed : place.image);
  const auto in_image = [&](int32_t item) {
    int32_t column;
    const int32_t row = blocks.high_runs.divide(item, &column);
    return row * blocks.image_row + column * kRun;
  };
  for (auto first = static_cast<int32_t>(blockIdx.x * blockDim.x + threadIdx.x); first < count;
       first += kBatch * step) {
    Vector<T, kRun> runs[kBatch];
    int64_t image[kBatch];
#pragma unroll
    for (int k = 0; k < kBatch; ++k) {
      const int32_t item = first + k * step;
      if (item >= count) break;
      image[k] = in_image(item);
      runs[k] = load<T, kRun>(source + (kFromImage ? image[k] : int64_t{item} * kRun));
    }
#pragma unroll
    for (int k = 0; k < kBatch; ++k) {
      const int32_t item = first + k * step;
      if (item >= count) break;
      store(target + (kFromImage ? int64_t{item} * kRun : image[k]), runs[k]);
    }
  }
}

// Calls run(VectorType of channels, VectorType of runs): 16 bytes each where sizes and pointers
// allow, else single elements.
template <typename Run>
cudaError_t with_runs(Element element, const BlockLayout& layout, const void* image,
                      const void* packed, const Run& run) {
  if (!fits_int32(layout)) return cudaErrorInvalidValue;
  return with_vectors(element, layout.channels, {image, packed}, [&](auto vector) {
    using V = decltype(vector);
    if constexpr (V::width > 1) {
      return run(vector, vector);
    } else {
      return with_width<typename V::Element>(layout.block * layout.channels, {image, packed},
                                             [&](auto runs) { return run(vector, runs); });
    }
  });
}

}  // namespace segblocks::cuda

#endif  // SEGBLOCKS_CUDA_GRID_BLOCKS_CUH_
