// Writes a panel of the channels of outputs of bytes in AVX-512; for files that are compiled
// without joining products and sums. To be included first.

#ifndef SEGBLOCKS_CPU_TILES_BYTES_WRITER_H_
#define SEGBLOCKS_CPU_TILES_BYTES_WRITER_H_

#if defined(__GNUC__) && !defined(__clang__)
// In GCC 12's own header, at no fault.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#include <stdint.h>

#include "cpu/tiles_bytes.h"

namespace segblocks::cpu {
namespace {

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

// As `write` in tiles_bytes_base.cc, to the last bit. For the panel from channel k on of outputs
// that differ in nothing but pixels.
class ByteWriter {
 public:
  ByteWriter() = default;
  ByteWriter(const ByteOutputs& o, int64_t k)
      : k_(k),
        mask_(
            static_cast<__mmask16>(o.channels - k < kPanel ? (1 << (o.channels - k)) - 1 : 0xffff)),
        factor_(_mm512_set1_ps(o.residual_scale)),
        low_(_mm512_set1_ps(o.low)),
        high_(_mm512_set1_ps(o.high)),
        scale_(_mm512_loadu_ps(o.scale + k)),
        bias_(_mm512_loadu_ps(o.bias + k)) {}

  template <typename Sum>
  void write(const ByteOutputs& o, int64_t pixel) const {
    const int64_t offset = pixel * o.pitch + k_;
    __m512 y = whole_numbers(static_cast<const Sum*>(o.sums) + pixel * o.sums_pitch + k_);
    y = _mm512_add_ps(_mm512_mul_ps(y, scale_), bias_);
    if (o.residual != nullptr) {
      const __m512 residual = load_row(o.residual, o.residual_bytes, offset, mask_);
      y = _mm512_add_ps(y, _mm512_mul_ps(residual, factor_));
    }
    y = _mm512_min_ps(high_, _mm512_max_ps(low_, y));
    if (o.out != nullptr) store_vector(y, o.out, o.out_bytes, offset, mask_);
    if (o.out2 == nullptr) return;
    const __m512 scale2 = _mm512_maskz_loadu_ps(mask_, o.scale2 + k_);
    const __m512 bias2 = _mm512_maskz_loadu_ps(mask_, o.bias2 + k_);
    y = _mm512_add_ps(_mm512_mul_ps(y, scale2), bias2);
    y = _mm512_max_ps(_mm512_setzero_ps(), y);
    store_vector(y, o.out2, o.out2_bytes, offset, mask_);
  }

 private:
  int64_t k_ = 0;
  __mmask16 mask_ = 0;
  __m512 factor_ = {};
  __m512 low_ = {};
  __m512 high_ = {};
  __m512 scale_ = {};
  __m512 bias_ = {};
};

}  // namespace
}  // namespace segblocks::cpu

#endif  // SEGBLOCKS_CPU_TILES_BYTES_WRITER_H_
