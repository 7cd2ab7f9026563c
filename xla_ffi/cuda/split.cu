// Image to packed pixels: split, and the backward of combine.

#include "cuda/grid_blocks.cuh"
#include "cuda/kernels.h"
#include "cuda/vectors.cuh"

namespace segblocks::cuda {
namespace {

template <typename T>
struct Split {
  GridBlocks blocks;
  Resampling resampling;
  const T* image;
  T* pixels;
};

// The vector of a low block at (y, x), at `from` in the image's block.
template <typename T, int kWidth>
__device__ void reduce(const Split<T>& call, const T* from, int32_t y, int32_t x, T* to) {
  const GridBlocks& blocks = call.blocks;
  VectorSum<T, kWidth> sum;
  if (!call.resampling.bilinear) {
    const T* row = from + y * blocks.factor * blocks.image_row +
                   static_cast<int64_t>(x) * blocks.factor * blocks.channels;
    for (int32_t i = 0; i < blocks.factor; ++i, row += blocks.image_row) {
      const T* pixel = row;
      for (int32_t j = 0; j < blocks.factor; ++j, pixel += blocks.channels) sum.add(pixel, 1.0f);
    }
  } else {
    const Resampling& resampling = call.resampling;
    const Span rows = resampling.readers(y, blocks.factor, blocks.block);
    const Span columns = resampling.readers(x, blocks.factor, blocks.block);
    for (int64_t row = rows.first; row <= rows.last; ++row) {
      const float weight = resampling.weight(row, y, blocks.factor, blocks.low_block);
      for (int64_t column = columns.first; column <= columns.last; ++column) {
        sum.add(from + row * blocks.image_row + column * blocks.channels,
                weight * resampling.weight(column, x, blocks.factor, blocks.low_block));
      }
    }
  }
  sum.write(call.resampling.scale, to);
}

template <typename T, int kWidth, int kRun>
__global__ void __launch_bounds__(kThreads) split_kernel(const __grid_constant__ Split<T> call) {
  const GridBlocks& blocks = call.blocks;
  for (auto index = static_cast<int32_t>(blockIdx.y); index < blocks.cells;
       index += static_cast<int32_t>(gridDim.y)) {
    const BlockPlace place = blocks.place(index);
    if (!place.some) continue;
    if (place.high) {
      copy_block<T, kRun, true>(blocks, place, call.image, call.pixels);
      continue;
    }
    const int32_t count = blocks.low_block * blocks.low_vectors.value();
    const auto step = static_cast<int32_t>(gridDim.x * blockDim.x);
    for (auto item = static_cast<int32_t>(blockIdx.x * blockDim.x + threadIdx.x); item < count;
         item += step) {
      int32_t column;
      int32_t vector;
      const int32_t y = blocks.low_vectors.divide(item, &column);
      const int32_t x = blocks.pixel_vectors.divide(column, &vector);
      reduce<T, kWidth>(call, call.image + place.image + vector * kWidth, y, x,
                        call.pixels + place.packed + static_cast<int64_t>(item) * kWidth);
    }
  }
}

}  // namespace

cudaError_t launch(cudaStream_t stream, const SplitCall& call) {
  const BlockLayout& layout = call.layout;
  return with_runs(call.element, layout, call.image, call.pixels, [&](auto vector, auto runs) {
    using V = decltype(vector);
    using T = typename V::Element;
    constexpr int kRun = decltype(runs)::width;
    const Split<T> split{grid_blocks(layout, call.slots, V::width, kRun), call.resampling,
                         static_cast<const T*>(call.image), static_cast<T*>(call.pixels)};
    const int64_t items = std::max(layout.area(true) * layout.channels / kRun,
                                   layout.area(false) * layout.channels / V::width);
    const LaunchShape shape = blocks_shape(layout, items);
    split_kernel<T, V::width, kRun><<<shape.grid, shape.threads, 0, stream>>>(split);
    return cudaGetLastError();
  });
}

}  // namespace segblocks::cuda
