// What threads do for the tables of a mask. Numbers fit in 32 bits: the handler has checked that.

#ifndef SEGBLOCKS_CUDA_MASK_TABLES_CUH_
#define SEGBLOCKS_CUDA_MASK_TABLES_CUH_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/launch.cuh"
#include "segblocks/calls.h"

namespace segblocks::cuda {

constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kLanes = 32;
constexpr int kWarps = kThreads / kLanes;

// The pixels of a block of threads: those of the dilated mask are in the first parts.
struct MaskPart {
  bool dilated;
  int32_t index;  // Among the parts of its kind.
  int32_t first_of_kind;
  int32_t first;  // Pixels, up to `end`.
  int32_t end;

  __device__ MaskPart(const MaskTableLayout& layout, unsigned part) {
    constexpr auto kPart = static_cast<int32_t>(MaskTableLayout::kPart);
    const auto dilated_parts = static_cast<int32_t>(layout.dilated_parts());
    index = static_cast<int32_t>(part);
    dilated = index < dilated_parts;
    first_of_kind = dilated ? 0 : dilated_parts;
    index -= first_of_kind;
    first = index * kPart;
    const auto pixels = static_cast<int32_t>(dilated ? layout.num_dilated() : layout.num_pixels());
    end = first + kPart < pixels ? first + kPart : pixels;
  }

  __device__ bool is_last(const MaskTableLayout& layout) const {
    return index + 1 == (dilated ? layout.dilated_parts() : layout.mask_parts());
  }
};

// A pixel's place in maps of height x width.
struct Place {
  int32_t image;
  int32_t y;
  int32_t x;

  __device__ Place(int32_t pixel, int64_t height, int64_t width) {
    const auto rows = static_cast<int32_t>(height);
    const auto columns = static_cast<int32_t>(width);
    const int32_t row = pixel / columns;
    x = pixel - row * columns;
    image = row / rows;
    y = row - image * rows;
  }
};

__device__ inline bool is_dilated(const MaskTablesCall& call, int32_t pixel) {
  const MaskTableLayout& layout = call.layout;
  const Place place(pixel, layout.second.height, layout.second.width);
  const auto stride = static_cast<int32_t>(layout.stride);
  const bool* mask = call.mask + place.image * layout.area();
  for (int32_t y = place.y - 1; y <= place.y + 1; ++y) {
    if (y < 0 || y % stride != 0 || y / stride >= layout.height) continue;
    for (int32_t x = place.x - 1; x <= place.x + 1; ++x) {
      if (x < 0 || x % stride != 0 || x / stride >= layout.width) continue;
      if (mask[y / stride * layout.width + x / stride]) return true;
    }
  }
  return false;
}

// Calls body(pixel, number, whether it is active) for a thread's pixels, where `number` counts the
// part's active pixels before it; returns how many there are in all. All threads of a block go in.
template <typename Body>
__device__ int32_t for_each_active(const MaskTablesCall& call, const MaskPart& part,
                                   const Body& body) {
  __shared__ int32_t warps[kWarps];
  const int warp = static_cast<int>(threadIdx.x) / kLanes;
  const unsigned lane = threadIdx.x % kLanes;
  int32_t all = 0;
  for (int32_t first = part.first; first < part.end; first += kThreads) {
    const int32_t pixel = first + static_cast<int32_t>(threadIdx.x);
    const bool inside = pixel < part.end;
    const bool active = inside && (part.dilated ? is_dilated(call, pixel) : call.mask[pixel]);
    const unsigned votes = __ballot_sync(kAllLanes, active);
    if (lane == 0) warps[warp] = __popc(votes);
    __syncthreads();
    int32_t number = all + __popc(votes & ((1u << lane) - 1));
    for (int w = 0; w < kWarps; ++w) {
      if (w < warp) number += warps[w];
      all += warps[w];
    }
    if (inside) body(pixel, number, active);
    __syncthreads();
  }
  return all;
}

// The sum of so many numbers, in all threads of a block.
__device__ inline int32_t sum(const int32_t* numbers, int32_t count) {
  __shared__ int32_t sums[kThreads];
  int32_t mine = 0;
  for (auto i = static_cast<int32_t>(threadIdx.x); i < count; i += kThreads) mine += numbers[i];
  sums[threadIdx.x] = mine;
  __syncthreads();
  for (int half = kThreads / 2; half > 0; half /= 2) {
    if (static_cast<int>(threadIdx.x) < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    __syncthreads();
  }
  return sums[0];
}

// Where a window of an output pixel begins.
struct Corner {
  int32_t y;
  int32_t x;

  __device__ Corner(const MapWindow& window, const Place& place)
      : y(place.y * static_cast<int32_t>(window.stride) - static_cast<int32_t>(window.padding)),
        x(place.x * static_cast<int32_t>(window.stride) - static_cast<int32_t>(window.padding)) {}
};

// The pixel of a map, counted over all images.
__device__ inline int32_t map_pixel(const MapWindow& window, int32_t image, int32_t y, int32_t x) {
  const auto height = static_cast<int32_t>(window.height);
  return (image * height + y) * static_cast<int32_t>(window.width) + x;
}

__device__ inline void write_first(const MaskTablesCall& call, int32_t pixel, int32_t number) {
  const MapWindow& window = call.layout.first;
  const Place place(pixel, call.layout.second.height, call.layout.second.width);
  const Corner corner(window, place);
  const auto side = static_cast<int32_t>(window.side);
  int32_t* out = call.first + number * side * side;
  for (int32_t y = corner.y; y < corner.y + side; ++y) {
    for (int32_t x = corner.x; x < corner.x + side; ++x) {
      *out++ = window.inside(y, x) ? map_pixel(window, place.image, y, x) : -1;
    }
  }
}

__device__ inline void write_second(const MaskTablesCall& call, int32_t entry) {
  const MapWindow& window = call.layout.second;
  const auto side = static_cast<int32_t>(window.side);
  const int32_t number = entry / (side * side);
  const int32_t tap = entry - number * side * side;
  const Place place(call.sites[number], call.layout.height, call.layout.width);
  const Corner corner(window, place);
  const int32_t y = corner.y + tap / side;
  const int32_t x = corner.x + tap % side;
  call.second[entry] = window.inside(y, x) ? call.rows[map_pixel(window, place.image, y, x)] : -1;
}

}  // namespace segblocks::cuda

#endif  // SEGBLOCKS_CUDA_MASK_TABLES_CUH_
