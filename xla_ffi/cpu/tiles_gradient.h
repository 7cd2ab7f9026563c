// The gradient of a depthwise kernel; see tiles_body.h.

#ifndef SEGBLOCKS_CPU_TILES_GRADIENT_H_
#define SEGBLOCKS_CPU_TILES_GRADIENT_H_

#include <stdint.h>

#include "cpu/tiles.h"
#include "cpu/tiles_vectors.h"

namespace segblocks::cpu {
namespace {

// Vectors of channels at a time; with kTaps of them, they fill the registers.
constexpr int kGradientVectors = kLanes == 16 ? 2 : 1;

// Taps `tap` .. `tap + kTaps - 1` of kVectors vectors of channels from k on.
template <int kTaps, int kVectors, typename V>
SEGBLOCKS_INLINE void add_products(const GradientTile& tile, int64_t tap, int64_t k) {
  constexpr int64_t kWidth = sizeof(V) / sizeof(float);
  V sums[kTaps][kVectors] = {};
  for (int64_t pixel = 0; pixel < tile.pixels; ++pixel) {
    const float* cotangents = tile.cotangents + pixel * tile.channels + k;
    const TableEntry entry = tile.entries[pixel];
    V factors[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) factors[v] = get_at<V>(cotangents + v * kWidth);
#pragma GCC unroll 9
    for (int t = 0; t < kTaps; ++t) {
      const float* row = static_cast<const float*>(entry[tile.offsets[tap + t]]) + k;
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) sums[t][v] += get_at<V>(row + v * kWidth) * factors[v];
    }
  }
#pragma GCC unroll 9
  for (int t = 0; t < kTaps; ++t) {
    float* to = tile.sums + (tap + t) * tile.channels + k;
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      put_at(get_at<V>(to + v * kWidth) + sums[t][v], to + v * kWidth);
    }
  }
}

// 9 taps are those of 3 x 3, and twice 9 and 7 those of 5 x 5.
template <int kVectors, typename V>
SEGBLOCKS_INLINE void add_taps(const GradientTile& tile, int64_t k) {
  int64_t tap = 0;
  for (; tap + 9 <= tile.taps; tap += 9) add_products<9, kVectors, V>(tile, tap, k);
  for (; tap + 7 <= tile.taps; tap += 7) add_products<7, kVectors, V>(tile, tap, k);
  for (; tap < tile.taps; ++tap) add_products<1, kVectors, V>(tile, tap, k);
}

void depthwise_gradient(const GradientTile& given) {
  const GradientTile tile = given;  // A copy that no write through a pointer can change.
  constexpr int64_t kStep = kGradientVectors * kLanes;
  int64_t k = 0;
  for (; k + kStep <= tile.channels; k += kStep) add_taps<kGradientVectors, Vector>(tile, k);
  for (; k + kLanes <= tile.channels; k += kLanes) add_taps<1, Vector>(tile, k);
  for (; k < tile.channels; ++k) add_taps<1, float>(tile, k);
}

}  // namespace
}  // namespace segblocks::cpu

#endif  // SEGBLOCKS_CPU_TILES_GRADIENT_H_
