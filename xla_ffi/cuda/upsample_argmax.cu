// The best class of every pixel of upsampled logits.

#include <algorithm>
#include <cstdint>

#include "cuda/kernels.h"
#include "cuda/label_keys.cuh"
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

// Copies the logits first .. first+count-1 to shared memory, a warp; of 16-bit ones, returns the
// bits of the largest absolute value among them and their neighbors.
template <typename T>
__device__ uint32_t stage(const UpsampleArgmaxCall& call, int64_t first, int32_t count,
                          char* shared) {
  uint32_t upper = 0;  // Of the two of each word.
  uint32_t lower = 0;
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
      const auto words =
          load<uint32_t, kChunk / 4>(reinterpret_cast<const uint32_t*>(logits + start + at));
      store(reinterpret_cast<uint32_t*>(shared + at), words);
      if constexpr (sizeof(T) == 2) {
#pragma unroll
        for (int i = 0; i < kChunk / 4; ++i) {
          upper = max(upper, words.values[i] & 0x7fffffffu);
          lower = max(lower, words.values[i] << 17);
        }
      }
    } else {
      for (int32_t byte = at; byte < inside; byte += sizeof(T)) {
        const T logit = *reinterpret_cast<const T*>(logits + start + byte);
        *reinterpret_cast<T*>(shared + byte) = logit;
        if constexpr (sizeof(T) == 2) lower = max(lower, bits_of(logit) << 17);
      }
    }
  }
  return max(upper >> 16, lower >> 17);
}

// Where a tile lies in its image.
struct LabelTilePlace {
  int32_t height;
  int32_t width;
  int32_t classes;
  int32_t image;
  int32_t first_y;  // Of its corners.
  int32_t first_x;
  int32_t left;  // Its pixels' columns, clamped to the image.
  int32_t right;

  __device__ explicit LabelTilePlace(const UpsampleArgmaxCall& call)
      : height(static_cast<int32_t>(call.height)),
        width(static_cast<int32_t>(call.width)),
        classes(static_cast<int32_t>(call.classes)),
        image(static_cast<int32_t>(blockIdx.z)),
        first_y(static_cast<int32_t>(blockIdx.y * blockDim.y)),
        first_x(static_cast<int32_t>(blockIdx.x) * LabelTile::kAcross),
        left(max(first_x - 1, 0)),
        right(min(first_x + LabelTile::kAcross - 1, width - 1)) {}

  __device__ int32_t row_of(int32_t row) const {
    return min(max(first_y + row - 1, 0), height - 1);
  }
  __device__ int32_t column_of(int32_t column) const {
    return min(max(first_x + column - 1, 0), right) - left;
  }
  __device__ int32_t count() const { return (right - left + 1) * classes; }
  __device__ int64_t first_logit(int32_t row) const {
    return ((static_cast<int64_t>(image) * height + row_of(row)) * width + left) * classes;
  }
  // Where a staged row begins in its first chunk, in bytes: the lower bits of a product are those
  // of its factors.
  __device__ uint32_t offset(int32_t row, uint32_t bytes) const {
    const uint32_t line =
        static_cast<uint32_t>(image) * static_cast<uint32_t>(height) + row_of(row);
    return (line * width + left) * classes * bytes % kChunk;
  }
};

// The corners of a tile that are left to do, in two lists from either end.
struct LabelLists {
  uint8_t corners[LabelTile::kCorners];
  uint32_t front[LabelTile::kMaxDown];  // By line, the lanes that belong to each.
  uint32_t back[LabelTile::kMaxDown];
  int32_t fronts;
  int32_t backs;
};

