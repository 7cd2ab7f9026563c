// Copies in whole steps by AVX-512's masked loads, see cpu/products.h.

#ifndef SEGBLOCKS_CPU_PRODUCTS_COPIES_H_
#define SEGBLOCKS_CPU_PRODUCTS_COPIES_H_

#include <immintrin.h>
#include <stdint.h>

#include "cpu/products.h"

namespace segblocks::cpu {
namespace {

inline void masked_copy(const Copies& given) {
  const Copies c = given;  // A copy that no write through a pointer can change.
  const int64_t whole = c.depth / kStepBytes * kStepBytes;
  const auto mask = static_cast<__mmask64>((uint64_t{1} << (c.depth - whole)) - 1);
  for (int64_t i = 0; i < c.count; ++i) {
    const char* from = c.from + i * c.step;
    char* to = c.to + i * c.pitch;
    for (int64_t d = 0; d < whole; d += kStepBytes) {
      _mm512_storeu_si512(to + d, _mm512_loadu_si512(from + d));
    }
    if (mask != 0) _mm512_storeu_si512(to + whole, _mm512_maskz_loadu_epi8(mask, from + whole));
  }
}

}  // namespace
}  // namespace segblocks::cpu

#endif  // SEGBLOCKS_CPU_PRODUCTS_COPIES_H_
