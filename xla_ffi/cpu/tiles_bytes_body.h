// The loops on bytes that compilers make vectors of, for a file that is compiled for one
// instruction set, without joining products and sums (-ffp-contract=off): results are to be the
// same on all of them. No inline function of another header may be called here; see tiles.h.

#include <stdint.h>

#include "cpu/tiles_bytes.h"

namespace segblocks::cpu {
namespace {

void max(const void* const* rows, int64_t num_rows, int64_t channels, void* out) {
  uint8_t* __restrict best = static_cast<uint8_t*>(out);
  const uint8_t* first = static_cast<const uint8_t*>(rows[0]);
  for (int64_t k = 0; k < channels; ++k) best[k] = first[k];
  for (int64_t r = 1; r < num_rows; ++r) {
    const uint8_t* __restrict row = static_cast<const uint8_t*>(rows[r]);
    for (int64_t k = 0; k < channels; ++k) best[k] = row[k] > best[k] ? row[k] : best[k];
  }
}

#ifdef __AVX512BW__
constexpr int kWords = 32;
#else
constexpr int kWords = 8;
#endif
typedef uint8_t ByteVector __attribute__((vector_size(kWords), aligned(1), may_alias));
typedef uint16_t WordVector __attribute__((vector_size(2 * kWords)));

inline WordVector load_words(const uint8_t* p) {
#ifdef __AVX512BW__
  const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return reinterpret_cast<WordVector>(_mm512_maskz_cvtepu8_epi16(~0u, bytes));
#else
  return __builtin_convertvector(*reinterpret_cast<const ByteVector*>(p), WordVector);
#endif
}
inline void store_words(WordVector words, uint8_t* p) {
#ifdef __AVX512BW__
  const __m256i bytes = _mm512_maskz_cvtepi16_epi8(~0u, reinterpret_cast<__m512i>(words));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), bytes);
#else
  *reinterpret_cast<ByteVector*>(p) = __builtin_convertvector(words, ByteVector);
#endif
}

inline uint16_t load_word(const uint8_t* p) { return *p; }
inline void store_word(uint16_t word, uint8_t* p) { *p = static_cast<uint8_t>(word); }

// Of channel k, or of a vector of them from k on. Bilinear weights are sixteenths; half a unit goes
// up.
template <typename Words, typename Load, typename Store>
inline __attribute__((always_inline)) void upsample_words(const UpsampledSquare& square, int64_t k,
                                                          const Load& load, const Store& store) {
  Words rows[9];
#pragma GCC unroll 9
  for (int i = 0; i < 9; ++i) rows[i] = load(static_cast<const uint8_t*>(square.sources[i]) + k);
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    Words columns[3];
#pragma GCC unroll 3
    for (int j = 0; j < 3; ++j) {
      columns[j] = static_cast<Words>(rows[3 + j] + rows[3 + j] + rows[3 + j] + rows[6 * i + j]);
    }
    const auto middle = static_cast<Words>(columns[1] + columns[1] + columns[1] + 8);
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      const auto sum = static_cast<Words>(middle + columns[2 * j]);
      store(static_cast<Words>(sum >> 4), static_cast<uint8_t*>(square.outs[2 * i + j]) + k);
    }
  }
}

void upsample(const UpsampledSquare& given) {
  const UpsampledSquare square = given;  // A copy that no write through a pointer can change.
  int64_t k = 0;
  for (; k + kWords <= square.channels; k += kWords) {
    upsample_words<WordVector>(square, k, load_words, store_words);
  }
  for (; k < square.channels; ++k) {
    upsample_words<uint16_t>(square, k, load_word, store_word);
  }
}

// Half a unit goes up.
void mean(const void* const* rows, int64_t num_rows, int64_t channels, void* out) {
  uint8_t* __restrict to = static_cast<uint8_t*>(out);
  const auto row = [&](int64_t r) { return static_cast<const uint8_t*>(rows[r]); };
  if (num_rows == 4) {
    const uint8_t* __restrict a = row(0);
    const uint8_t* __restrict b = row(1);
    const uint8_t* __restrict c = row(2);
    const uint8_t* __restrict d = row(3);
    for (int64_t k = 0; k < channels; ++k) {
      to[k] = static_cast<uint8_t>(static_cast<uint16_t>(a[k] + b[k] + c[k] + d[k] + 2) >> 2);
    }
    return;
  }
  for (int64_t k = 0; k < channels; ++k) {
    int64_t sum = 0;
    for (int64_t r = 0; r < num_rows; ++r) sum += row(r)[k];
    to[k] = static_cast<uint8_t>((2 * sum + num_rows) / (2 * num_rows));
  }
}

using Write = void (*)(const ByteOutputs& outputs);

template <template <int, int> typename Accumulate>
constexpr ByteLoops byte_loops(const char* name, Write write, Write write_depthwise,
                               const Products<ByteOutputs>* products = nullptr) {
#define SEGBLOCKS_BYTE_SIZES(kPixels, kPanels)                         \
  {                                                                    \
    {kPixels, &Accumulate<kPixels, kPanels>::run},                     \
        {kPixels * 2 / 3, &Accumulate<kPixels * 2 / 3, kPanels>::run}, \
        {kPixels / 3, &Accumulate<kPixels / 3, kPanels>::run},         \
  }
  return {name,
          {SEGBLOCKS_BYTE_SIZES(12, 1), SEGBLOCKS_BYTE_SIZES(12, 2), SEGBLOCKS_BYTE_SIZES(9, 3),
           SEGBLOCKS_BYTE_SIZES(6, 4)},
          write,
          write_depthwise,
          {nullptr, &max, &upsample, &mean, nullptr, {}, {}},
          products};
#undef SEGBLOCKS_BYTE_SIZES
}

}  // namespace
}  // namespace segblocks::cpu
