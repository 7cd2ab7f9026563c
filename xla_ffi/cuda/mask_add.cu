// Rows added to those of a mask's active pixels, in place.

#include <cstdint>

#include "cuda/epilogue.cuh"
#include "cuda/kernels.h"
#include "cuda/launch.cuh"

namespace segblocks::cuda {
namespace {

template <typename T>
struct MaskAdd {
  int32_t pixels;
  int32_t channels;
  Activation activation;
  bool rest;
  const bool* mask;
  const int32_t* sites;
  const int32_t* counts;
  const T* rows;
  T* out;
};

// Sites out of range are skipped.
template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads)
    mask_add_kernel(const __grid_constant__ MaskAdd<T> call) {
  const int32_t given = call.counts[0];
  const int32_t count = given < 0 ? 0 : given < call.pixels ? given : call.pixels;
  const int32_t all = call.rest ? count + call.pixels : count;
  for_each_vector<kWidth>(all, call.channels, [&](int32_t item, int32_t channel) {
    const bool active = item < count;
    const int32_t pixel = active ? call.sites[item] : item - count;
    if (pixel < 0 || pixel >= call.pixels || call.mask[pixel] != active) return;
    T* to = call.out + static_cast<int64_t>(pixel) * call.channels + channel;
    float values[kWidth];
    load_floats_of(to, values);
    if (active) {
      float added[kWidth];
      load_floats_of(call.rows + static_cast<int64_t>(item) * call.channels + channel, added);
#pragma unroll
      for (int k = 0; k < kWidth; ++k) values[k] += added[k];
    }
    activate(call.activation, values);
    store_packed<kWidth>(to, from_floats<T>(values));
  });
}

}  // namespace

cudaError_t launch(cudaStream_t stream, const MaskAddCall& call) {
  return with_indexed_vectors(call.element, call.channels, {call.rows, call.out}, [&](auto vector) {
    using V = decltype(vector);
    using T = typename V::Element;
    const bool rest = call.rest && call.activation != Activation::kNone;
    const LaunchShape shape = item_shape((rest ? 2 : 1) * call.pixels, call.channels, V::width);
    const MaskAdd<T> add{static_cast<int32_t>(call.pixels),
                         static_cast<int32_t>(call.channels),
                         call.activation,
                         rest,
                         call.mask,
                         call.sites,
                         call.counts,
                         static_cast<const T*>(call.rows),
                         static_cast<T*>(call.out)};
    mask_add_kernel<T, V::width><<<shape.grid, shape.threads, 0, stream>>>(add);
    return cudaGetLastError();
  });
}

}  // namespace segblocks::cuda
