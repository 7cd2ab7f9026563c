// The best class of every pixel of upsampled logits.

#include <algorithm>
#include <cstdint>

#include "cuda/kernels.h"
#include "cuda/launch.cuh"
#include "cuda/upsample_argmax.cuh"

namespace segblocks::cuda {
namespace {

constexpr int kChunk = 16;  // Bytes.
constexpr uint32_t kAllLanes = 0xffffffff;
constexpr float kLarge = 1e30f;  // Differences of logits below are finite.

// Bytes of a row of a tile's pixels in shared memory: it begins as its global address does.
int64_t row_bytes(const UpsampleArgmaxCall& call) {
  const int64_t bytes = LabelTile::kPixels * call.classes * element_bytes(call.element);
  return (bytes + 2 * kChunk - 1) / kChunk * kChunk;
}

// Copies the logits first .. first+count-1 to shared memory; returns where they lie. A warp.
template <typename T>
__device__ T* stage(const UpsampleArgmaxCall& call, int64_t first, int32_t count, char* shared) {
  const int64_t bytes = call.images * call.height * call.width * call.classes * sizeof(T);
  const char* logits = static_cast<const char*>(call.logits);
  const int64_t begin = first * static_cast<int64_t>(sizeof(T));
  const int64_t start = begin / kChunk * kChunk;
  const auto offset = static_cast<int32_t>(begin - start);
  const auto end = static_cast<int32_t>(offset + count * sizeof(T));
  const auto inside = static_cast<int32_t>(min(bytes - start, int64_t{end + kChunk}));
  for (auto at = static_cast<int32_t>(threadIdx.x) * kChunk; at < end;
       at += LabelTile::kAcross * kChunk) {
    if (at + kChunk <= inside) {
      store(shared + at, load<char, kChunk>(logits + start + at));
    } else {
      for (int32_t byte = at; byte < inside; byte += sizeof(T)) {
        store(shared + byte, load<char, sizeof(T)>(logits + start + byte));
      }
    }
  }
  return reinterpret_cast<T*>(shared + offset);
}

// Grid: x and y over tiles, z over images. Threads: kAcross by the tile's rows of corners.
template <typename T, int kFactor, bool kStaged>
__global__ void __launch_bounds__(LabelTile::kAcross* LabelTile::kMaxDown)
    upsample_argmax_kernel(const __grid_constant__ UpsampleArgmaxCall call, int32_t shared_row) {
  using Tile = LabelTile;
  constexpr int kRows = kLabelRows<kFactor>;
  extern __shared__ __align__(16) char shared[];
  __shared__ uint8_t best_classes[(Tile::kMaxDown + 1) * Tile::kPixels];
  __shared__ uint8_t mixed[Tile::kMaxDown * Tile::kAcross];  // Corners between different classes.
  __shared__ uint32_t mixed_lanes[Tile::kMaxDown];
  __shared__ int32_t large_lines[Tile::kMaxDown];

  const auto height = static_cast<int32_t>(call.height);
  const auto width = static_cast<int32_t>(call.width);
  const auto classes = static_cast<int32_t>(call.classes);
  const auto down = static_cast<int32_t>(blockDim.y);
  const auto lane = static_cast<int32_t>(threadIdx.x);
  const auto line = static_cast<int32_t>(threadIdx.y);
  const auto first_x = static_cast<int32_t>(blockIdx.x) * Tile::kAcross;
  const auto first_y = static_cast<int32_t>(blockIdx.y) * down;
  const auto image = static_cast<int32_t>(blockIdx.z);
  // The tile's pixels, clamped to the image.
  const int32_t left = max(first_x - 1, 0);
  const int32_t right = min(first_x + Tile::kAcross - 1, width - 1);
  const auto row_of = [&](int32_t row) { return min(max(first_y + row - 1, 0), height - 1); };
  const auto column_of = [&](int32_t column) {
    return min(max(first_x + column - 1, 0), right) - left;
  };
  const auto first_logit = [&](int32_t row) {
    return ((static_cast<int64_t>(image) * height + row_of(row)) * width + left) * classes;
  };
  // Where rows begin in chunks: the lower bits of a product are those of its factors.
  const uint32_t first_row = static_cast<uint32_t>(image) * static_cast<uint32_t>(height);
  const auto pixel = [&](int32_t row, int32_t column) {
    const int32_t at = column_of(column) * classes;
    if constexpr (kStaged) {
      const uint32_t first = ((first_row + row_of(row)) * width + left) * classes;
      const uint32_t offset = first * static_cast<uint32_t>(sizeof(T)) % kChunk;
      return reinterpret_cast<const T*>(shared + row * shared_row + offset) + at;
    } else {
      return static_cast<const T*>(call.logits) + first_logit(row) + at;
    }
  };

  if constexpr (kStaged) {
    for (int32_t row = line; row <= down; row += down) {
      stage<T>(call, first_logit(row), (right - left + 1) * classes, shared + row * shared_row);
    }
  }
  __syncthreads();
  bool large = false;
  if constexpr (kBestBetween<T>) {
    for (int32_t i = line * Tile::kAcross + lane; i < (down + 1) * Tile::kPixels;
         i += down * Tile::kAcross) {
      float best;
      const int32_t row = i / Tile::kPixels;
      best_classes[i] =
          static_cast<uint8_t>(best_class(pixel(row, i % Tile::kPixels), classes, &best));
      large = large || best > kLarge;
    }
  }
  // A warp is a line of the tile.
  large = __any_sync(kAllLanes, large);
  if (lane == 0) large_lines[line] = large;
  __syncthreads();

  const int32_t y = first_y + line;
  const int32_t x = first_x + lane;
  bool between = false;  // Different classes.
  if (y <= height && x <= width) {
    const uint8_t* above = best_classes + line * Tile::kPixels + lane;
    const uint8_t* below = above + Tile::kPixels;
    const uint8_t label = kBestBetween<T> ? *above : uint8_t{0};
    if (kBestBetween<T> && above[1] == label && below[0] == label && below[1] == label) {
      const LabelPlace<kFactor> to(call, image, y, x);
      LabelRow<kFactor> labels;
#pragma unroll
      for (int p = 0; p < kFactor; ++p) labels.values[p] = label;
#pragma unroll
      for (int phase = 0; phase < kFactor; ++phase) to.put(phase, labels);
    } else {
      between = true;
    }
  }
  const uint32_t lanes = __ballot_sync(kAllLanes, between);
  if (lane == 0) mixed_lanes[line] = lanes;
  __syncthreads();
  int32_t before = __popc(lanes & ((1u << lane) - 1));
  int32_t all = 0;
  large = false;
  for (int32_t i = 0; i < down; ++i) {
    const int32_t count = __popc(mixed_lanes[i]);
    before += i < line ? count : 0;
    all += count;
    large = large || large_lines[i] != 0;
  }
  if (between) mixed[before] = static_cast<uint8_t>(line * Tile::kAcross + lane);
  __syncthreads();

  constexpr int kParts = kFactor / kRows;
  const int32_t items = all * kParts;
  for (int32_t item = line * Tile::kAcross + lane; item < items; item += down * Tile::kAcross) {
    const int32_t place = mixed[item / kParts];
    const int32_t row = place / Tile::kAcross;
    const int32_t column = place % Tile::kAcross;
    const int first_phase = item % kParts * kRows;
    const Corner<T> corner{pixel(row, column), pixel(row, column + 1), pixel(row + 1, column),
                           pixel(row + 1, column + 1)};
    LabelRow<kFactor> labels[kRows];
    if (!kBestBetween<T> || large) {
      find_labels<T, kFactor, true>(corner, classes, first_phase, labels);
    } else {
      find_labels<T, kFactor, false>(corner, classes, first_phase, labels);
    }
    const LabelPlace<kFactor> to(call, image, first_y + row, first_x + column);
#pragma unroll
    for (int i = 0; i < kRows; ++i) to.put(first_phase + i, labels[i]);
  }
}

template <typename T, int kFactor>
cudaError_t launch_tiles(cudaStream_t stream, const UpsampleArgmaxCall& call) {
  constexpr int64_t kMaxInGrid = 65535;
  constexpr int64_t kMaxShared = 40 << 10;  // Several blocks on a multiprocessor.
  constexpr int64_t kDown = LabelTile::kMaxDown;
  const int64_t row = row_bytes(call);
  const int64_t across = call.width / LabelTile::kAcross + 1;
  const int64_t down = call.height / kDown + 1;
  if (down > kMaxInGrid || call.images > kMaxInGrid) return cudaErrorInvalidValue;
  const dim3 grid(static_cast<unsigned>(across), static_cast<unsigned>(down),
                  static_cast<unsigned>(call.images));
  const dim3 threads(LabelTile::kAcross, static_cast<unsigned>(kDown));
  const bool aligned = reinterpret_cast<uintptr_t>(call.logits) % kChunk == 0;
  const bool staged = aligned && (kDown + 1) * row <= kMaxShared;
  const auto kernel =
      staged ? upsample_argmax_kernel<T, kFactor, true> : upsample_argmax_kernel<T, kFactor, false>;
  kernel<<<grid, threads, staged ? (kDown + 1) * row : 0, stream>>>(call,
                                                                    static_cast<int32_t>(row));
  return cudaGetLastError();
}

template <typename T>
cudaError_t launch_factor(cudaStream_t stream, const UpsampleArgmaxCall& call) {
  if (reinterpret_cast<uintptr_t>(call.labels) % (call.factor / 2) != 0) {
    return cudaErrorMisalignedAddress;
  }
  if (call.factor == 2) return launch_tiles<T, 2>(stream, call);
  if (call.factor == 4) return launch_tiles<T, 4>(stream, call);
  return launch_tiles<T, 8>(stream, call);
}

}  // namespace

cudaError_t launch(cudaStream_t stream, const UpsampleArgmaxCall& call) {
  switch (call.element) {
    case Element::kFloat32:
      return launch_factor<float>(stream, call);
    case Element::kBFloat16:
      return launch_factor<__nv_bfloat16>(stream, call);
    case Element::kFloat16:
      return launch_factor<__half>(stream, call);
    case Element::kUint8:
      break;
  }
  return cudaErrorInvalidValue;
}

}  // namespace segblocks::cuda
