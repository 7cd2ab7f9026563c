// Which row of the packed list, or which halo row, every position of a padded block's patch reads.

#ifndef SEGBLOCKS_INDEX_TABLES_H_
#define SEGBLOCKS_INDEX_TABLES_H_

#include <cstdint>

#include "segblocks/layout.h"
#include "segblocks/macros.h"

namespace segblocks {

// What a position outside the image reads.
enum class Border {
  kZeros,  // A row of zeros.
  kImage,  // The nearest position of the image, at the block's own resolution.
  kBlock   // The nearest position of the block itself; no position reads a neighbor.
};

// The cells of a square map of `side` that lie within `edge` of its border, row by row: their
// number, and the position of one of them.
template <typename Int>
SEGBLOCKS_HD Int ring_size(Int side, Int edge) {
  if (side <= 2 * edge) return edge == 0 ? 0 : side * side;
  return side * side - (side - 2 * edge) * (side - 2 * edge);
}
template <typename Int>
SEGBLOCKS_HD Int ring_position(Int side, Int edge, Int y, Int x) {
  if (side <= 2 * edge || y < edge) return y * side + x;
  const Int inner = side - 2 * edge;
  if (y < side - edge) return edge * side + (y - edge) * 2 * edge + (x < edge ? x : x - inner);
  return edge * side + inner * 2 * edge + (y - (side - edge)) * side + x;
}

// The tables of a layer whose high blocks have `blocks.block` pixels a side.
//
// A high block next to a low one lends it averaged pixels, "halos": the means of factor x factor
// pixels, of those cells of its averaged map that lie within `padding` of the map's edge, row by
// row. Halo g of high block s has index blocks.num_pixels() + s * ring() + g.
struct IndexTableLayout {
  BlockLayout blocks;  // `channels` is not used.
  int64_t padding;
  Border border;

  SEGBLOCKS_HD int64_t patch_side(bool high) const { return blocks.side(high) + 2 * padding; }
  SEGBLOCKS_HD int64_t patch_area(bool high) const { return patch_side(high) * patch_side(high); }

  // Halos of one high block.
  SEGBLOCKS_HD int64_t ring() const { return ring_size(blocks.low_block(), padding); }
  SEGBLOCKS_HD int64_t num_halos() const { return blocks.num_high * ring(); }

  // The halo of averaged cell (y, x), which must lie in the ring.
  template <typename Int>
  SEGBLOCKS_HD Int ring_position(Int y, Int x) const {
    return segblocks::ring_position(static_cast<Int>(blocks.low_block()), static_cast<Int>(padding),
                                    y, x);
  }

  // The averaged cell of halo g of a block: the inverse of ring_position().
  template <typename Int>
  SEGBLOCKS_HD void ring_cell(Int g, Int* y, Int* x) const {
    const Int side = static_cast<Int>(blocks.low_block());
    const Int edge = static_cast<Int>(padding);
    const Int inner = side - 2 * edge;
    const Int above = edge * side;
    if (inner <= 0 || g < above) {
      *y = g / side;
      *x = g % side;
    } else if (g < above + inner * 2 * edge) {
      const Int column = (g - above) % (2 * edge);
      *y = edge + (g - above) / (2 * edge);
      *x = column < edge ? column : column + inner;
    } else {
      const Int rest = g - above - inner * 2 * edge;
      *y = side - edge + rest / side;
      *x = rest % side;
    }
  }

  // Cells on each side of a high block whose low blocks may read its halos: the neighbors, and
  // more only where the padding exceeds a low block.
  SEGBLOCKS_HD int64_t halo_reach() const {
    const int64_t side = blocks.low_block();
    return padding <= side ? 1 : (padding + side - 1) / side;
  }

  // Whether a low block may read a halo of the high block at `cell`.
  SEGBLOCKS_HD bool has_halos(const int32_t* slots, const Cell& cell) const {
    const int64_t reach = halo_reach();
    const int64_t first_y = cell.y < reach ? 0 : cell.y - reach;
    const int64_t first_x = cell.x < reach ? 0 : cell.x - reach;
    for (int64_t y = first_y; y <= cell.y + reach && y < blocks.grid_height; ++y) {
      for (int64_t x = first_x; x <= cell.x + reach && x < blocks.grid_width; ++x) {
        if (!blocks.is_high(slots[blocks.index({cell.image, y, x})])) return true;
      }
    }
    return false;
  }

  // Row `k` (0 .. factor * factor - 1) of the mean of halo g of the high block in `slot`.
  SEGBLOCKS_HD int64_t mean_row(int64_t slot, int64_t g, int64_t k) const {
    int64_t y;
    int64_t x;
    ring_cell(g, &y, &x);
    const int64_t factor = blocks.factor;
    return blocks.pixel(slot, y * factor + k / factor, x * factor + k % factor);
  }

  // The index that position (i, j) of the patch of the block at `cell` reads. Slots out of range
  // read zeros.
  SEGBLOCKS_HD int64_t index(const int32_t* slots, const Cell& cell, int64_t i, int64_t j) const {
    const int64_t own = slots[blocks.index(cell)];
    if (!blocks.has_slot(own)) return -1;
    const bool high = blocks.is_high(own);
    const int64_t side = blocks.side(high);
    int64_t y = cell.y * side + i - padding;
    int64_t x = cell.x * side + j - padding;
    if (border == Border::kBlock) {
      y = clamped(y, cell.y * side, (cell.y + 1) * side - 1);
      x = clamped(x, cell.x * side, (cell.x + 1) * side - 1);
    } else if (border == Border::kImage) {
      y = clamped(y, 0, blocks.grid_height * side - 1);
      x = clamped(x, 0, blocks.grid_width * side - 1);
    } else if (y < 0 || x < 0 || y >= blocks.grid_height * side || x >= blocks.grid_width * side) {
      return -1;
    }
    return inside(slots[blocks.index({cell.image, y / side, x / side})], high, y % side, x % side);
  }

  // The index that a block of the given resolution reads at (y, x), in its own pixels, of the
  // block in `slot`.
  SEGBLOCKS_HD int64_t inside(int64_t slot, bool high, int64_t y, int64_t x) const {
    if (!blocks.has_slot(slot)) return -1;
    if (blocks.is_high(slot) == high) return blocks.pixel(slot, y, x);
    if (high) return blocks.pixel(slot, y / blocks.factor, x / blocks.factor);
    return blocks.num_pixels() + slot * ring() + ring_position(y, x);
  }

 private:
  SEGBLOCKS_HD static int64_t clamped(int64_t value, int64_t first, int64_t last) {
    return value < first ? first : value > last ? last : value;
  }
};

}  // namespace segblocks

#endif  // SEGBLOCKS_INDEX_TABLES_H_
