// Sums of products of a tile; see tiles_body.h.

#ifndef SEGBLOCKS_CPU_TILES_PRODUCTS_H_
#define SEGBLOCKS_CPU_TILES_PRODUCTS_H_

#include <stdint.h>

#include "cpu/tiles.h"
#include "cpu/tiles_vectors.h"

namespace segblocks::cpu {
namespace {

// Applies scale, bias, residual and bounds to sums, from channel `first` of the tile on.
template <int kPixels, int kVectors>
SEGBLOCKS_INLINE void finish(const Tile& tile, int64_t first, Vector (&sums)[kPixels][kVectors]) {
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) {
    const Vector scale = load(tile.scale + first + v * kLanes);
    const Vector bias = load(tile.bias + first + v * kLanes);
#pragma GCC unroll 16
    for (int p = 0; p < kPixels; ++p) sums[p][v] = sums[p][v] * scale + bias;
  }
  if (tile.residual != nullptr) {
#pragma GCC unroll 16
    for (int p = 0; p < kPixels; ++p) {
      const float* residual = tile.residual + p * tile.out_pitch + first;
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sums[p][v] += load(residual + v * kLanes);
    }
  }
  const Vector low = Vector{} + tile.min;
  const Vector high = Vector{} + tile.max;
#pragma GCC unroll 16
  for (int p = 0; p < kPixels; ++p) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      // NaN stays NaN.
      const Vector above = sums[p][v] < low ? low : sums[p][v];
      sums[p][v] = above > high ? high : above;
    }
  }
}

// Loads or zeroes the sums of a tile from channel `first` on, calls add(sums), stores them.
template <int kPixels, int kVectors, typename Add>
SEGBLOCKS_INLINE void with_sums(const Tile& tile, int64_t first, const Add& add) {
  Vector sums[kPixels][kVectors];
#pragma GCC unroll 16
  for (int p = 0; p < kPixels; ++p) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      sums[p][v] = tile.start ? Vector{} : load(tile.sums + first + p * tile.pitch + v * kLanes);
    }
  }
  add(sums);
  if (tile.out != nullptr) finish(tile, first, sums);
  float* out = (tile.out != nullptr ? tile.out : tile.sums) + first;
  const int64_t pitch = tile.out != nullptr ? tile.out_pitch : tile.pitch;
#pragma GCC unroll 16
  for (int p = 0; p < kPixels; ++p) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) store(out + p * pitch + v * kLanes, sums[p][v]);
  }
}

// So many products are summed up before their sum joins the total: rounding grows with the square
// root of the longest chain of additions, and a network's statistics and signs are sensitive to it.
constexpr int64_t kChain = 64;

template <int kPixels, int kVectors>
SEGBLOCKS_INLINE void join(Vector (&sums)[kPixels][kVectors], Vector (&totals)[kPixels][kVectors]) {
#pragma GCC unroll 16
  for (int p = 0; p < kPixels; ++p) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      totals[p][v] += sums[p][v];
      sums[p][v] = Vector{};
    }
  }
}

template <int kPixels, int kPanels>
SEGBLOCKS_INLINE void conv_panels(const Tile& tile, int first) {
  constexpr int kVectors = kPanels * kPanelVectors;
  const float* weights = tile.weights + first * tile.panel_stride;
  const int64_t stride = tile.panel_stride;
  with_sums<kPixels, kVectors>(
      tile, first * kPanel, [&](auto& totals) __attribute__((always_inline)) {
        Vector sums[kPixels][kVectors] = {};
        int64_t room = kChain;
        for (int64_t t = 0; t < tile.taps; ++t) {
          const float* rows[kPixels];
#pragma GCC unroll 16
          for (int p = 0; p < kPixels; ++p) rows[p] = tile.entries[p][tile.offsets[t]];
          for (int64_t d = 0; d < tile.depth;) {
            const int64_t stop = d + room < tile.depth ? d + room : tile.depth;
            room -= stop - d;
            for (; d < stop; ++d) {
              Vector w[kVectors];
#pragma GCC unroll 4
              for (int v = 0; v < kVectors; ++v) {
                w[v] = load(weights + (v / kPanelVectors) * stride + v % kPanelVectors * kLanes);
              }
#pragma GCC unroll 16
              for (int p = 0; p < kPixels; ++p) {
                const float x = rows[p][d];
#pragma GCC unroll 4
                for (int v = 0; v < kVectors; ++v) sums[p][v] += w[v] * x;
              }
              weights += kPanel;
            }
            if (room == 0) {
              join(sums, totals);
              room = kChain;
            }
          }
        }
        join(sums, totals);
      });
}

