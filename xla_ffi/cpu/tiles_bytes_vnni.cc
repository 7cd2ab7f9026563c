// The inner loops on bytes for AVX-512 with dot products of 4 bytes (VPDPBUSD).

#include <immintrin.h>

#include "cpu/products.h"
#include "cpu/tiles_bytes_body.h"
#include "cpu/tiles_bytes_writer.h"

namespace segblocks::cpu {
namespace {

inline __m512i four_bytes(const uint8_t* p) {
  int32_t value;
  __builtin_memcpy(&value, p, sizeof(value));
  return _mm512_set1_epi32(value);
}

template <int kPixels, int kPanels>
struct Vnni {
  static void run(const ByteTile& tile) {
    __m512i sums[kPixels][kPanels];
#pragma GCC unroll 16
    for (int p = 0; p < kPixels; ++p) {
#pragma GCC unroll 4
      for (int v = 0; v < kPanels; ++v) sums[p][v] = _mm512_setzero_si512();
    }
    const int8_t* weights = tile.weights;
    const int64_t stride = tile.panel_stride;
    const int64_t bytes = tile.groups * kByteGroup;
    for (int64_t t = 0; t < tile.taps; ++t) {
      const uint8_t* rows[kPixels];
#pragma GCC unroll 16
      for (int p = 0; p < kPixels; ++p) {
        rows[p] = static_cast<const uint8_t*>(tile.entries[p][tile.offsets[t]]);
      }
      for (int64_t d = 0; d < bytes; d += kByteGroup) {
        __m512i w[kPanels];
#pragma GCC unroll 4
        for (int v = 0; v < kPanels; ++v) w[v] = _mm512_loadu_si512(weights + v * stride);
        weights += kPanel * kByteGroup;
#pragma GCC unroll 16
        for (int p = 0; p < kPixels; ++p) {
          const __m512i x = four_bytes(rows[p] + d);
#pragma GCC unroll 4
          for (int v = 0; v < kPanels; ++v) sums[p][v] = _mm512_dpbusd_epi32(sums[p][v], x, w[v]);
        }
      }
    }
#pragma GCC unroll 16
    for (int p = 0; p < kPixels; ++p) {
#pragma GCC unroll 4
      for (int v = 0; v < kPanels; ++v) {
        _mm512_storeu_si512(tile.sums + p * tile.pitch + v * kPanel, sums[p][v]);
      }
    }
  }
};

template <typename Sum>
void write_vectors(const ByteOutputs& given) {
  const ByteOutputs o = given;  // A copy that no write through a pointer can change.
  for (int64_t k = 0; k < o.channels; k += kPanel) {
    const ByteWriter writer(o, k);
    for (int64_t pixel = 0; pixel < o.pixels; ++pixel) writer.write<Sum>(o, pixel);
  }
}

}  // namespace

constinit const ByteLoops kVnniByteLoops =
    byte_loops<Vnni>("vnni", &write_vectors<int32_t>, &write_vectors<float>);
#ifdef SEGBLOCKS_PAIR_TILES
constinit const ByteLoops kAmxByteLoops =
    byte_loops<Vnni>("amx_int8", &write_vectors<int32_t>, &write_vectors<float>, &kAmxBytes);
#endif

}  // namespace segblocks::cpu
