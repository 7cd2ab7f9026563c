// The inner loops, in vectors of SEGBLOCKS_LANES floats, for a file that is compiled for one
// instruction set and defines, before it includes this one,
//   SEGBLOCKS_LANES                    4, 8 or 16
//   SEGBLOCKS_PANELS                   panels that the registers hold at a time
//   SEGBLOCKS_PIXELS_1 .. _4           pixels a tile of 1 .. 4 panels has
// No inline function of another header may be called here; see tiles.h.

#include <stdint.h>

#include "cpu/tiles.h"

namespace segblocks::cpu {
namespace {

constexpr int kLanes = SEGBLOCKS_LANES;
constexpr int kPanelVectors = kPanel / kLanes;

typedef float Vector __attribute__((vector_size(4 * kLanes)));
typedef float Unaligned __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
typedef uint32_t WordVector __attribute__((vector_size(4 * kLanes)));
typedef uint16_t Bits;  // Of a bfloat16.
typedef Bits BitsVector __attribute__((vector_size(2 * kLanes)));
typedef Bits UnalignedBits __attribute__((vector_size(2 * kLanes), aligned(2), may_alias));

inline __attribute__((always_inline)) Vector load(const float* p) {
  return *reinterpret_cast<const Unaligned*>(p);
}

inline __attribute__((always_inline)) void store(float* p, Vector v) {
  *reinterpret_cast<Unaligned*>(p) = v;
}

// Applies scale, bias, residual and bounds to sums, from channel `first` of the tile on.
template <int kPixels, int kVectors>
inline __attribute__((always_inline)) void finish(const Tile& tile, int64_t first,
                                                  Vector (&sums)[kPixels][kVectors]) {
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
  const Vector least = Vector{} + tile.least;
  const Vector most = Vector{} + tile.most;
#pragma GCC unroll 16
  for (int p = 0; p < kPixels; ++p) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      // NaN stays NaN.
      const Vector above = sums[p][v] < least ? least : sums[p][v];
      sums[p][v] = above > most ? most : above;
    }
  }
}

