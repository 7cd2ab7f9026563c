// The best class of every pixel of logits that are enlarged bilinearly by 2, 4 or 8.

#ifndef SEGBLOCKS_LABEL_MAP_H_
#define SEGBLOCKS_LABEL_MAP_H_

#include <cstdint>

#include "segblocks/calls.h"
#include "segblocks/macros.h"

namespace segblocks {

// The `factor` output pixels, along one axis, that lie between the centres of two neighbours.
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

// Ties go to the lowest class. A NaN never wins; where nothing is above minus infinity, class 0
// does.
struct LabelMapCall {
  static constexpr int64_t kMostClasses = 256;

  Element element;
  int64_t images;
  int64_t height;  // Of the logits.
  int64_t width;
  int64_t classes;
  int64_t factor;
  const void* logits;  // (images, height, width, classes)
  uint8_t* labels;     // (images, height * factor, width * factor)

  SEGBLOCKS_HD Corners rows() const { return {height, factor}; }
  SEGBLOCKS_HD Corners columns() const { return {width, factor}; }
  SEGBLOCKS_HD bool empty() const { return images == 0 || height == 0 || width == 0; }
};

}  // namespace segblocks

#endif  // SEGBLOCKS_LABEL_MAP_H_
