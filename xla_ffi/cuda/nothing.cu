// What an empty call launches, so that a captured graph has something to hold.

#include "cuda/kernels.h"

namespace segblocks::cuda {
namespace {

__global__ void nothing_kernel() {}

}  // namespace

cudaError_t launch_nothing(cudaStream_t stream) {
  nothing_kernel<<<1, 1, 0, stream>>>();
  return cudaGetLastError();
}

}  // namespace segblocks::cuda