// Loads or zeroes the sums of a tile from channel `first` on, calls add(sums), stores them.
template <int kPixels, int kVectors, typename Add>
inline __attribute__((always_inline)) void with_sums(const Tile& tile, int64_t first,
                                                     const Add& add) {
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
inline __attribute__((always_inline)) void join(Vector (&sums)[kPixels][kVectors],
                                                Vector (&totals)[kPixels][kVectors]) {
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
inline __attribute__((always_inline)) void conv_panels(const Tile& tile, int first) {
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
inline __attribute__((always_inline)) void depthwise_panels(const Tile& tile, int first) {
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

inline __attribute__((always_inline)) float get(float value) { return value; }

inline __attribute__((always_inline)) float get(Bits value) {
  return __builtin_bit_cast(float, static_cast<uint32_t>(value) << 16);
}

inline __attribute__((always_inline)) Vector get_vector(const float* p) { return load(p); }

inline __attribute__((always_inline)) Vector get_vector(const Bits* p) {
  const BitsVector bits = *reinterpret_cast<const UnalignedBits*>(p);
  return reinterpret_cast<Vector>(__builtin_convertvector(bits, WordVector) << 16);
}

inline __attribute__((always_inline)) void put(float value, float* out) { *out = value; }
inline __attribute__((always_inline)) void put_vector(Vector value, float* p) { store(p, value); }

// Rounds to nearest, ties to even.
inline __attribute__((always_inline)) void put(float value, Bits* out) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, value);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  *out = static_cast<Bits>(value == value ? rounded : (bits >> 16) | 0x40u);
}

inline __attribute__((always_inline)) void put_vector(Vector value, Bits* p) {
  const WordVector bits = reinterpret_cast<WordVector>(value);
  const WordVector rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const WordVector number = reinterpret_cast<WordVector>(value == value);
  const WordVector result = (number & rounded) | (~number & ((bits >> 16) | 0x40u));
  *reinterpret_cast<UnalignedBits*>(p) = __builtin_convertvector(result, BitsVector);
}

// NaN stays NaN in both.
inline __attribute__((always_inline)) float relu(float y) { return y < 0.0f ? 0.0f : y; }
inline __attribute__((always_inline)) float at_most_6(float y) { return y > 6.0f ? 6.0f : y; }
inline __attribute__((always_inline)) Vector relu(Vector y) {
  const Vector zero = {};
  return y < zero ? zero : y;
}
inline __attribute__((always_inline)) Vector at_most_6(Vector y) {
  const Vector six = Vector{} + 6.0f;
  return y > six ? six : y;
}

// Reads and writes of one number, or of a vector of them, at a time.
template <typename V, typename T>
inline __attribute__((always_inline)) V get_at(const T* p) {
  if constexpr (sizeof(V) == sizeof(float)) {
    return get(*p);
  } else {
    return get_vector(p);
  }
}

template <typename T>
inline __attribute__((always_inline)) void put_at(float value, T* p) {
  put(value, p);
}

template <typename T>
inline __attribute__((always_inline)) void put_at(Vector value, T* p) {
  put_vector(value, p);
}

// Writes as many channels as V has lanes, from channel k on.
template <typename V, typename T>
inline __attribute__((always_inline)) void write_lanes(const Outputs& o, const float* sums,
                                                       int64_t row, int64_t k) {
  V y = get_at<V>(sums + k) * get_at<V>(o.scale + k) + get_at<V>(o.bias + k);
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
inline __attribute__((always_inline)) void for_channels(int64_t channels, const Vectors& vectors,
                                                        const Numbers& numbers) {
  int64_t k = 0;
  for (; k + kLanes <= channels; k += kLanes) vectors(k);
  for (; k < channels; ++k) numbers(k);
}

template <typename T>
void write(const Outputs& outputs) {
  const Outputs o = outputs;  // A copy that no write through a pointer can change.
  for (int64_t pixel = 0; pixel < o.pixels; ++pixel) {
    const float* sums = o.sums + pixel * o.sums_pitch;
    const int64_t row = pixel * o.pitch;
    for_channels(
        o.channels, [&](int64_t k) { write_lanes<Vector, T>(o, sums, row, k); },
        [&](int64_t k) { write_lanes<float, T>(o, sums, row, k); });
  }
}

inline __attribute__((always_inline)) float larger(float a, float b) {
  return (a > b) | (a != a) ? a : b;
}
inline __attribute__((always_inline)) Vector larger(Vector a, Vector b) {
  return (a > b) | (a != a) ? a : b;
}

template <typename V, typename T>
inline __attribute__((always_inline)) void max_lanes(const void* const* rows, int64_t num_rows,
                                                     int64_t k, void* out) {
  V best = get_at<V>(static_cast<const T*>(rows[0]) + k);
  for (int64_t r = 1; r < num_rows; ++r) {
    best = larger(get_at<V>(static_cast<const T*>(rows[r]) + k), best);
  }
  put_at(best, static_cast<T*>(out) + k);
}

template <typename T>
void max(const void* const* rows, int64_t num_rows, int64_t channels, void* out) {
  for_channels(
      channels, [&](int64_t k) { max_lanes<Vector, T>(rows, num_rows, k, out); },
      [&](int64_t k) { max_lanes<float, T>(rows, num_rows, k, out); });
}

template <typename V, typename T>
inline __attribute__((always_inline)) void mean_lanes(const void* const* rows, int64_t num_rows,
                                                      int64_t k, void* out) {
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
      [&](int64_t k) { out[k] = get(values[k]); });
}

template <typename V, typename T>
inline __attribute__((always_inline)) void upsample_lanes(const UpsampledSquare& square,
                                                          int64_t k) {
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
      if (square.residuals[corner] != nullptr) {
        y += get_at<V>(static_cast<const T*>(square.residuals[corner]) + k);
      }
      if (square.scale2 != nullptr) {
        y = relu(y * get_at<V>(square.scale2 + k) + get_at<V>(square.bias2 + k));
      }
      put_at(y, static_cast<T*>(square.outs[corner]) + k);
    }
  }
}

template <typename T>
void upsample(const UpsampledSquare& given) {
  const UpsampledSquare square = given;  // A copy that no write through a pointer can change.
  for_channels(
      square.channels, [&](int64_t k) { upsample_lanes<Vector, T>(square, k); },
      [&](int64_t k) { upsample_lanes<float, T>(square, k); });
}

// Tiles of kPixels pixels, and of fewer for the rest of a list.
#define SEGBLOCKS_SIZES(kPixels, kPanels, kDepthwise)                       \
  {                                                                         \
      {kPixels, &accumulate<kPixels, kPanels, kDepthwise>},                 \
      {kPixels * 2 / 3, &accumulate<kPixels * 2 / 3, kPanels, kDepthwise>}, \
      {kPixels / 3, &accumulate<kPixels / 3, kPanels, kDepthwise>},         \
  }

#define SEGBLOCKS_ALL_PANELS(kDepthwise)                  \
  {                                                       \
      SEGBLOCKS_SIZES(SEGBLOCKS_PIXELS_1, 1, kDepthwise), \
      SEGBLOCKS_SIZES(SEGBLOCKS_PIXELS_2, 2, kDepthwise), \
      SEGBLOCKS_SIZES(SEGBLOCKS_PIXELS_3, 3, kDepthwise), \
      SEGBLOCKS_SIZES(SEGBLOCKS_PIXELS_4, 4, kDepthwise), \
  }

template <typename T>
constexpr RowLoops row_loops() {
  return {&write<T>, &max<T>, &upsample<T>, &mean<T>, &to_float<T>};
}

constexpr TileKernels tiles(const char* name) {
  return {name,
          SEGBLOCKS_ALL_PANELS(false),
          SEGBLOCKS_ALL_PANELS(true),
          &depthwise_rest,
          row_loops<float>(),
          row_loops<Bits>()};
}

}  // namespace
}  // namespace segblocks::cpu
