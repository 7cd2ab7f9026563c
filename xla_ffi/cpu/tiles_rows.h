// Loops over the channels of rows; see tiles_body.h.

#ifndef SEGBLOCKS_CPU_TILES_ROWS_H_
#define SEGBLOCKS_CPU_TILES_ROWS_H_

#include <stdint.h>

#include <type_traits>

#include "cpu/tiles.h"
#include "cpu/tiles_pair_writer.h"
#include "cpu/tiles_vectors.h"

namespace segblocks::cpu {
namespace {

// Writes as many channels as V has lanes, from channel k of the row that begins at `row` on.
template <typename V, typename T>
SEGBLOCKS_INLINE void write_lanes(const Outputs& o, V sum, int64_t row, int64_t k) {
  V y = sum * get_at<V>(o.scale + k) + get_at<V>(o.bias + k);
  if (o.residual != nullptr) y += get_at<V>(static_cast<const T*>(o.residual) + row + k);
  if (o.activation != 0) y = relu(y);
  if (o.activation == 2) y = at_most_6(y);
  if (o.out != nullptr) put_at(y, static_cast<T*>(o.out) + row + k);
  if (o.out2 == nullptr) return;
  const V second = relu(y * get_at<V>(o.scale2 + k) + get_at<V>(o.bias2 + k));
  put_at(second, static_cast<T*>(o.out2) + row + k);
}

// Calls vectors(k) for every k where a whole vector of the channels begins, numbers(k) for the
// rest.
template <typename Vectors, typename Numbers>
SEGBLOCKS_INLINE void for_channels(int64_t channels, const Vectors& vectors,
                                   const Numbers& numbers) {
  int64_t k = 0;
  for (; k + kLanes <= channels; k += kLanes) vectors(k);
  for (; k < channels; ++k) numbers(k);
}

template <typename T>
void write(const Outputs& outputs) {
  const Outputs o = outputs;  // A copy that no write through a pointer can change.
  int64_t first = 0;
  for (; first + 2 * kLanes <= o.channels; first += 2 * kLanes) {
    const PairWriter<T> writer(o, first);
    for (int64_t pixel = 0; pixel < o.pixels; ++pixel) writer.write(o, pixel);
  }
  if (first == o.channels) return;
  for (int64_t pixel = 0; pixel < o.pixels; ++pixel) {
    const float* sums = o.sums + pixel * o.sums_pitch;
    const int64_t row = pixel * o.pitch;
    int64_t k = first;
    for (; k + kLanes <= o.channels; k += kLanes) {
      write_lanes<Vector, T>(o, get_at<Vector>(sums + k), row, k);
    }
    for (; k < o.channels; ++k) write_lanes<float, T>(o, sums[k], row, k);
  }
}

SEGBLOCKS_INLINE float larger(float a, float b) { return (a > b) | (a != a) ? a : b; }
SEGBLOCKS_INLINE Vector larger(Vector a, Vector b) { return (a > b) | (a != a) ? a : b; }

template <typename V, typename T>
SEGBLOCKS_INLINE void max_lanes(const void* const* rows, int64_t num_rows, int64_t k, void* out) {
  V best = get_at<V>(static_cast<const T*>(rows[0]) + k);
  for (int64_t r = 1; r < num_rows; ++r) {
    best = larger(get_at<V>(static_cast<const T*>(rows[r]) + k), best);
  }
  put_at(best, static_cast<T*>(out) + k);
}

constexpr uint16_t kMinusInfinity = 0x807f;  // Where numbers are ordered as signed integers.

// Numbers in the order of bfloat16, from minus infinity on; NaN is larger than all, of either sign.
SEGBLOCKS_INLINE PairedBits ordered(PairedBits bits) {
  const PairedShorts sign = reinterpret_cast<PairedShorts>(bits) >> 15;
  return (bits ^ (reinterpret_cast<PairedBits>(sign) & 0x7fff)) - kMinusInfinity;
}
SEGBLOCKS_INLINE PairedBits unordered(PairedBits order) {
  const PairedBits bits = order + kMinusInfinity;
  const PairedShorts sign = reinterpret_cast<PairedShorts>(bits) >> 15;
  return bits ^ (reinterpret_cast<PairedBits>(sign) & 0x7fff);
}

template <typename T>
void max(const void* const* rows, int64_t num_rows, int64_t channels, void* out) {
  int64_t k = 0;
  if constexpr (std::is_same_v<T, BFloat16>) {
    const auto get = [&](int64_t r) __attribute__((always_inline)) {
      const T* row = static_cast<const T*>(rows[r]) + k;
      return ordered(*reinterpret_cast<const UnalignedPairedBits*>(row));
    };
    for (; k + 2 * kLanes <= channels; k += 2 * kLanes) {
      PairedBits best = get(0);
      for (int64_t r = 1; r < num_rows; ++r) {
        const PairedBits other = get(r);
        best = other > best ? other : best;
      }
      *reinterpret_cast<UnalignedPairedBits*>(static_cast<T*>(out) + k) = unordered(best);
    }
  }
  for (; k + kLanes <= channels; k += kLanes) max_lanes<Vector, T>(rows, num_rows, k, out);
  for (; k < channels; ++k) max_lanes<float, T>(rows, num_rows, k, out);
}

template <typename V, typename T>
SEGBLOCKS_INLINE void mean_lanes(const void* const* rows, int64_t num_rows, int64_t k, void* out) {
  V sum = get_at<V>(static_cast<const T*>(rows[0]) + k);
  for (int64_t r = 1; r < num_rows; ++r) sum += get_at<V>(static_cast<const T*>(rows[r]) + k);
  put_at(sum * (1.0f / static_cast<float>(num_rows)), static_cast<T*>(out) + k);
}

template <typename T>
void mean(const void* const* rows, int64_t num_rows, int64_t channels, void* out) {
  for_channels(
      channels, [&](int64_t k) { mean_lanes<Vector, T>(rows, num_rows, k, out); },
      [&](int64_t k) { mean_lanes<float, T>(rows, num_rows, k, out); });
}

template <typename T>
void to_float(const void* row, int64_t count, float* out) {
  const T* values = static_cast<const T*>(row);
  for_channels(
      count, [&](int64_t k) { put_at(get_at<Vector>(values + k), out + k); },
      [&](int64_t k) { out[k] = to_float(values[k]); });
}

template <typename V, typename T, bool kResidual, bool kSecond>
SEGBLOCKS_INLINE void upsample_lanes(const UpsampledSquare& square, int64_t k) {
  V rows[3][3];
#pragma GCC unroll 9
  for (int i = 0; i < 9; ++i) {
    rows[i / 3][i % 3] = get_at<V>(static_cast<const T*>(square.sources[i]) + k);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    V columns[3];
#pragma GCC unroll 3
    for (int j = 0; j < 3; ++j) columns[j] = 0.75f * rows[1][j] + 0.25f * rows[2 * i][j];
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      const int corner = 2 * i + j;
      V y = 0.75f * columns[1] + 0.25f * columns[2 * j];
      if constexpr (kResidual) y += get_at<V>(static_cast<const T*>(square.residuals[corner]) + k);
      if constexpr (kSecond) {
        y = relu(y * get_at<V>(square.scale2 + k) + get_at<V>(square.bias2 + k));
      }
      put_at(y, static_cast<T*>(square.outs[corner]) + k);
    }
  }
}

template <typename T, bool kResidual, bool kSecond>
void upsample_as(const UpsampledSquare& given) {
  const UpsampledSquare square = given;  // A copy that no write through a pointer can change.
  for_channels(
      square.channels, [&](int64_t k) { upsample_lanes<Vector, T, kResidual, kSecond>(square, k); },
      [&](int64_t k) { upsample_lanes<float, T, kResidual, kSecond>(square, k); });
}

template <typename T>
void upsample(const UpsampledSquare& square) {
  const bool second = square.scale2 != nullptr;
  if (square.residuals[0] != nullptr) {
    second ? upsample_as<T, true, true>(square) : upsample_as<T, true, false>(square);
  } else {
    second ? upsample_as<T, false, true>(square) : upsample_as<T, false, false>(square);
  }
}

}  // namespace
}  // namespace segblocks::cpu

#endif  // SEGBLOCKS_CPU_TILES_ROWS_H_