template <int kPixels, int kPanels>
SEGBLOCKS_INLINE void depthwise_panels(const Tile& tile, int first) {
  constexpr int kVectors = kPanels * kPanelVectors;
  const int64_t channel = tile.channel + first * kPanel;
  with_sums<kPixels, kVectors>(tile, first * kPanel,
                               [&](auto& sums) __attribute__((always_inline)) {
                                 for (int64_t t = 0; t < tile.taps; ++t) {
                                   const float* weights = tile.weights + t * tile.depth + channel;
                                   Vector w[kVectors];
#pragma GCC unroll 4
                                   for (int v = 0; v < kVectors; ++v)
                                     w[v] = load(weights + v * kLanes);
#pragma GCC unroll 16
                                   for (int p = 0; p < kPixels; ++p) {
                                     const float* row = tile.entries[p][tile.offsets[t]] + channel;
#pragma GCC unroll 4
                                     for (int v = 0; v < kVectors; ++v)
                                       sums[p][v] += w[v] * load(row + v * kLanes);
                                   }
                                 }
                               });
}

// Neighbors in a row share what they read: each row is loaded once for all taps that it serves.
template <int kWidth, int kStride, int kRun, int kVectors>
SEGBLOCKS_INLINE void depthwise_strip(const Tile& tile, int64_t first) {
  const int64_t channel = tile.channel + first;
  with_sums<kRowPixels, kVectors>(tile, first, [&](auto& sums) __attribute__((always_inline)) {
    for (int64_t t = 0; t < tile.taps; t += kWidth) {
      Vector w[kWidth][kVectors];
#pragma GCC unroll 8
      for (int j = 0; j < kWidth; ++j) {
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) {
          w[j][v] = load(tile.weights + (t + j) * tile.depth + channel + v * kLanes);
        }
      }
#pragma GCC unroll 8
      for (int begin = 0; begin < kRowPixels; begin += kRun) {
        const float* const* rows = tile.entries[begin] + tile.offsets[t];
#pragma GCC unroll 32
        for (int x = 0; x < (kRun - 1) * kStride + kWidth; ++x) {
          const float* row = rows[x] + channel;
#pragma GCC unroll 2
          for (int v = 0; v < kVectors; ++v) {
            const Vector value = load(row + v * kLanes);
#pragma GCC unroll 8
            for (int j = 0; j < kWidth; ++j) {
              const int p = (x - j) / kStride;
              if (x < j || (x - j) % kStride != 0 || p >= kRun) continue;
              sums[begin + p][v] += w[j][v] * value;
            }
          }
        }
      }
    }
  });
}

template <int kWidth, int kStride, int kRun>
void depthwise_row(const Tile& tile, int panels) {
  constexpr int kStep = SEGBLOCKS_ROW_VECTORS;
  const int vectors = panels * kPanelVectors;
  int v = 0;
  for (; v + kStep <= vectors; v += kStep) {
    depthwise_strip<kWidth, kStride, kRun, kStep>(tile, v * kLanes);
  }
  for (; v < vectors; ++v) depthwise_strip<kWidth, kStride, kRun, 1>(tile, v * kLanes);
}

// As many panels at a time as the registers hold.
template <int kPixels, int kPanels, bool kDepthwise>
void accumulate(const Tile& tile) {
  constexpr int kStep = kPanels < SEGBLOCKS_PANELS ? kPanels : SEGBLOCKS_PANELS;
  static_assert(kPanels % kStep == 0);
  for (int first = 0; first < kPanels; first += kStep) {
    if constexpr (kDepthwise) {
      depthwise_panels<kPixels, kStep>(tile, first);
    } else {
      conv_panels<kPixels, kStep>(tile, first);
    }
  }
}

void depthwise_rest(const Tile& tile, int64_t pixels, int64_t channels) {
  for (int64_t p = 0; p < pixels; ++p) {
    float* sums = tile.sums + p * tile.pitch;
    for (int64_t k = 0; k < channels; ++k) {
      if (tile.start) sums[k] = 0.0f;
    }
    for (int64_t t = 0; t < tile.taps; ++t) {
      const float* row = tile.entries[p][tile.offsets[t]] + tile.channel;
      const float* weights = tile.weights + t * tile.depth + tile.channel;
      for (int64_t k = 0; k < channels; ++k) sums[k] += row[k] * weights[k];
    }
  }
}

}  // namespace
}  // namespace segblocks::cpu

#endif  // SEGBLOCKS_CPU_TILES_PRODUCTS_H_
