// The best classes of upsampled logits; see tiles_body.h.

#ifndef SEGBLOCKS_CPU_TILES_ARGMAX_H_
#define SEGBLOCKS_CPU_TILES_ARGMAX_H_

#include <stdint.h>
#include <string.h>

#include "cpu/half.h"
#include "cpu/tiles.h"
#include "cpu/tiles_vectors.h"

namespace segblocks::cpu {
namespace {

typedef int32_t IntVector __attribute__((vector_size(4 * kLanes)));

template <typename T>
void read_logits(const LogitsRow& given) {
  const LogitsRow row = given;  // A copy that no write through a pointer can change.
  const T* pixels = static_cast<const T*>(row.row);
  for (int64_t first = 0; first < row.pixels; first += kLanes) {
    const int64_t stop = first + kLanes < row.pixels ? first + kLanes : row.pixels;
    for (int64_t k = 0; k < row.classes; ++k) {
      for (int64_t x = first; x < stop; ++x) {
        row.planes[k * row.pitch + x] = to_float(pixels[x * row.classes + k]);
      }
    }
  }
}

// The weights of phase `phase`: of what is behind, and before.
struct PhaseWeights {
  float behind;
  float before;
};

SEGBLOCKS_INLINE PhaseWeights phase_weights(int64_t phase, int64_t factor) {
  const float behind = static_cast<float>(2 * phase + 1) / static_cast<float>(2 * factor);
  return {behind, 1.0f - behind};
}

// The labels of kPhases phases along x, from phase `first_x` on, of a vector of corners and phase
// `y`. The bytes of an element of the result are those of a corner.
template <int kPhases>
SEGBLOCKS_INLINE IntVector best_classes(const LabelRows& rows, int64_t corner, int64_t y,
                                        int64_t first_x) {
  const PhaseWeights down = phase_weights(y, rows.factor);
  PhaseWeights across[kPhases];
  Vector best[kPhases];
  IntVector label[kPhases];
#pragma GCC unroll 4
  for (int p = 0; p < kPhases; ++p) {
    across[p] = phase_weights(first_x + p, rows.factor);
    best[p] = Vector{} - __builtin_inff();
    label[p] = IntVector{};
  }
  const float* above = rows.above + corner;
  const float* below = rows.below + corner;
  for (int64_t k = 0; k < rows.classes; ++k) {
    const Vector left = load(above) * down.before + load(below) * down.behind;
    const Vector right = load(above + 1) * down.before + load(below + 1) * down.behind;
    above += rows.pitch;
    below += rows.pitch;
    const IntVector k_vector = IntVector{} + static_cast<int32_t>(k);
#pragma GCC unroll 4
    for (int p = 0; p < kPhases; ++p) {
      const Vector value = left * across[p].before + right * across[p].behind;
      const IntVector wins = value > best[p];
      best[p] = wins ? value : best[p];
      label[p] = wins ? k_vector : label[p];
    }
  }
  IntVector bytes = label[0];
#pragma GCC unroll 4
  for (int p = 1; p < kPhases; ++p) bytes |= label[p] << 8 * p;
  return bytes;
}

template <int kPhases>
SEGBLOCKS_INLINE void label_phases(const LabelRows& rows, int64_t corner, int64_t row,
                                   int64_t first_x) {
  const IntVector bytes = best_classes<kPhases>(rows, corner, rows.first_phase + row, first_x);
  uint8_t* labels = rows.labels + row * rows.label_pitch + corner * rows.factor + first_x;
  if (kPhases == 4 && rows.factor == 4) {
    memcpy(labels, &bytes, sizeof(bytes));
    return;
  }
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    const int32_t word = bytes[i];
    memcpy(labels + i * rows.factor, &word, kPhases);  // Little-endian.
  }
}

void label(const LabelRows& given) {
  const LabelRows rows = given;  // A copy that no write through a pointer can change.
  for (int64_t corner = 0; corner < rows.corners; corner += kLanes) {
    for (int64_t row = 0; row < rows.phases; ++row) {
      if (rows.factor == 2) {
        label_phases<2>(rows, corner, row, 0);
        continue;
      }
      for (int64_t x = 0; x < rows.factor; x += 4) label_phases<4>(rows, corner, row, x);
    }
  }
}

}  // namespace
}  // namespace segblocks::cpu

#endif  // SEGBLOCKS_CPU_TILES_ARGMAX_H_
