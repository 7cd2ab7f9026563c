// Kernels that go wrong, each in one way, and two that don't: what the emulator has to find.
//
// One block of 64 threads; `in` and `out` have 64 elements.

#include <cstdint>

namespace {

__device__ void copy_async(void* to, const void* from) {
  const auto shared = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;\n" ::"r"(shared), "l"(from));
}
__device__ void wait_for_copies() {
  asm volatile("cp.async.commit_group;\ncp.async.wait_group 0;\n" ::: "memory");
}

}  // namespace

extern "C" {

__global__ void right(const float* in, float* out) {
  __shared__ float shared[64];
  shared[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = shared[63 - threadIdx.x];
}

__global__ void right_copy(const float* in, float* out) {
  __shared__ float shared[64];
  copy_async(&shared[threadIdx.x], &in[threadIdx.x]);
  wait_for_copies();
  __syncthreads();
  out[threadIdx.x] = shared[63 - threadIdx.x];
}

__global__ void no_barrier(const float* in, float* out) {
  __shared__ float shared[64];
  shared[threadIdx.x] = in[threadIdx.x];
  out[threadIdx.x] = shared[63 - threadIdx.x];
}

// Within a warp, too.
__global__ void no_barrier_in_warps(const float* in, float* out) {
  __shared__ float shared[64];
  shared[threadIdx.x] = in[threadIdx.x];
  out[threadIdx.x] = shared[threadIdx.x ^ 1];
}

__global__ void overwritten(const float* in, float* out) {
  __shared__ float shared[64];
  shared[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  const float value = shared[63 - threadIdx.x];
  shared[threadIdx.x] = value;
  __syncthreads();
  out[threadIdx.x] = shared[threadIdx.x];
}

__global__ void no_wait(const float* in, float* out) {
  __shared__ float shared[64];
  copy_async(&shared[threadIdx.x], &in[threadIdx.x]);
  __syncthreads();
  out[threadIdx.x] = shared[63 - threadIdx.x];
  wait_for_copies();
}

__global__ void no_barrier_behind_copies(const float* in, float* out) {
  __shared__ float shared[64];
  copy_async(&shared[threadIdx.x], &in[threadIdx.x]);
  wait_for_copies();
  out[threadIdx.x] = shared[63 - threadIdx.x];
}

__global__ void copy_goes_on(const float* in, float* out) {
  __shared__ float shared[64];
  copy_async(&shared[threadIdx.x], &in[threadIdx.x]);
  out[threadIdx.x] = in[threadIdx.x];
}

__global__ void out_of_bounds(const float* in, float* out) {
  out[threadIdx.x] = in[threadIdx.x + 1];
}

__global__ void out_of_shared_memory(const float* in, float* out) {
  extern __shared__ float dynamic[];
  dynamic[threadIdx.x] = in[threadIdx.x];
  out[threadIdx.x] = dynamic[threadIdx.x];
}

__global__ void misaligned(const float* in, float* out) {
  const auto two = *reinterpret_cast<const float2*>(in + (threadIdx.x & 31) + 1);
  out[threadIdx.x] = two.x + two.y;
}

__global__ void written_twice(const float* in, float* out) {
  out[threadIdx.x / 2] = in[threadIdx.x];
}

__global__ void reads_results(const float* in, float* out) {
  volatile float* result = out;
  result[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  if (threadIdx.x > 64) result[0] = result[threadIdx.x ^ 1];
  if (result[threadIdx.x ^ 1] == 12345.0f) __trap();
}

__global__ void operand_written(float* in, float* out) { in[threadIdx.x] = out[threadIdx.x] = 0; }

__global__ void half_a_warp_waits(const float* in, float* out) {
  if (threadIdx.x % 32 < 16) __syncthreads();
  out[threadIdx.x] = in[threadIdx.x];
}

__global__ void one_warp_waits(const float* in, float* out) {
  if (threadIdx.x < 32) __syncthreads();
  out[threadIdx.x] = in[threadIdx.x];
}

// Poisoned memory shows.
__global__ void unwritten(const float* in, float* out) {
  __shared__ float shared[64];
  if (threadIdx.x < 60) shared[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = shared[63 - threadIdx.x];
}

}  // extern "C"