// Fills them; all threads.
__device__ inline void list_corners(LabelLists& lists, bool in_front, bool in_back) {
  const auto lane = static_cast<int32_t>(threadIdx.x);
  const auto line = static_cast<int32_t>(threadIdx.y);
  const uint32_t front = __ballot_sync(kAllLanes, in_front);
  const uint32_t back = __ballot_sync(kAllLanes, in_back);
  if (lane == 0) {
    lists.front[line] = front;
    lists.back[line] = back;
  }
  __syncthreads();
  const uint32_t before = (1u << lane) - 1;
  int32_t fronts = __popc(front & before);
  int32_t backs = __popc(back & before);
  for (int32_t i = 0; i < line; ++i) {
    fronts += __popc(lists.front[i]);
    backs += __popc(lists.back[i]);
  }
  const auto corner = static_cast<uint8_t>(line * LabelTile::kAcross + lane);
  if (in_front) lists.corners[fronts] = corner;
  if (in_back) lists.corners[LabelTile::kCorners - 1 - backs] = corner;
  // The last thread's counts are all.
  if (lane == LabelTile::kAcross - 1 && line == static_cast<int32_t>(blockDim.y) - 1) {
    lists.fronts = fronts + (in_front ? 1 : 0);
    lists.backs = backs + (in_back ? 1 : 0);
  }
  __syncthreads();
}

// What writes labels of a tile's listed corners, in parts; find(row, column, first phase, labels).
template <int kFactor, typename Corner, typename Find>
__device__ inline void finish_corners(const UpsampleArgmaxCall& call, const LabelTilePlace& place,
                                      int32_t count, const Corner& corner, const Find& find) {
  constexpr int kRows = kLabelRows<kFactor>;
  constexpr int kParts = kFactor / kRows;
  for (auto item = static_cast<int32_t>(threadIdx.y * LabelTile::kAcross + threadIdx.x);
       item < count * kParts; item += LabelTile::kCorners) {
    const int32_t number = corner(item / kParts);
    const int32_t row = number / LabelTile::kAcross;
    const int32_t column = number % LabelTile::kAcross;
    const int first_phase = item % kParts * kRows;
    LabelRow<kFactor> labels[kRows];
    find(row, column, first_phase, labels);
    const LabelPlace<kFactor> to(call, place.image, place.first_y + row, place.first_x + column);
#pragma unroll
    for (int i = 0; i < kRows; ++i) to.put(first_phase + i, labels[i]);
  }
}

template <int kFactor>
__device__ inline void put_label(const UpsampleArgmaxCall& call, const LabelTilePlace& place,
                                 uint8_t label) {
  const LabelPlace<kFactor> to(call, place.image, place.first_y + static_cast<int32_t>(threadIdx.y),
                               place.first_x + static_cast<int32_t>(threadIdx.x));
  LabelRow<kFactor> labels;
#pragma unroll
  for (int p = 0; p < kFactor; ++p) labels.values[p] = label;
#pragma unroll
  for (int phase = 0; phase < kFactor; ++phase) to.put(phase, labels);
}

