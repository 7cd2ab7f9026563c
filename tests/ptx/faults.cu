// Kernels that go wrong, each in one way, and two that don't: what the emulator has to find.
//
// One block of 64 threads, or a cluster of two blocks of 32; `in` and `out` have 64 elements.

#include <cstdint>

namespace {

__device__ void copy_async(void* to, const void* from) {
  const auto shared = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;\n" ::"r"(shared), "l"(from));
}
__device__ void wait_for_copies() {
  asm volatile("cp.async.commit_group;\ncp.async.wait_group 0;\n" ::: "memory");
}

__device__ void sync_cluster() {
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;\n" ::
                   : "memory");
}
// What the cluster's other block has there.
__device__ float of_other(const float* shared) {
  const auto own = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  float value;
  asm volatile(
      "{\n.reg .b32 at;\nmapa.shared::cluster.u32 at, %1, %2;\n"
      "ld.shared::cluster.f32 %0, [at];\n}\n"
      : "=f"(value)
      : "r"(own), "r"(blockIdx.x ^ 1)
      : "memory");
  return value;
}

}  // namespace

extern "C" {

__global__ void right_cluster(const float* in, float* out) {
  __shared__ float shared[32];
  shared[threadIdx.x] = in[32 * blockIdx.x + threadIdx.x];
  sync_cluster();
  out[32 * blockIdx.x + threadIdx.x] = of_other(&shared[31 - threadIdx.x]);
  sync_cluster();
}

__global__ void cluster_without_barrier(const float* in, float* out) {
  __shared__ float shared[32];
  shared[threadIdx.x] = in[32 * blockIdx.x + threadIdx.x];
  __syncthreads();
  out[32 * blockIdx.x + threadIdx.x] = of_other(&shared[31 - threadIdx.x]);
  sync_cluster();
}

__global__ void cluster_ends(const float* in, float* out) {
  __shared__ float shared[32];
  shared[threadIdx.x] = in[32 * blockIdx.x + threadIdx.x];
  sync_cluster();
  out[32 * blockIdx.x + threadIdx.x] = of_other(&shared[31 - threadIdx.x]);
}

// Of three blocks, where there are two.
__global__ void beyond_the_cluster(const float* in, float* out) {
  __shared__ float shared[32];
  shared[threadIdx.x] = in[32 * blockIdx.x + threadIdx.x];
  sync_cluster();
  const auto own = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  uint32_t at;
  asm volatile("mapa.shared::cluster.u32 %0, %1, 2;" : "=r"(at) : "r"(own));
  out[32 * blockIdx.x + threadIdx.x] = static_cast<float>(at);
}

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
