// What every pixel of a padded block reads, and which padded pixels read a packed one.

#ifndef SEGBLOCKS_PADDING_H_
#define SEGBLOCKS_PADDING_H_

#include <cstdint>

#include "segblocks/layout.h"
#include "segblocks/macros.h"
#include "segblocks/resampling.h"

namespace segblocks {

// The packed pixels whose mean a padded pixel is: square x square of them, from `pixel` on.
struct Source {
  int64_t pixel;
  int64_t square;      // 0: outside the image, the padded pixel is zero.
  int64_t row_stride;  // Between the rows of the square, in pixels.
  int64_t run;         // So many pixels from this one on read consecutive packed pixels.
};

// A layout, and the padding around each block in pixels of the block's own resolution.
//
// A padded pixel has a position in the whole image at its block's resolution. It reads the cell
// that holds this position: the very pixel there, for a high block the nearest one of a low cell,
// for a low block the mean of the pixels that it covers in a high cell. Outside the image: zero.
struct PadLayout {
  BlockLayout blocks;
  int64_t padding_y;
  int64_t padding_x;

  SEGBLOCKS_HD int64_t height(bool high) const { return blocks.side(high) + 2 * padding_y; }
  SEGBLOCKS_HD int64_t width(bool high) const { return blocks.side(high) + 2 * padding_x; }
  SEGBLOCKS_HD int64_t area(bool high) const { return height(high) * width(high); }
  SEGBLOCKS_HD int64_t num_padded_pixels(bool high) const {
    return (high ? blocks.num_high : blocks.num_low()) * area(high);
  }

  // The position of pixel (i, j) of the padded block in `slot`, among those of its resolution.
  SEGBLOCKS_HD int64_t padded_pixel(int64_t slot, int64_t i, int64_t j) const {
    const bool high = blocks.is_high(slot);
    const int64_t block = high ? slot : slot - blocks.num_high;
    return block * area(high) + i * width(high) + j;
  }

  // What pixel (i, j) of the padded block at `cell`, of the given resolution, reads.
  SEGBLOCKS_HD Source source(const int32_t* slots, const Cell& cell, bool high, int64_t i,
                             int64_t j) const {
    const Source outside = {0, 0, 0, 1};
    const int64_t side = blocks.side(high);
    const int64_t y = cell.y * side + i - padding_y;
    const int64_t x = cell.x * side + j - padding_x;
    if (y < 0 || x < 0 || y >= blocks.grid_height * side || x >= blocks.grid_width * side) {
      return outside;
    }
    const int64_t slot = slots[blocks.index({cell.image, y / side, x / side})];
    if (!blocks.has_slot(slot)) return outside;
    const int64_t row = y % side;
    const int64_t column = x % side;
    const int64_t factor = blocks.factor;
    if (blocks.is_high(slot) == high) return {blocks.pixel(slot, row, column), 1, 0, side - column};
    if (high) return {blocks.pixel(slot, row / factor, column / factor), 1, 0, 1};
    return {blocks.pixel(slot, row * factor, column * factor), factor, blocks.block, 1};
  }

  // Calls visit(slot, padded pixel, weight) for every padded pixel that reads pixel (y, x) of the
  // block in `slot` at `cell`: the transpose of source().
  template <typename Visit>
  SEGBLOCKS_HD void for_each_reader(const int32_t* slots, const Cell& cell, int64_t slot, int64_t y,
                                    int64_t x, const Visit& visit) const {
    const Reach rows = reach(slot, cell.y, y, padding_y, blocks.grid_height);
    const Reach columns = reach(slot, cell.x, x, padding_x, blocks.grid_width);
    const bool high = blocks.is_high(slot);
    const float mean_weight = 1.0f / static_cast<float>(blocks.factor * blocks.factor);
    for (int64_t cell_y = rows.cells.first; cell_y <= rows.cells.last; ++cell_y) {
      for (int64_t cell_x = columns.cells.first; cell_x <= columns.cells.last; ++cell_x) {
        const int64_t reader = slots[blocks.index({cell.image, cell_y, cell_x})];
        if (!blocks.has_slot(reader)) continue;
        const bool reader_high = blocks.is_high(reader);
        const Span i = positions(rows, reader_high, cell_y, padding_y);
        const Span j = positions(columns, reader_high, cell_x, padding_x);
        const float weight = high && !reader_high ? mean_weight : 1.0f;
        for (int64_t row = i.first; row <= i.last; ++row) {
          for (int64_t column = j.first; column <= j.last; ++column) {
            visit(reader, padded_pixel(reader, row, column), weight);
          }
        }
      }
    }
  }

  // The positions along one axis of a block that no block but its own can read.
  SEGBLOCKS_HD Span interior(bool high, int64_t padding) const {
    const int64_t reach = high ? blocks.factor * padding : padding;
    return {reach, blocks.side(high) - 1 - reach};
  }

 private:
  // Along one axis: a pixel's extent in whole-image coordinates of both resolutions, and the
  // cells whose padded blocks may reach it. A low block's padding reaches farthest.
  struct Reach {
    Span high;
    int64_t low;
    Span cells;
  };

  SEGBLOCKS_HD Reach reach(int64_t slot, int64_t cell, int64_t position, int64_t padding,
                           int64_t grid) const {
    const int64_t factor = blocks.factor;
    Reach r;
    if (blocks.is_high(slot)) {
      const int64_t y = cell * blocks.block + position;
      r.high = {y, y};
      r.low = y / factor;
    } else {
      r.low = cell * blocks.low_block() + position;
      r.high = {r.low * factor, (r.low + 1) * factor - 1};
    }
    const int64_t first = r.low < padding ? 0 : (r.low - padding) / blocks.low_block();
    const int64_t last = (r.low + padding) / blocks.low_block();
    r.cells = {first, last < grid ? last : grid - 1};
    return r;
  }

  // Where, along one axis of the padded block at `cell`, the pixel of `r` is read.
  SEGBLOCKS_HD Span positions(const Reach& r, bool high, int64_t cell, int64_t padding) const {
    const int64_t origin = cell * blocks.side(high) - padding;
    if (!high) return {r.low - origin, r.low - origin};
    const int64_t end = blocks.block + 2 * padding - 1;
    const int64_t first = r.high.first - origin;
    const int64_t last = r.high.last - origin;
    return {first < 0 ? 0 : first, last > end ? end : last};
  }
};

}  // namespace segblocks

#endif  // SEGBLOCKS_PADDING_H_
