// Packed pixels to image: combine, and the backward of split.

#include "cuda/grid_blocks.cuh"
#include "cuda/kernels.h"
#include "cuda/vectors.cuh"

namespace segblocks::cuda {
namespace {

constexpr int32_t kRows = 8;  // Of an image, that a thread of a low block writes below each other.

template <typename T>
struct Combine {
  GridBlocks blocks;
  Resampling resampling;
  Divisor factor;
  Divisor twice_factor;
  float unit;  // 1 / (2 * factor).
  const T* pixels;
  T* image;
};

// Resampling::taps(), whose second tap is behind the first; it is not read where its weight is 0.
struct NextTaps {
  int32_t first;
  float first_weight;
  float second_weight;
};

template <typename T>
__device__ NextTaps next_taps(const Combine<T>& call, int32_t position) {
  if (!call.resampling.bilinear) return {call.factor.divide(position), 1.0f, 0.0f};
  const int32_t center = 2 * position + 1 - call.blocks.factor;
  if (center <= 0) return {0, 1.0f, 0.0f};
  int32_t rest;
  const int32_t first = call.twice_factor.divide(center, &rest);
  if (first >= call.blocks.low_block - 1) return {call.blocks.low_block - 1, 1.0f, 0.0f};
  const float weight = static_cast<float>(rest) * call.unit;
  return {first, 1.0f - weight, weight};
}

// Rows first .. first+kRows-1 of a low block, one vector each.
template <typename T, int kWidth>
__device__ void enlarge(const Combine<T>& call, const T* from, int32_t first, int32_t x, T* to) {
  const GridBlocks& blocks = call.blocks;
  const NextTaps columns = next_taps(call, x);
  const int32_t pitch = blocks.low_block * blocks.channels;
  from += columns.first * blocks.channels;
  // A row of low pixels, enlarged along x.
  const auto widened = [&](int32_t row) {
    VectorSum<T, kWidth> sum;
    const T* pixel = from + row * pitch;
    sum.add(pixel, columns.first_weight);
    if (columns.second_weight != 0.0f) sum.add(pixel + blocks.channels, columns.second_weight);
    return sum;
  };
  VectorSum<T, kWidth> above;
  VectorSum<T, kWidth> below;
  int32_t above_row = -1;
  int32_t below_row = -1;
  const int32_t end = min(first + kRows, blocks.block);
  for (int32_t y = first; y < end; ++y, to += blocks.image_row) {
    const NextTaps rows = next_taps(call, y);
    if (above_row != rows.first) {
      above = below_row == rows.first ? below : widened(rows.first);
      above_row = rows.first;
    }
    VectorSum<T, kWidth> sum;
#pragma unroll
    for (int k = 0; k < kWidth; ++k) sum.sums[k] = rows.first_weight * above.sums[k];
    if (rows.second_weight != 0.0f) {
      if (below_row != rows.first + 1) {
        below_row = rows.first + 1;
        below = widened(below_row);
      }
#pragma unroll
      for (int k = 0; k < kWidth; ++k) sum.sums[k] += rows.second_weight * below.sums[k];
    }
    sum.write(call.resampling.scale, to);
  }
}

template <typename T, int kWidth, int kRun>
__global__ void __launch_bounds__(kThreads)
    combine_kernel(const __grid_constant__ Combine<T> call) {
  const GridBlocks& blocks = call.blocks;
  for (auto index = static_cast<int32_t>(blockIdx.y); index < blocks.cells;
       index += static_cast<int32_t>(gridDim.y)) {
    const BlockPlace place = blocks.place(index);
    if (!place.some) continue;
    if (place.high) {
      copy_block<T, kRun, false>(blocks, place, call.pixels, call.image);
      continue;
    }
    const int32_t count = (blocks.block + kRows - 1) / kRows * blocks.high_vectors.value();
    const auto step = static_cast<int32_t>(gridDim.x * blockDim.x);
    for (auto item = static_cast<int32_t>(blockIdx.x * blockDim.x + threadIdx.x); item < count;
         item += step) {
      int32_t column;
      int32_t vector;
      const int32_t y = blocks.high_vectors.divide(item, &column) * kRows;
      const int32_t x = blocks.pixel_vectors.divide(column, &vector);
      enlarge<T, kWidth>(call, call.pixels + place.packed + vector * kWidth, y, x,
                         call.image + place.image + y * blocks.image_row + column * kWidth);
    }
  }
}

}  // namespace

cudaError_t launch(cudaStream_t stream, const CombineCall& call) {
  const BlockLayout& layout = call.layout;
  return with_runs(call.element, layout, call.image, call.pixels, [&](auto vector, auto runs) {
    using V = decltype(vector);
    using T = typename V::Element;
    constexpr int kRun = decltype(runs)::width;
    const Combine<T> combine{grid_blocks(layout, call.slots, V::width, kRun),
                             call.resampling,
                             Divisor(layout.factor),
                             Divisor(2 * layout.factor),
                             1.0f / static_cast<float>(2 * layout.factor),
                             static_cast<const T*>(call.pixels),
                             static_cast<T*>(call.image)};
    const int64_t high = layout.area(true) * layout.channels / kRun;
    const int64_t low = layout.area(true) * layout.channels / V::width / 2;
    const LaunchShape shape = blocks_shape(layout, std::max(high, low));
    combine_kernel<T, V::width, kRun><<<shape.grid, shape.threads, 0, stream>>>(combine);
    return cudaGetLastError();
  });
}

}  // namespace segblocks::cuda
