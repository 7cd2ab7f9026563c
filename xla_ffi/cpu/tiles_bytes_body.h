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

// Bilinear weights are sixteenths; half a unit goes up.
void upsample(const UpsampledSquare& square) {
  for (int corner = 0; corner < 4; ++corner) {
    const auto source = [&](int row, int column) {
      return static_cast<const uint8_t*>(square.sources[3 * row + column]);
    };
    const int row = corner < 2 ? 0 : 2;
    const int column = corner % 2 == 0 ? 0 : 2;
    const uint8_t* __restrict middle = source(1, 1);
    const uint8_t* __restrict vertical = source(row, 1);
    const uint8_t* __restrict horizontal = source(1, column);
    const uint8_t* __restrict diagonal = source(row, column);
    uint8_t* __restrict out = static_cast<uint8_t*>(square.outs[corner]);
    for (int64_t k = 0; k < square.channels; ++k) {
      const uint16_t sum = static_cast<uint16_t>(9 * middle[k] + 3 * (vertical[k] + horizontal[k]) +
                                                 diagonal[k] + 8);
      out[k] = static_cast<uint8_t>(sum >> 4);
    }
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

void to_float(const void* row, int64_t count, float* out) {
  const uint8_t* __restrict values = static_cast<const uint8_t*>(row);
  float* __restrict to = out;
  for (int64_t k = 0; k < count; ++k) to[k] = static_cast<float>(values[k]);
}

using Write = void (*)(const ByteOutputs& outputs);

template <template <int, int> typename Accumulate>
constexpr ByteLoops byte_loops(Write write, Write write_depthwise) {
#define SEGBLOCKS_BYTE_SIZES(kPixels, kPanels)                         \
  {                                                                    \
    {kPixels, &Accumulate<kPixels, kPanels>::run},                     \
        {kPixels * 2 / 3, &Accumulate<kPixels * 2 / 3, kPanels>::run}, \
        {kPixels / 3, &Accumulate<kPixels / 3, kPanels>::run},         \
  }
  return {{SEGBLOCKS_BYTE_SIZES(12, 1), SEGBLOCKS_BYTE_SIZES(12, 2), SEGBLOCKS_BYTE_SIZES(9, 3),
           SEGBLOCKS_BYTE_SIZES(6, 4)},
          write,
          write_depthwise,
          {nullptr, &max, &upsample, &mean, &to_float, {}, {}}};
#undef SEGBLOCKS_BYTE_SIZES
}

}  // namespace
}  // namespace segblocks::cpu
