// The tables of a mask: active pixels of all parts are counted, then numbered, then looked up.

#include <algorithm>
#include <cstdint>

#include "cuda/kernels.h"
#include "cuda/launch.cuh"
#include "cuda/mask_tables.cuh"

namespace segblocks::cuda {
namespace {

static_assert(MaskTableLayout::kPart % kThreads == 0);

__global__ void __launch_bounds__(kThreads)
    count_kernel(const __grid_constant__ MaskTablesCall call) {
  const MaskPart part(call.layout, blockIdx.x);
  const int32_t count = for_each_active(call, part, [](int32_t, int32_t, bool) {});
  if (threadIdx.x == 0) call.parts[blockIdx.x] = count;
}

__global__ void __launch_bounds__(kThreads)
    number_kernel(const __grid_constant__ MaskTablesCall call) {
  const MaskPart part(call.layout, blockIdx.x);
  const int32_t before = sum(call.parts + part.first_of_kind, part.index);
  const int32_t count =
      for_each_active(call, part, [&](int32_t pixel, int32_t number, bool active) {
        number += before;
        if (!part.dilated) {
          if (active) call.sites[number] = pixel;
          return;
        }
        call.rows[pixel] = active ? number : -1;
        if (active) write_first(call, pixel, number);
      });
  if (threadIdx.x > 0 || !part.is_last(call.layout)) return;
  int32_t* counts = part.dilated ? call.dilated_counts : call.counts;
  counts[0] = before + count;
  counts[1] = 0;
}

__global__ void __launch_bounds__(kThreads)
    second_kernel(const __grid_constant__ MaskTablesCall call) {
  const int32_t entries = call.counts[0] * static_cast<int32_t>(call.layout.second.area());
  const auto step = static_cast<int32_t>(gridDim.x * blockDim.x);
  for (auto entry = static_cast<int32_t>(blockIdx.x * blockDim.x + threadIdx.x); entry < entries;
       entry += step) {
    write_second(call, entry);
  }
}

}  // namespace

cudaError_t launch(cudaStream_t stream, const MaskTablesCall& call) {
  constexpr int64_t kMaxBlocks = 1024;
  const MaskTableLayout& layout = call.layout;
  const auto parts = static_cast<unsigned>(layout.num_parts());
  count_kernel<<<parts, kThreads, 0, stream>>>(call);
  number_kernel<<<parts, kThreads, 0, stream>>>(call);
  const int64_t entries = layout.num_pixels() * layout.second.area();
  const int64_t blocks = std::clamp<int64_t>((entries + kThreads - 1) / kThreads, 1, kMaxBlocks);
  second_kernel<<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(call);
  return cudaGetLastError();
}

}  // namespace segblocks::cuda
