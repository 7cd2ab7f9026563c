// Kernels that go wrong, each in one way, and some that don't: what the emulator has to find.
//
// One block of 64 threads, or a cluster of two blocks of 32; products are those of a warp group of
// 128. `in` and `out` have 64 elements.

#include <cuda_bf16.h>

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

enum class Product {
  kRight,
  kOfShared,  // Both factors.
  kOfCopies,
  kSumsReadEarly,
  kOverwritten,
  kNotFenced,
  kCopiesNotFenced,
  kFencedBehindBarrier,
  kRegistersNotFenced,
  kRegistersWritten,
  kNoBarrier,
  kNotSwizzled,
  kFewWarps,
  kNoWait,
};

// Eight elements along a row lie together, with the 128 bytes of a row swizzled.
__device__ int swizzled(int row, int column) {
  return row * 64 + (column / 8 ^ row % 8) * 8 + column % 8;
}
__device__ uint64_t descriptor(const __nv_bfloat16* matrix) {
  const uint64_t at = __cvta_generic_to_shared(matrix);
  return at >> 4 | uint64_t{1024 >> 4} << 32 | uint64_t{1} << 62;
}

#define SEGBLOCKS_MULTIPLY                                                                      \
  "{\n.reg .pred all;\nsetp.eq.b32 all, 0, 0;\n"                                                \
  "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "                                       \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, " \
  "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
#define SEGBLOCKS_FOUR(i) "+f"(sums[i]), "+f"(sums[i + 1]), "+f"(sums[i + 2]), "+f"(sums[i + 3])
#define SEGBLOCKS_REGISTERS                                                                        \
  SEGBLOCKS_FOUR(0), SEGBLOCKS_FOUR(4), SEGBLOCKS_FOUR(8), SEGBLOCKS_FOUR(12), SEGBLOCKS_FOUR(16), \
      SEGBLOCKS_FOUR(20), SEGBLOCKS_FOUR(24), SEGBLOCKS_FOUR(28)

