// Bilinear upsampling by an even factor, seen from between the pixels.

#ifndef SEGBLOCKS_CORNERS_H_
#define SEGBLOCKS_CORNERS_H_

#include <cstdint>

#include "segblocks/macros.h"

namespace segblocks {

// The `factor` output pixels, along one axis, that lie between the centers of two neighbors.
//
// Corner c = 0 .. side lies between input pixels c - 1 and c, both clamped to the image. Its phases
// 0 .. factor-1 are the output pixels first + phase, of which the image has those in range.
struct Corners {
  int64_t side;
  int64_t factor;  // Even.

  SEGBLOCKS_HD int64_t before(int64_t corner) const { return corner == 0 ? 0 : corner - 1; }
  SEGBLOCKS_HD int64_t behind(int64_t corner) const { return corner == side ? side - 1 : corner; }
  SEGBLOCKS_HD int64_t first(int64_t corner) const { return corner * factor - factor / 2; }
  SEGBLOCKS_HD int64_t first_phase(int64_t corner) const { return corner == 0 ? factor / 2 : 0; }
  SEGBLOCKS_HD int64_t last_phase(int64_t corner) const {
    return (corner == side ? factor / 2 : factor) - 1;
  }
};

// What pixel `behind` weighs at a phase; pixel `before` weighs the rest of 1. Exact.
SEGBLOCKS_HD float corner_weight(int64_t phase, int64_t factor) {
  return static_cast<float>(2 * phase + 1) / static_cast<float>(2 * factor);
}

}  // namespace segblocks

#endif  // SEGBLOCKS_CORNERS_H_
