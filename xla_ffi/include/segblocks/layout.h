// Where the pixels of a grid of high- and low-resolution blocks lie.

#ifndef SEGBLOCKS_LAYOUT_H_
#define SEGBLOCKS_LAYOUT_H_

#include <cstdint>

#include "segblocks/macros.h"

namespace segblocks {

// The position of a block in the grid of a batch of images.
struct Cell {
  int64_t image;
  int64_t y;
  int64_t x;
};

// The sizes that place every pixel, in the image and in the packed list.
//
// Packed list: the high blocks' pixels, then the low blocks', each block row-major, the blocks in
// the order of their slots: 0 .. num_high-1 are high, num_high .. cells()-1 low.
struct BlockLayout {
  int64_t images;
  int64_t grid_height;
  int64_t grid_width;
  int64_t block;     // Side of a high block, in pixels.
  int64_t factor;    // Side of a high block over the side of a low one.
  int64_t num_high;  // How many blocks are high.
  int64_t channels;

  SEGBLOCKS_HD int64_t cells() const { return images * grid_height * grid_width; }
  SEGBLOCKS_HD int64_t num_low() const { return cells() - num_high; }
  SEGBLOCKS_HD int64_t low_block() const { return block / factor; }
  SEGBLOCKS_HD int64_t side(bool high) const { return high ? block : low_block(); }
  SEGBLOCKS_HD int64_t area(bool high) const { return side(high) * side(high); }
  SEGBLOCKS_HD int64_t num_pixels() const {
    return num_high * area(true) + num_low() * area(false);
  }
  SEGBLOCKS_HD int64_t num_image_pixels() const { return cells() * area(true); }
  SEGBLOCKS_HD bool empty() const { return cells() == 0 || channels == 0; }

  SEGBLOCKS_HD Cell cell(int64_t index) const {
    const int64_t row = index / grid_width;
    return {row / grid_height, row % grid_height, index % grid_width};
  }
  SEGBLOCKS_HD int64_t index(const Cell& cell) const {
    return (cell.image * grid_height + cell.y) * grid_width + cell.x;
  }

  SEGBLOCKS_HD bool has_slot(int64_t slot) const { return slot >= 0 && slot < cells(); }
  SEGBLOCKS_HD bool is_high(int64_t slot) const { return slot < num_high; }

  // The packed position of pixel (y, x) of the block in `slot`.
  SEGBLOCKS_HD int64_t pixel(int64_t slot, int64_t y, int64_t x) const {
    const bool high = is_high(slot);
    const int64_t first =
        high ? slot * area(true) : num_high * area(true) + (slot - num_high) * area(false);
    return first + y * side(high) + x;
  }

  // The position in the images, row-major, of full-resolution pixel (y, x) of the block at `cell`.
  SEGBLOCKS_HD int64_t image_pixel(const Cell& cell, int64_t y, int64_t x) const {
    const int64_t row = (cell.image * grid_height + cell.y) * block + y;
    return (row * grid_width + cell.x) * block + x;
  }
};

}  // namespace segblocks

#endif  // SEGBLOCKS_LAYOUT_H_
