// AVX-512's dot product of pairs of bfloat16 (VDPBF16PS).

#include <immintrin.h>
#include <stdint.h>

#include "cpu/pairs_dots.h"
#include "cpu/products.h"
#include "cpu/products_copies.h"

namespace segblocks::cpu {
namespace {

struct Avx512Dot {
  using Sums = __m512;

  SEGBLOCKS_INLINE static Sums zero() { return _mm512_setzero_ps(); }
  SEGBLOCKS_INLINE static Sums dot(Sums sums, const char* pixels, const char* weights) {
    int32_t pair;
    __builtin_memcpy(&pair, pixels, sizeof(pair));
    const __m512i w = _mm512_loadu_si512(weights);
    return _mm512_dpbf16_ps(sums, reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair)),
                            reinterpret_cast<__m512bh>(w));
  }
  SEGBLOCKS_INLINE static void store(float* rows, Sums sums) { _mm512_storeu_ps(rows, sums); }
};

}  // namespace

constinit const Products<Outputs> kAvx512DotPairs =
    dot_pairs<Avx512Dot>("avx512_bf16", &masked_copy);

}  // namespace segblocks::cpu
