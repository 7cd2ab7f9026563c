// Where two convolutions at a mask's active pixels read.

#ifndef SEGBLOCKS_MASK_TABLES_H_
#define SEGBLOCKS_MASK_TABLES_H_

#include <cstdint>

#include "segblocks/macros.h"

namespace segblocks {

// A square window of a zero-padded convolution, over maps of height x width.
struct MapWindow {
  int64_t side;
  int64_t stride;
  int64_t padding;
  int64_t height;
  int64_t width;

  SEGBLOCKS_HD int64_t area() const { return side * side; }
  SEGBLOCKS_HD bool inside(int64_t y, int64_t x) const {
    return y >= 0 && y < height && x >= 0 && x < width;
  }
};

// Pixel (i, j) of the mask activates (i * stride + a, j * stride + b) of the dilated one, for a and
// b in -1, 0, 1, where that lies inside.
struct MaskTableLayout {
  static constexpr int64_t kPart = 1024;  // Pixels that a block of threads counts.

  int64_t images;
  int64_t height;  // Of the mask.
  int64_t width;
  int64_t stride;    // Of the dilation.
  MapWindow first;   // Over the images.
  MapWindow second;  // Over the dilated mask's pixels.

  SEGBLOCKS_HD int64_t area() const { return height * width; }
  SEGBLOCKS_HD int64_t num_pixels() const { return images * area(); }
  SEGBLOCKS_HD int64_t dilated_area() const { return second.height * second.width; }
  SEGBLOCKS_HD int64_t num_dilated() const { return images * dilated_area(); }
  SEGBLOCKS_HD int64_t dilated_parts() const { return (num_dilated() + kPart - 1) / kPart; }
  SEGBLOCKS_HD int64_t mask_parts() const { return (num_pixels() + kPart - 1) / kPart; }
  SEGBLOCKS_HD int64_t num_parts() const { return dilated_parts() + mask_parts(); }
};

}  // namespace segblocks

#endif  // SEGBLOCKS_MASK_TABLES_H_