// Grid: x and y over tiles, z over images. Threads: a tile's corners.
//
// By whole numbers; corners at which some logit is none by find_labels() of the logits themselves.
template <typename T, int kFactor>
__global__ void __launch_bounds__(LabelTile::kCorners, 1)
    label_keys_kernel(const __grid_constant__ UpsampleArgmaxCall call, int32_t shared_row) {
  using Tile = LabelTile;
  constexpr int kRows = Tile::kMaxDown + 1;
  constexpr int kWidth = kChunk / sizeof(T);
  extern __shared__ __align__(16) char shared[];
  __shared__ uint8_t best_classes[kRows * Tile::kPixels];
  __shared__ LabelLists lists;
  __shared__ uint32_t largest_of[Tile::kMaxDown];
  __shared__ bool mixed_lines[Tile::kMaxDown];
  // Whether a pixel has logits that are no whole numbers. Several threads may find the same.
  __shared__ bool unsure_pixels[kRows][Tile::kPixels];
  const LabelTilePlace place(call);
  const auto lane = static_cast<int32_t>(threadIdx.x);
  const auto line = static_cast<int32_t>(threadIdx.y);
  const int32_t whole_row = shared_row / static_cast<int32_t>(sizeof(T));
  auto* wholes = reinterpret_cast<uint32_t*>(shared + kRows * shared_row);
  // Where a pixel's logits and whole numbers begin in their rows.
  const auto within = [&](int32_t row, int32_t column) {
    return static_cast<int32_t>(place.offset(row, sizeof(T)) / sizeof(T)) +
           place.column_of(column) * place.classes;
  };
  const auto pixel = [&](int32_t row, int32_t column) {
    return reinterpret_cast<const T*>(shared + row * shared_row) + within(row, column);
  };
  const auto whole_pixel = [&](int32_t row, int32_t column) {
    return wholes + row * whole_row + within(row, column);
  };

  uint32_t largest = 0;
  for (int32_t row = line; row < kRows; row += Tile::kMaxDown) {
    const uint32_t of_row =
        stage<T>(call, place.first_logit(row), place.count(), shared + row * shared_row);
    largest = max(largest, of_row);
    for (int32_t i = lane; i < Tile::kPixels; i += Tile::kAcross) unsure_pixels[row][i] = false;
  }
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    largest = max(largest, __shfl_xor_sync(kAllLanes, largest, distance));
  }
  if (lane == 0) largest_of[line] = largest;
  __syncthreads();
  for (int32_t i = line * Tile::kAcross + lane; i < kRows * Tile::kPixels; i += Tile::kCorners) {
    float best;
    best_classes[i] = static_cast<uint8_t>(
        best_class(pixel(i / Tile::kPixels, i % Tile::kPixels), place.classes, &best));
  }
  __syncthreads();

  const int32_t y = place.first_y + line;
  const int32_t x = place.first_x + lane;
  bool mixed = false;
  if (y <= place.height && x <= place.width) {
    const uint8_t* above = best_classes + line * Tile::kPixels + lane;
    const uint8_t* below = above + Tile::kPixels;
    const uint8_t label = *above;
    mixed = !(above[1] == label && below[0] == label && below[1] == label);
    if (!mixed) put_label<kFactor>(call, place, label);
  }
  const bool any = __any_sync(kAllLanes, mixed);
  if (lane == 0) mixed_lines[line] = any;
  __syncthreads();
  bool some = false;
#pragma unroll
  for (int i = 0; i < Tile::kMaxDown; ++i) {
    largest = max(largest, largest_of[i]);
    some = some || mixed_lines[i];
  }
  if (!some) return;

  const bool large = largest >= WholeScale<T, kFactor>::kInfinity;
  const WholeScale<T, kFactor> scale(large ? 0 : largest);
  for (int32_t row = line; row < kRows && !large; row += Tile::kMaxDown) {
    const T* logits = reinterpret_cast<const T*>(shared + row * shared_row);
    const int32_t first = static_cast<int32_t>(place.offset(row, sizeof(T)) / sizeof(T));
    const int32_t end = first + place.count();
    for (int32_t at = lane * kWidth; at < end; at += Tile::kAcross * kWidth) {
      float values[kWidth];
      load_floats_of(logits + at, values);
      bool sure = true;
      Vector<uint32_t, 4> parts[kWidth / 4];
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
        sure = sure && std::fabs(values[i]) >= scale.smallest;
        parts[i / 4].values[i % 4] = scale.whole(values[i]);
      }
#pragma unroll
      for (int i = 0; i < kWidth / 4; ++i) store(wholes + row * whole_row + at + 4 * i, parts[i]);
      if (sure) continue;
#pragma unroll 1
      for (int32_t k = max(at, first); k < min(at + kWidth, end); ++k) {
        if (scale.sure(to_float(logits[k]))) continue;
        unsure_pixels[row][(k - first) / place.classes] = true;
      }
    }
  }
  __syncthreads();
  const auto unsure = [&](int32_t row, int32_t column) {
    return unsure_pixels[row][place.column_of(column)];
  };
  const bool by_logits = mixed && (large || unsure(line, lane) || unsure(line, lane + 1) ||
                                   unsure(line + 1, lane) || unsure(line + 1, lane + 1));
  list_corners(lists, mixed && !by_logits, by_logits);
  finish_corners<kFactor>(
      call, place, lists.fronts, [&](int32_t i) { return lists.corners[i]; },
      [&](int32_t row, int32_t column, int first_phase, auto& labels) {
        const uint32_t* const corner[4] = {whole_pixel(row, column), whole_pixel(row, column + 1),
                                           whole_pixel(row + 1, column),
                                           whole_pixel(row + 1, column + 1)};
        find_labels<T, kFactor>(corner, place.classes, first_phase, labels);
      });
  finish_corners<kFactor>(
      call, place, lists.backs, [&](int32_t i) { return lists.corners[Tile::kCorners - 1 - i]; },
      [&](int32_t row, int32_t column, int first_phase, auto& labels) {
        const Corner<T> corner{pixel(row, column), pixel(row, column + 1), pixel(row + 1, column),
                               pixel(row + 1, column + 1)};
        find_labels<T, kFactor, true>(corner, place.classes, first_phase, labels);
      });
}

