// How the kernels of indexed operations are started.

#ifndef SEGBLOCKS_CUDA_INDEXED_LAUNCH_CUH_
#define SEGBLOCKS_CUDA_INDEXED_LAUNCH_CUH_

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <initializer_list>

#include "cuda/vectors.cuh"
#include "segblocks/indexed_calls.h"

namespace segblocks::cuda {

constexpr int kItemThreads = 256;

// Computes the ghost rows; without any, does nothing.
cudaError_t launch_ghosts(cudaStream_t stream, const IndexedRows& input);

// Convolutions whose ghosts are there: in bfloat16, in float32, and depthwise in both.
cudaError_t launch_tiles(cudaStream_t stream, const IndexedConvCall& call);
cudaError_t launch_plain(cudaStream_t stream, const IndexedConvCall& call);
cudaError_t launch_depthwise(cudaStream_t stream, const IndexedConvCall& call);

struct ItemShape {
  dim3 grid;
  dim3 threads;
};

// Threads for rows of channels: x runs over vectors of channels, y over rows. Fewer blocks than
// rows suffice, since the live rows may be far fewer than `most_rows`.
inline ItemShape item_shape(int64_t most_rows, int64_t channels, int width) {
  constexpr int64_t kMostBlocks = 4096;
  int64_t across = 1;
  while (across < channels / width && across < kItemThreads) across *= 2;
  const int64_t down = kItemThreads / across;
  const int64_t blocks = std::clamp<int64_t>((most_rows + down - 1) / down, 1, kMostBlocks);
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
  const int64_t most = static_cast<int64_t>(processors) * std::max(resident, 1);
  kernel<<<static_cast<unsigned>(std::min(tiles, most)), threads, shared_bytes, stream>>>(call);
  return cudaGetLastError();
}

}  // namespace segblocks::cuda

#endif  // SEGBLOCKS_CUDA_INDEXED_LAUNCH_CUH_
