// Where copies of the pixels that a chunk reads lie, so that tiles of 16 pixels can be loaded:
// these are equally far from each other at every tap.

#ifndef SEGBLOCKS_CPU_COPY_PLAN_H_
#define SEGBLOCKS_CPU_COPY_PLAN_H_

#include <algorithm>
#include <cstdint>

#include "cpu/products.h"
#include "cpu/units.h"

namespace segblocks::cpu {

// Where the copies of a chunk lie. Three arrangements are known; the one of fewest tiles is taken,
// of those the one of fewest copies:
//
// rows      the patch as it is; a tile lies in one row of outputs
// columns   for each column of taps a copy of what it reads, rows of one phase of the stride
//           together: the pixels of a unit follow each other, and a tile goes over their rows
// windows   for each tap a copy of what it reads: a tile goes over units, too
//
// Where the chunk's rows are parts of rows, tiles end with them.
// Where the taps of a kernel row are merged they are one column, and a copy is all that it reads.
class CopyPlan {
 public:
  // One copy or several: of the patch row `row` of a unit, from `column` on, `step` apart.
  struct Line {
    int64_t position;
    int64_t unit;
    int64_t row;
    int64_t column;
    int64_t count;
    int64_t step;
  };
  struct Tile {
    int64_t position;  // Of the copy that its first pixel's first tap reads.
    int64_t output;    // Row of its first pixel.
    int64_t live;      // Pixels.
  };

  CopyPlan(const Chunk& chunk, const Window& window, bool merged)
      : chunk_(chunk),
        window_(window),
        taps_x_(merged ? 1 : window.width),
        rows_((chunk.height - 1) * window.stride + window.extent_y()),
        columns_((chunk.width - 1) * window.stride + window.extent_x()),
        phase_rows_(ceil_div(rows_, window.stride)) {
    int64_t best_tiles = 0;
    int64_t best_copies = 0;
    for (const Kind kind : {Kind::kRows, Kind::kColumns, Kind::kWindows}) {
      if (merged && kind == Kind::kRows) continue;
      kind_ = kind;
      const int64_t tiles = num_tiles();
      const int64_t copies = num_copies();
      if (best_tiles == 0 || tiles < best_tiles || (tiles == best_tiles && copies < best_copies)) {
        best_tiles = tiles;
        best_copies = copies;
        best_ = kind;
      }
    }
    kind_ = best_;
  }

  int64_t num_copies() const {
    if (kind_ == Kind::kRows) return chunk_.units * rows_ * columns_;
    if (kind_ == Kind::kColumns) return chunk_.units * unit_copies();
    return window_.height * taps_x_ * chunk_.pixels();
  }
  int64_t num_tiles() const {
    const int64_t area = chunk_.height * chunk_.width;
    if (ends_with_rows()) {
      return chunk_.units * chunk_.height * ceil_div(chunk_.width, kTilePixels);
    }
    if (kind_ == Kind::kColumns) return chunk_.units * ceil_div(area, kTilePixels);
    return ceil_div(chunk_.units * area, kTilePixels);
  }
  // Copies from a pixel of a tile to the next.
  int64_t pixel_step() const { return kind_ == Kind::kRows ? window_.stride : 1; }
  // Copies from what the first tap reads to what tap (i, j) does.
  int64_t tap(int64_t i, int64_t j) const {
    const int64_t down = i * window_.dilation;
    if (kind_ == Kind::kRows) return down * columns_ + j * window_.dilation;
    if (kind_ == Kind::kWindows) return (i * taps_x_ + j) * chunk_.pixels();
    const int64_t phase = down % window_.stride;
    return ((j * window_.stride + phase) * phase_rows_ + down / window_.stride) * chunk_.width;
  }

  // Tiles in a row of outputs, where tiles that are as far from each other as two kernel rows lie
  // below each other; else 0.
  int64_t tiles_to_below() const {
    const bool fits = kind_ == Kind::kRows && window_.stride == 1 && window_.dilation == 1;
    return fits ? ceil_div(chunk_.width, kTilePixels) : 0;
  }
  template <typename Visit>
  void for_each_line(const Visit& visit) const {
    const int64_t stride = window_.stride;
    for (int64_t u = 0; u < chunk_.units; ++u) {
      if (kind_ == Kind::kRows) {
        for (int64_t r = 0; r < rows_; ++r) {
          visit(Line{(u * rows_ + r) * columns_, u, r, 0, columns_, 1});
        }
        continue;
      }
      for (int64_t j = 0; j < taps_x_; ++j) {
        Line line{0, u, 0, j * window_.dilation, chunk_.width, stride};
        if (kind_ == Kind::kColumns) {
          for (int64_t r = 0; r < rows_; ++r) {
            const int64_t place = (j * stride + r % stride) * phase_rows_ + r / stride;
            line.position = u * unit_copies() + place * chunk_.width;
            line.row = r;
            visit(line);
          }
          continue;
        }
        for (int64_t i = 0; i < window_.height; ++i) {
          for (int64_t y = 0; y < chunk_.height; ++y) {
            line.position = tap(i, j) + position(u, y);
            line.row = y * stride + i * window_.dilation;
            visit(line);
          }
        }
      }
    }
  }

  template <typename Visit>
  void for_each_tile(const Visit& visit) const {
    // Tiles cross no ends of runs.
    const int64_t height = ends_with_rows() ? 1 : chunk_.height;
    const int64_t run = height * chunk_.width;
    if (kind_ == Kind::kWindows && !ends_with_rows()) {
      return tiles_of_run(0, chunk_.first_output(), chunk_.pixels(), visit);
    }
    const UnitOutputs& outputs = chunk_.live->outputs;
    for (int64_t u = 0; u < chunk_.units; ++u) {
      for (int64_t y = 0; y < chunk_.height; y += height) {
        const int64_t output = chunk_.first_output() + u * outputs.area() + y * outputs.width;
        tiles_of_run(position(u, y), output, run, visit);
      }
    }
  }

 private:
  enum class Kind { kRows, kColumns, kWindows };

  bool ends_with_rows() const { return kind_ == Kind::kRows || !chunk_.has_whole_rows(); }
  int64_t unit_copies() const { return taps_x_ * window_.stride * phase_rows_ * chunk_.width; }

  // Of what the first tap of a row's first pixel reads.
  int64_t position(int64_t u, int64_t y) const {
    if (kind_ == Kind::kRows) return (u * rows_ + y * window_.stride) * columns_;
    if (kind_ == Kind::kColumns) return u * unit_copies() + y * chunk_.width;
    return (u * chunk_.height + y) * chunk_.width;
  }

  template <typename Visit>
  void tiles_of_run(int64_t position, int64_t output, int64_t count, const Visit& visit) const {
    for (int64_t k = 0; k < count; k += kTilePixels) {
      visit(
          Tile{position + k * pixel_step(), output + k, std::min<int64_t>(kTilePixels, count - k)});
    }
  }

  const Chunk& chunk_;
  const Window& window_;
  const int64_t taps_x_;
  const int64_t rows_;     // Of a unit's patch, that the chunk reads.
  const int64_t columns_;  // Likewise.
  const int64_t phase_rows_;
  Kind kind_ = Kind::kRows;
  Kind best_ = Kind::kRows;
};

}  // namespace segblocks::cpu

#endif  // SEGBLOCKS_CPU_COPY_PLAN_H_