// By the logits themselves, of any format and number.
template <typename T, int kFactor, bool kStaged>
__global__ void __launch_bounds__(LabelTile::kCorners, 1)
    upsample_argmax_kernel(const __grid_constant__ UpsampleArgmaxCall call, int32_t shared_row) {
  using Tile = LabelTile;
  extern __shared__ __align__(16) char shared[];
  __shared__ uint8_t best_classes[(Tile::kMaxDown + 1) * Tile::kPixels];
  __shared__ LabelLists lists;
  __shared__ bool large_lines[Tile::kMaxDown];
  const LabelTilePlace place(call);
  const auto lane = static_cast<int32_t>(threadIdx.x);
  const auto line = static_cast<int32_t>(threadIdx.y);
  const auto pixel = [&](int32_t row, int32_t column) {
    const int32_t at = place.column_of(column) * place.classes;
    if constexpr (kStaged) {
      return reinterpret_cast<const T*>(shared + row * shared_row + place.offset(row, sizeof(T))) +
             at;
    } else {
      return static_cast<const T*>(call.logits) + place.first_logit(row) + at;
    }
  };

  if constexpr (kStaged) {
    for (int32_t row = line; row <= Tile::kMaxDown; row += Tile::kMaxDown) {
      stage<T>(call, place.first_logit(row), place.count(), shared + row * shared_row);
    }
  }
  __syncthreads();
  bool large = !kBestBetween<T>;
  if constexpr (kBestBetween<T>) {
    for (int32_t i = line * Tile::kAcross + lane; i < (Tile::kMaxDown + 1) * Tile::kPixels;
         i += Tile::kCorners) {
      float best;
      best_classes[i] = static_cast<uint8_t>(
          best_class(pixel(i / Tile::kPixels, i % Tile::kPixels), place.classes, &best));
      large = large || best > kLarge;
    }
  }
  large = __any_sync(kAllLanes, large);
  if (lane == 0) large_lines[line] = large;
  __syncthreads();
#pragma unroll
  for (int i = 0; i < Tile::kMaxDown; ++i) large = large || large_lines[i];

  bool between = false;  // Different classes.
  if (place.first_y + line <= place.height && place.first_x + lane <= place.width) {
    const uint8_t* above = best_classes + line * Tile::kPixels + lane;
    const uint8_t* below = above + Tile::kPixels;
    const uint8_t label = kBestBetween<T> ? *above : uint8_t{0};
    between = !(kBestBetween<T> && above[1] == label && below[0] == label && below[1] == label);
    if (!between) put_label<kFactor>(call, place, label);
  }
  list_corners(lists, between, false);
  finish_corners<kFactor>(
      call, place, lists.fronts, [&](int32_t i) { return lists.corners[i]; },
      [&](int32_t row, int32_t column, int first_phase, auto& labels) {
        const Corner<T> corner{pixel(row, column), pixel(row, column + 1), pixel(row + 1, column),
                               pixel(row + 1, column + 1)};
        if (large) {
          find_labels<T, kFactor, true>(corner, place.classes, first_phase, labels);
        } else {
          find_labels<T, kFactor, false>(corner, place.classes, first_phase, labels);
        }
      });
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
  if constexpr (sizeof(T) == 2) {
    const int64_t bytes = (kDown + 1) * row * 3;  // Logits, and floats of twice their size.
    if (aligned && call.classes <= kClassCodes && bytes <= kMaxShared) {
      label_keys_kernel<T, kFactor>
          <<<grid, threads, bytes, stream>>>(call, static_cast<int32_t>(row));
      return cudaGetLastError();
    }
  }
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
