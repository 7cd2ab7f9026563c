// The inner loops on bytes for AVX-512 with dot products of 4 bytes (VPDPBUSD).

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // In GCC 12's own header, at no fault.
#endif
#include <immintrin.h>

#include "cpu/tiles_bytes_body.h"

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
      for (int p = 0; p < kPixels; ++p) rows[p] = tile.entries[p][tile.offsets[t]];
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

inline __m512 whole_numbers(const int32_t* p) { return _mm512_cvtepi32_ps(_mm512_loadu_si512(p)); }
inline __m512 whole_numbers(const float* p) { return _mm512_loadu_ps(p); }

// Rows of bytes or float32, of which a mask says what is there.
inline __m512 load_row(const void* rows, bool bytes, int64_t offset, __mmask16 mask) {
  if (!bytes) return _mm512_maskz_loadu_ps(mask, static_cast<const float*>(rows) + offset);
  const __m128i row = _mm_maskz_loadu_epi8(mask, static_cast<const uint8_t*>(rows) + offset);
  return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(row));
}

inline void store_vector(__m512 y, void* rows, bool bytes, int64_t offset, __mmask16 mask) {
  if (!bytes) return _mm512_mask_storeu_ps(static_cast<float*>(rows) + offset, mask, y);
  // Where one is NaN, maxima and minima are their second operand.
  const __m512 positive = _mm512_max_ps(y, _mm512_setzero_ps());
  const __m512i whole = _mm512_cvtps_epi32(_mm512_min_ps(positive, _mm512_set1_ps(255.0f)));
  _mm512_mask_cvtepi32_storeu_epi8(static_cast<uint8_t*>(rows) + offset, mask, whole);
}

// As `write` in tiles_bytes_base.cc, to the last bit.
template <typename Sum>
void write_vectors(const ByteOutputs& given) {
  const ByteOutputs o = given;  // A copy that no write through a pointer can change.
  const __m512 factor = _mm512_set1_ps(o.residual_scale);
  const __m512 low = _mm512_set1_ps(o.low);
  const __m512 high = _mm512_set1_ps(o.high);
  for (int64_t k = 0; k < o.channels; k += kPanel) {
    const int64_t left = o.channels - k;
    const auto mask = static_cast<__mmask16>(left < kPanel ? (1 << left) - 1 : 0xffff);
    const __m512 scale = _mm512_loadu_ps(o.scale + k);
    const __m512 bias = _mm512_loadu_ps(o.bias + k);
    __m512 scale2 = scale;
    __m512 bias2 = bias;
    if (o.out2 != nullptr) {
      scale2 = _mm512_maskz_loadu_ps(mask, o.scale2 + k);
      bias2 = _mm512_maskz_loadu_ps(mask, o.bias2 + k);
    }
    for (int64_t pixel = 0; pixel < o.pixels; ++pixel) {
      const int64_t offset = pixel * o.pitch + k;
      __m512 y = whole_numbers(static_cast<const Sum*>(o.sums) + pixel * o.sums_pitch + k);
      y = _mm512_add_ps(_mm512_mul_ps(y, scale), bias);
      if (o.residual != nullptr) {
        const __m512 residual = load_row(o.residual, o.residual_bytes, offset, mask);
        y = _mm512_add_ps(y, _mm512_mul_ps(residual, factor));
      }
      y = _mm512_min_ps(high, _mm512_max_ps(low, y));
      if (o.out != nullptr) store_vector(y, o.out, o.out_bytes, offset, mask);
      if (o.out2 == nullptr) continue;
      y = _mm512_add_ps(_mm512_mul_ps(y, scale2), bias2);
      y = _mm512_max_ps(_mm512_setzero_ps(), y);
      store_vector(y, o.out2, o.out2_bytes, offset, mask);
    }
  }
}

}  // namespace

constinit const ByteLoops kVnniByteLoops =
    byte_loops<Vnni>(&write_vectors<int32_t>, &write_vectors<float>);

}  // namespace segblocks::cpu
