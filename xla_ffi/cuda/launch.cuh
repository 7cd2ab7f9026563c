// How kernels are started, and how their work is spread over threads.

#ifndef SEGBLOCKS_CUDA_LAUNCH_CUH_
#define SEGBLOCKS_CUDA_LAUNCH_CUH_

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <initializer_list>

#include "cuda/vectors.cuh"
#include "segblocks/calls.h"

namespace segblocks::cuda {

constexpr int kThreads = 256;

// Computes the halo rows; without any, or where they are lent, does nothing.
cudaError_t launch_halos(cudaStream_t stream, const IndexedRows& input);
// Computes halos that a call lends from its finished rows; without any, does nothing.
cudaError_t launch_lent_halos(cudaStream_t stream, const IndexedConvCall& call);

// Convolutions whose halos are there: in bfloat16, in float32, and depthwise in both. The first one
// tells whether it writes the halos that it lends, too.
cudaError_t launch_tiles(cudaStream_t stream, const IndexedConvCall& call, bool* lends);
cudaError_t launch_plain(cudaStream_t stream, const IndexedConvCall& call);
cudaError_t launch_depthwise(cudaStream_t stream, const IndexedConvCall& call);

struct LaunchShape {
  dim3 grid;
  dim3 threads;
};

// A row of blocks of threads for each cell: x runs over channels, then pixels.
//
// Cells with fewer pixels than `max_pixels` leave their surplus blocks of threads at once.
inline LaunchShape launch_shape(const BlockLayout& layout, int64_t max_pixels, int width) {
  constexpr int64_t kMaxInGrid = 65535;
  const int64_t vectors = layout.channels / width;
  int64_t across = 1;
  while (across < vectors && across < kThreads) across *= 2;
  const int64_t down = kThreads / across;
  const int64_t groups = std::max<int64_t>((max_pixels + down - 1) / down, 1);
  return {dim3(static_cast<unsigned>(std::min(groups, kMaxInGrid)),
               static_cast<unsigned>(std::min(layout.cells(), kMaxInGrid))),
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

// Threads for rows of channels: x runs over vectors of channels, y over rows. Fewer blocks than
// rows suffice, since the live rows may be far fewer than `max_rows`.
inline LaunchShape item_shape(int64_t max_rows, int64_t channels, int width) {
  constexpr int64_t kMaxBlocks = 4096;
  int64_t across = 1;
  while (across < channels / width && across < kThreads) across *= 2;
  const int64_t down = kThreads / across;
  const int64_t blocks = std::clamp<int64_t>((max_rows + down - 1) / down, 1, kMaxBlocks);
  return {dim3(static_cast<unsigned>(blocks)),
          dim3(static_cast<unsigned>(across), static_cast<unsigned>(down))};
}

// Calls body(row, first channel) for this thread's share of the rows.
template <int kWidth, typename Body>
__device__ inline void for_each_vector(int32_t rows, int32_t channels, const Body& body) {
  const int32_t row_step = static_cast<int32_t>(gridDim.x * blockDim.y);
  const int32_t channel_step = static_cast<int32_t>(blockDim.x) * kWidth;
  for (int32_t row = static_cast<int32_t>(blockIdx.x * blockDim.y + threadIdx.y); row < rows;
       row += row_step) {
    for (int32_t channel = static_cast<int32_t>(threadIdx.x) * kWidth; channel < channels;
         channel += channel_step) {
      body(row, channel);
    }
  }
}

// Calls run(VectorType) for the two formats of indexed operations, as with_vectors.
template <typename Run>
cudaError_t with_indexed_vectors(Element element, int64_t channels,
                                 std::initializer_list<const void*> pointers, const Run& run) {
  switch (element) {
    case Element::kFloat32:
      return with_width<float>(channels, pointers, run);
    case Element::kBFloat16:
      return with_width<__nv_bfloat16>(channels, pointers, run);
    default:
      return cudaErrorInvalidValue;
  }
}

// Starts kernel(call) on as many blocks as the GPU holds at once, `tiles` at most.
template <typename Call>
cudaError_t launch_persistent(cudaStream_t stream, void (*kernel)(Call), const Call& call,
                              int threads, int shared_bytes, int64_t tiles) {
  int device = 0;
  int processors = 0;
  int resident = 0;
  cudaError_t status = cudaGetDevice(&device);
  if (status != cudaSuccess) return status;
  status = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  if (status != cudaSuccess) return status;
  status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
  if (status != cudaSuccess) return status;
  status = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, kernel, threads, shared_bytes);
  if (status != cudaSuccess) return status;
  const int64_t max_blocks = static_cast<int64_t>(processors) * std::max(resident, 1);
  kernel<<<static_cast<unsigned>(std::min(tiles, max_blocks)), threads, shared_bytes, stream>>>(
      call);
  return cudaGetLastError();
}

}  // namespace segblocks::cuda

#endif  // SEGBLOCKS_CUDA_LAUNCH_CUH_