// A product of 64 x 16 by 16 x 64, of which column 37 is `in` in reverse: term 5 alone is not zero.
template <Product kKind>
__device__ void multiply(const float* in, float* out) {
  __shared__ __align__(1024) __nv_bfloat16 left[64 * 64];
  __shared__ __align__(1024) __nv_bfloat16 right[16 * 64];
  const int thread = static_cast<int>(threadIdx.x);
  const auto zero = __float2bfloat16_rn(0.0f);
  const auto value_of = [&](int row, int k) {
    return k == 5 ? __float2bfloat16_rn(in[63 - row]) : zero;
  };
  for (int i = thread; i < 64 * 16; i += 128) {
    const int row = i / 16;
    const int k = i % 16;
    left[kKind == Product::kNotSwizzled ? row * 64 + k : swizzled(row, k)] = value_of(row, k);
  }
  constexpr bool kCopied = kKind == Product::kOfCopies || kKind == Product::kCopiesNotFenced;
  for (int i = thread; i < 16 * 32; i += 128) {
    const int k = i / 32;
    const int column = i % 32 * 2;
    __nv_bfloat16* const to = &right[swizzled(k, column)];
    to[0] = zero;
    // Of 1.0f the upper half is one of bfloat16, the lower one is zero.
    if (kCopied && k == 5 && column == 36) {
      copy_async(to, &in[1]);
    } else {
      to[1] = k == 5 && column == 36 ? __float2bfloat16_rn(1.0f) : zero;
    }
  }
  if (kCopied) wait_for_copies();
  constexpr bool kLate = kKind == Product::kFencedBehindBarrier;
  if (kKind != Product::kNotFenced && kKind != Product::kCopiesNotFenced && !kLate) {
    asm volatile("fence.proxy.async;" ::: "memory");
  }
  if (kKind != Product::kNoBarrier) __syncthreads();
  if (kLate) asm volatile("fence.proxy.async;" ::: "memory");

  float sums[32];
  for (float& sum : sums) sum = 0.0f;
  const int row = thread / 32 * 16 + thread % 32 / 4;
  const int two = thread % 4 * 2;
  uint32_t words[4];
  for (int i = 0; i < 4; ++i) {
    const __nv_bfloat162 pair{value_of(row + i % 2 * 8, two + i / 2 * 8),
                              value_of(row + i % 2 * 8, two + 1 + i / 2 * 8)};
    words[i] = *reinterpret_cast<const uint32_t*>(&pair);
  }
  if (kKind != Product::kRegistersNotFenced) {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
  }
  constexpr bool kShared = kKind == Product::kOfShared || kKind == Product::kNotSwizzled;
  if (kKind == Product::kFewWarps && thread >= 96) {
  } else if constexpr (kKind == Product::kRegistersWritten) {
    asm volatile(SEGBLOCKS_MULTIPLY "{%32, %33, %34, %35}, %36, all, 1, 1, 1;\nmov.b32 %32, 0;\n}"
                 : SEGBLOCKS_REGISTERS, "+r"(words[0]), "+r"(words[1]), "+r"(words[2]),
                   "+r"(words[3])
                 : "l"(descriptor(right))
                 : "memory");
  } else if constexpr (kShared) {
    asm volatile(SEGBLOCKS_MULTIPLY "%32, %33, all, 1, 1, 0, 1;\n}"
                 : SEGBLOCKS_REGISTERS
                 : "l"(descriptor(left)), "l"(descriptor(right))
                 : "memory");
  } else {
    asm volatile(SEGBLOCKS_MULTIPLY "{%32, %33, %34, %35}, %36, all, 1, 1, 1;\n}"
                 : SEGBLOCKS_REGISTERS
                 : "r"(words[0]), "r"(words[1]), "r"(words[2]), "r"(words[3]),
                   "l"(descriptor(right))
                 : "memory");
  }
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
  if (kKind == Product::kOverwritten) right[thread] = zero;
  float early;
  asm volatile("add.f32 %0, %1, 0f3f800000;" : "=f"(early) : "f"(sums[17]) : "memory");
  if (kKind != Product::kNoWait) {
    asm volatile("wgmma.wait_group.sync.aligned 0;" : SEGBLOCKS_REGISTERS : : "memory");
  }
  if (thread % 4 == 2) {
    out[row] = kKind == Product::kSumsReadEarly ? early - 1.0f : sums[17];
    out[row + 8] = sums[19];
  }
}

}  // namespace

extern "C" {

#define SEGBLOCKS_PRODUCT(name, kind) \
  __global__ void name(const float* in, float* out) { multiply<Product::kind>(in, out); }
SEGBLOCKS_PRODUCT(right_product, kRight)
SEGBLOCKS_PRODUCT(right_product_of_shared, kOfShared)
SEGBLOCKS_PRODUCT(right_product_of_copies, kOfCopies)
SEGBLOCKS_PRODUCT(product_of_sums_read_early, kSumsReadEarly)
SEGBLOCKS_PRODUCT(product_overwritten, kOverwritten)
SEGBLOCKS_PRODUCT(product_not_fenced, kNotFenced)
SEGBLOCKS_PRODUCT(product_of_copies_not_fenced, kCopiesNotFenced)
SEGBLOCKS_PRODUCT(product_fenced_behind_barrier, kFencedBehindBarrier)
SEGBLOCKS_PRODUCT(product_of_registers_not_fenced, kRegistersNotFenced)
SEGBLOCKS_PRODUCT(product_of_registers_written, kRegistersWritten)
SEGBLOCKS_PRODUCT(product_without_barrier, kNoBarrier)
SEGBLOCKS_PRODUCT(product_not_swizzled, kNotSwizzled)
SEGBLOCKS_PRODUCT(product_of_few_warps, kFewWarps)
SEGBLOCKS_PRODUCT(product_not_waited_for, kNoWait)

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
