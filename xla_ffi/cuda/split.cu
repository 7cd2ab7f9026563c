// Image to packed pixels: split, and the backward of combine.

#include "cuda/kernels.h"
#include "cuda/launch.cuh"
#include "cuda/vectors.cuh"

namespace segblocks::cuda {
namespace {

template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads) split_kernel(const SplitCall call) {
  const BlockLayout& layout = call.layout;
  const Resampling& resampling = call.resampling;
  const T* image = static_cast<const T*>(call.image);
  const auto pixels = [&](bool high) { return layout.area(high); };
  for_each_item<kWidth>(
      layout, call.slots, pixels,
      [&](const Cell& cell, int64_t slot, int64_t pixel, int64_t channel) {
        const int64_t side = layout.side(layout.is_high(slot));
        const int64_t y = pixel / side;
        const int64_t x = pixel % side;
        T* result =
            static_cast<T*>(call.pixels) + layout.pixel(slot, y, x) * layout.channels + channel;
        const auto source = [&](int64_t row, int64_t column) {
          return image + layout.image_pixel(cell, row, column) * layout.channels + channel;
        };
        if (layout.is_high(slot)) {
          store(result, load<T, kWidth>(source(y, x)));
          return;
        }
        const Span rows = resampling.readers(y, layout.factor, layout.block);
        const Span columns = resampling.readers(x, layout.factor, layout.block);
        VectorSum<T, kWidth> sum;
        for (int64_t row = rows.first; row <= rows.last; ++row) {
          const float weight = resampling.weight(row, y, layout.factor, side);
          for (int64_t column = columns.first; column <= columns.last; ++column) {
            sum.add(source(row, column),
                    weight * resampling.weight(column, x, layout.factor, side));
          }
        }
        sum.write(resampling.scale, result);
      });
}

}  // namespace

cudaError_t launch(cudaStream_t stream, const SplitCall& call) {
  return with_vectors(
      call.element, call.layout.channels, {call.image, call.pixels}, [&](auto vector) {
        using V = decltype(vector);
        const LaunchShape shape = launch_shape(call.layout, call.layout.area(true), V::width);
        split_kernel<typename V::Element, V::width><<<shape.grid, shape.threads, 0, stream>>>(call);
        return cudaGetLastError();
      });
}

}  // namespace segblocks::cuda
