// Packed pixels to image: combine, and the backward of split.

#include "cuda/kernels.h"
#include "cuda/launch.cuh"
#include "cuda/vectors.cuh"

namespace segblocks::cuda {
namespace {

template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads) combine_kernel(const CombineCall call) {
  const BlockLayout& layout = call.layout;
  const Resampling& resampling = call.resampling;
  const T* packed = static_cast<const T*>(call.pixels);
  const auto pixels = [&](bool) { return layout.area(true); };
  for_each_item<kWidth>(
      layout, call.slots, pixels,
      [&](const Cell& cell, int64_t slot, int64_t pixel, int64_t channel) {
        const int64_t y = pixel / layout.block;
        const int64_t x = pixel % layout.block;
        T* result = static_cast<T*>(call.image) + layout.image_pixel(cell, y, x) * layout.channels +
                    channel;
        const auto source = [&](int64_t row, int64_t column) {
          return packed + layout.pixel(slot, row, column) * layout.channels + channel;
        };
        if (layout.is_high(slot)) {
          store(result, load<T, kWidth>(source(y, x)));
          return;
        }
        const Taps rows = resampling.taps(y, layout.factor, layout.low_block());
        const Taps columns = resampling.taps(x, layout.factor, layout.low_block());
        VectorSum<T, kWidth> sum;
        const auto add_row = [&](int64_t row, float weight) {
          sum.add(source(row, columns.first), weight * columns.first_weight);
          if (columns.second_weight == 0.0f) return;
          sum.add(source(row, columns.second), weight * columns.second_weight);
        };
        add_row(rows.first, rows.first_weight);
        if (rows.second_weight != 0.0f) add_row(rows.second, rows.second_weight);
        sum.write(resampling.scale, result);
      });
}

}  // namespace

cudaError_t launch(cudaStream_t stream, const CombineCall& call) {
  return with_vectors(
      call.element, call.layout.channels, {call.pixels, call.image}, [&](auto vector) {
        using V = decltype(vector);
        const LaunchShape shape = launch_shape(call.layout, call.layout.area(true), V::width);
        combine_kernel<typename V::Element, V::width>
            <<<shape.grid, shape.threads, 0, stream>>>(call);
        return cudaGetLastError();
      });
}

}  // namespace segblocks::cuda
