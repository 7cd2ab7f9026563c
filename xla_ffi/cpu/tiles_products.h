// Sums of products of a tile; see tiles_body.h.

#ifndef SEGBLOCKS_CPU_TILES_PRODUCTS_H_
#define SEGBLOCKS_CPU_TILES_PRODUCTS_H_

#include <stdint.h>

#include "cpu/tiles.h"
#include "cpu/tiles_vectors.h"

namespace segblocks::cpu {
namespace {

// Applies scale, bias, residual and bounds to sums, from channel `first` of the tile on.
template <typename T, int kPixels, int kVectors>
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
      const T* residual = static_cast<const T*>(tile.residual) + p * tile.out_pitch + first;
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sums[p][v] += get_vector(residual + v * kLanes);
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

template <typename T, int kPixels, int kVectors>
SEGBLOCKS_INLINE void store_rows(const Vector (&sums)[kPixels][kVectors], T* out, int64_t pitch) {
#pragma GCC unroll 16
  for (int p = 0; p < kPixels; ++p) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) put_vector(sums[p][v], out + p * pitch + v * kLanes);
  }
}

// Loads or zeroes the sums of a tile from channel `first` on, calls add(sums), stores them. T: of
// the rows at `out`.
template <typename T, int kPixels, int kVectors, typename Add>
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
  if constexpr (sizeof(T) > 1) {  // Bytes are written elsewhere.
    if (tile.out != nullptr) {
      finish<T>(tile, first, sums);
      store_rows(sums, static_cast<T*>(tile.out) + first, tile.out_pitch);
      return;
    }
  }
  store_rows(sums, tile.sums + first, tile.pitch);
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
  with_sums<float, kPixels, kVectors>(
      tile, first * kPanel, [&](auto& totals) __attribute__((always_inline)) {
        Vector sums[kPixels][kVectors] = {};
        int64_t room = kChain;
        for (int64_t t = 0; t < tile.taps; ++t) {
          const float* rows[kPixels];
#pragma GCC unroll 16
          for (int p = 0; p < kPixels; ++p) {
            rows[p] = static_cast<const float*>(tile.entries[p][tile.offsets[t]]);
          }
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

template <typename T>
SEGBLOCKS_INLINE const T* channels_from(int64_t channel, TableRow row) {
  return static_cast<const T*>(row) + channel;
}

template <typename T, int kPixels, int kPanels>
SEGBLOCKS_INLINE void depthwise_panels(const Tile& tile, int first) {
  constexpr int kVectors = kPanels * kPanelVectors;
  const int64_t channel = tile.channel + first * kPanel;
  with_sums<T, kPixels, kVectors>(
      tile, first * kPanel, [&](auto& sums) __attribute__((always_inline)) {
        for (int64_t t = 0; t < tile.taps; ++t) {
          const float* weights = tile.weights + t * tile.depth + channel;
          Vector w[kVectors];
#pragma GCC unroll 4
          for (int v = 0; v < kVectors; ++v) w[v] = load(weights + v * kLanes);
#pragma GCC unroll 16
          for (int p = 0; p < kPixels; ++p) {
            const T* row = channels_from<T>(channel, tile.entries[p][tile.offsets[t]]);
#pragma GCC unroll 4
            for (int v = 0; v < kVectors; ++v) sums[p][v] += w[v] * get_vector(row + v * kLanes);
          }
        }
      });
}

// Neighbors in a row share what they read: each row is loaded once for all taps that it serves.
template <typename T, int kWidth, int kStride, int kRun, int kVectors>
SEGBLOCKS_INLINE void depthwise_strip(const Tile& tile, int64_t first) {
  const int64_t channel = tile.channel + first;
  with_sums<T, kRowPixels, kVectors>(tile, first, [&](auto& sums) __attribute__((always_inline)) {
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
        const TableEntry rows = tile.entries[begin] + tile.offsets[t];
#pragma GCC unroll 32
        for (int x = 0; x < (kRun - 1) * kStride + kWidth; ++x) {
          const T* row = channels_from<T>(channel, rows[x]);
#pragma GCC unroll 2
          for (int v = 0; v < kVectors; ++v) {
            const Vector value = get_vector(row + v * kLanes);
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

template <typename T, int kWidth, int kStride, int kRun>
void depthwise_row(const Tile& tile, int panels) {
  constexpr int kStep = SEGBLOCKS_ROW_VECTORS;
  const int vectors = panels * kPanelVectors;
  int v = 0;
  for (; v + kStep <= vectors; v += kStep) {
    depthwise_strip<T, kWidth, kStride, kRun, kStep>(tile, v * kLanes);
  }
  for (; v < vectors; ++v) depthwise_strip<T, kWidth, kStride, kRun, 1>(tile, v * kLanes);
}

struct Dense {
  template <int kPixels, int kPanels>
  SEGBLOCKS_INLINE static void add(const Tile& tile, int first) {
    conv_panels<kPixels, kPanels>(tile, first);
  }
};

template <typename T>
struct Depthwise {
  template <int kPixels, int kPanels>
  SEGBLOCKS_INLINE static void add(const Tile& tile, int first) {
    depthwise_panels<T, kPixels, kPanels>(tile, first);
  }
};

// As many panels at a time as the registers hold.
template <typename Sums, int kPixels, int kPanels>
void accumulate(const Tile& tile) {
  constexpr int kStep = kPanels < SEGBLOCKS_PANELS ? kPanels : SEGBLOCKS_PANELS;
  static_assert(kPanels % kStep == 0);
  for (int first = 0; first < kPanels; first += kStep) {
    Sums::template add<kPixels, kStep>(tile, first);
  }
}

template <typename T>
void depthwise_rest(const Tile& tile, int64_t pixels, int64_t channels) {
  for (int64_t p = 0; p < pixels; ++p) {
    float* sums = tile.sums + p * tile.pitch;
    for (int64_t k = 0; k < channels; ++k) {
      if (tile.start) sums[k] = 0.0f;
    }
    for (int64_t t = 0; t < tile.taps; ++t) {
      const T* row = channels_from<T>(tile.channel, tile.entries[p][tile.offsets[t]]);
      const float* weights = tile.weights + t * tile.depth + tile.channel;
      for (int64_t k = 0; k < channels; ++k) sums[k] += to_float(row[k]) * weights[k];
    }
  }
}

}  // namespace
}  // namespace segblocks::cpu

#endif  // SEGBLOCKS_CPU_TILES_PRODUCTS_H_
