// Copies in whole steps by AVX-512's masked loads, see cpu/pairs.h.

#ifndef SEGBLOCKS_CPU_PAIRS_COPIES_H_
#define SEGBLOCKS_CPU_PAIRS_COPIES_H_

#include <immintrin.h>
#include <stdint.h>

#include "cpu/pairs.h"

namespace segblocks::cpu {
namespace {

inline void masked_copy(const PairCopies& given) {
  constexpr int64_t kStep = kStepBytes / static_cast<int64_t>(sizeof(uint16_t));
  const PairCopies c = given;  // A copy that no write through a pointer can change.
  const int64_t whole = c.depth / kStep * kStep;
  const auto mask = static_cast<__mmask32>((1u << (c.depth - whole)) - 1);
  for (int64_t i = 0; i < c.count; ++i) {
    const uint16_t* from = c.from + i * c.step;
    uint16_t* to = c.to + i * c.pitch;
    for (int64_t d = 0; d < whole; d += kStep) {
      _mm512_storeu_si512(to + d, _mm512_loadu_si512(from + d));
    }
    if (mask != 0) _mm512_storeu_si512(to + whole, _mm512_maskz_loadu_epi16(mask, from + whole));
  }
}

}  // namespace
}  // namespace segblocks::cpu

#endif  // SEGBLOCKS_CPU_PAIRS_COPIES_H_
