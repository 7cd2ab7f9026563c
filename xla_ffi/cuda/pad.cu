// Padded blocks from packed pixels, and the backward: packed pixels gather from padded blocks.

#include "cuda/kernels.h"
#include "cuda/launch.cuh"
#include "cuda/vectors.cuh"

namespace segblocks::cuda {
namespace {

template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads, 1) pad_kernel(const PadCall call) {
  const PadLayout& layout = call.layout;
  const int64_t channels = layout.blocks.channels;
  const T* packed = static_cast<const T*>(call.pixels);
  const auto pixels = [&](bool high) { return layout.area(high); };
  for_each_item<kWidth>(layout.blocks, call.slots, pixels,
                        [&](const Cell& cell, int64_t slot, int64_t pixel, int64_t channel) {
                          const bool high = layout.blocks.is_high(slot);
                          const int64_t i = pixel / layout.width(high);
                          const int64_t j = pixel % layout.width(high);
                          T* result = static_cast<T*>(high ? call.high : call.low) +
                                      layout.padded_pixel(slot, i, j) * channels + channel;
                          const Source source = layout.source(call.slots, cell, high, i, j);
                          const T* first = packed + source.pixel * channels + channel;
                          if (source.square == 1) {
                            store(result, load<T, kWidth>(first));
                            return;
                          }
                          VectorSum<T, kWidth> sum;
                          for (int64_t y = 0; y < source.square; ++y) {
                            for (int64_t x = 0; x < source.square; ++x) {
                              sum.add(first + (y * source.row_stride + x) * channels, 1.0f);
                            }
                          }
                          const int64_t count = source.square * source.square;
                          sum.write(count == 0 ? 0.0f : 1.0f / static_cast<float>(count), result);
                        });
}

template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads, 1) pad_backward_kernel(const PadBackwardCall call) {
  const PadLayout& layout = call.layout;
  const int64_t channels = layout.blocks.channels;
  const auto pixels = [&](bool high) { return layout.blocks.area(high); };
  for_each_item<kWidth>(
      layout.blocks, call.slots, pixels,
      [&](const Cell& cell, int64_t slot, int64_t pixel, int64_t channel) {
        const int64_t side = layout.blocks.side(layout.blocks.is_high(slot));
        const int64_t y = pixel / side;
        const int64_t x = pixel % side;
        VectorSum<T, kWidth> sum;
        layout.for_each_reader(call.slots, cell, slot, y, x,
                               [&](int64_t reader, int64_t padded, float weight) {
                                 const bool high = layout.blocks.is_high(reader);
                                 const T* from = static_cast<const T*>(high ? call.high : call.low);
                                 sum.add(from + padded * channels + channel, weight);
                               });
        T* result = static_cast<T*>(call.pixels);
        sum.write(1.0f, result + layout.blocks.pixel(slot, y, x) * channels + channel);
      });
}

}  // namespace

cudaError_t launch(cudaStream_t stream, const PadCall& call) {
  const PadLayout& layout = call.layout;
  const int64_t max_pixels = std::max(layout.area(true), layout.area(false));
  return with_vectors(
      call.element, layout.blocks.channels, {call.pixels, call.high, call.low}, [&](auto vector) {
        using V = decltype(vector);
        const LaunchShape shape = launch_shape(layout.blocks, max_pixels, V::width);
        pad_kernel<typename V::Element, V::width><<<shape.grid, shape.threads, 0, stream>>>(call);
        return cudaGetLastError();
      });
}

cudaError_t launch(cudaStream_t stream, const PadBackwardCall& call) {
  const BlockLayout& blocks = call.layout.blocks;
  return with_vectors(call.element, blocks.channels, {call.high, call.low, call.pixels},
                      [&](auto vector) {
                        using V = decltype(vector);
                        const LaunchShape shape = launch_shape(blocks, blocks.area(true), V::width);
                        pad_backward_kernel<typename V::Element, V::width>
                            <<<shape.grid, shape.threads, 0, stream>>>(call);
                        return cudaGetLastError();
                      });
}

}  // namespace segblocks::cuda
