// How the pixels of a low block relate to those of the image it covers.

#ifndef SEGBLOCKS_RESAMPLING_H_
#define SEGBLOCKS_RESAMPLING_H_

#include <cstdint>

#include "segblocks/macros.h"

namespace segblocks {

// The one or two low pixels, along one axis, that a full-resolution pixel reads.
//
// A second tap of weight 0 must not be read: 0 times infinity would be NaN.
struct Taps {
  int64_t first;
  int64_t second;
  float first_weight;
  float second_weight;

  // The weight of a low pixel.
  SEGBLOCKS_HD float weight(int64_t low_position) const {
    if (first == low_position) return first_weight;
    return second == low_position ? second_weight : 0.0f;
  }
};

// The full-resolution pixels first .. last, along one axis, that may read a low pixel.
struct Span {
  int64_t first;
  int64_t last;
};

// An upsampling of a block alone by an integer factor, times `scale`; and its transpose.
//
// Nearest: every low pixel becomes a square of factor x factor. Bilinear: half-pixel centers,
// positions beyond the outermost centers clamped to them.
struct Resampling {
  bool bilinear;
  float scale;

  SEGBLOCKS_HD Taps taps(int64_t position, int64_t factor, int64_t low_side) const {
    if (!bilinear) return {position / factor, position / factor, 1.0f, 0.0f};
    // (position + 1/2) / factor - 1/2 in exact units of 1 / (2 * factor).
    const int64_t unit = 2 * factor;
    const int64_t center = 2 * position + 1 - factor;
    if (center <= 0) return {0, 0, 1.0f, 0.0f};
    const int64_t first = center / unit;
    if (first >= low_side - 1) return {low_side - 1, low_side - 1, 1.0f, 0.0f};
    const float weight = static_cast<float>(center % unit) / static_cast<float>(unit);
    return {first, first + 1, 1.0f - weight, weight};
  }

  SEGBLOCKS_HD Span readers(int64_t low_position, int64_t factor, int64_t side) const {
    const int64_t margin = bilinear ? factor / 2 : 0;
    const int64_t first = low_position * factor - margin;
    const int64_t last = (low_position + 1) * factor - 1 + margin;
    return {first < 0 ? 0 : first, last >= side ? side - 1 : last};
  }

  // The weight with which the full-resolution pixel at `position` reads low pixel `low_position`.
  SEGBLOCKS_HD float weight(int64_t position, int64_t low_position, int64_t factor,
                            int64_t low_side) const {
    return taps(position, factor, low_side).weight(low_position);
  }
};

}  // namespace segblocks

#endif  // SEGBLOCKS_RESAMPLING_H_
