// Copies of the pixels that a chunk reads, in bfloat16, as tiles of 16 pixels take them: the pixels
// of a tile lie equally far from each other at every tap.

#ifndef SEGBLOCKS_CPU_PAIR_COPIES_H_
#define SEGBLOCKS_CPU_PAIR_COPIES_H_

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "cpu/pairs.h"
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
      visit(Tile{position + k * pixel_step(), output + k,
                 std::min<int64_t>(kTilePixels, count - k)});
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

// Makes the copies: of a pixel's channels, or, where taps are merged, of those that a kernel row
// reads. Zeros up to a whole step must be there already.
class PairCopier {
 public:
  PairCopier(const IndexedConvCall& call, const RowAddresses& addresses, bool merged)
      : addresses_(addresses),
        channels_(call.input.channels),
        num_rows_(call.input.num_rows),
        end_(reinterpret_cast<uintptr_t>(call.input.rows) + num_rows_ * channels_ * sizeof(Bits)),
        taps_(merged ? call.window.width : 1),
        dilation_(call.window.dilation),
        depth_(taps_ * channels_),
        whole_(depth_ / PairLayout::kStep * PairLayout::kStep),
        pitch_(ceil_div(depth_, PairLayout::kStep) * PairLayout::kStep) {
    for (int64_t k = 0; k < PairLayout::kStep; ++k) mask_[k] = k < depth_ - whole_ ? 0xffff : 0;
  }

  // Makes `count` copies of what lies `step` indices apart.
  void copy(const int32_t* indices, int64_t count, int64_t step, char* copies) const {
    auto* to = reinterpret_cast<Bits*>(copies);
    if (depth_ == 0) return;
    for (int64_t k = 0; k < count;) {
      const int64_t run = run_of_rows(indices, count - k, step);
      if (run > 0 && depth_ == pitch_ && step == 1 && taps_ == 1) {
        std::memcpy(to, row(indices[0]), run * depth_ * sizeof(Bits));
      } else if (run > 0) {
        for (int64_t j = 0; j < run; ++j) fill(row(indices[j * step]), to + j * pitch_);
      } else {
        for (int64_t t = 0; t < taps_; ++t) {
          std::memcpy(to + t * channels_, row(indices[t * dilation_]), channels_ * sizeof(Bits));
        }
      }
      const int64_t done = std::max<int64_t>(run, 1);
      k += done;
      indices += done * step;
      to += done * pitch_;
    }
  }

 private:
  using Bits = uint16_t;  // Of a bfloat16.

  const Bits* row(int64_t index) const { return static_cast<const Bits*>(addresses_(index)); }

  // How many copies, from the first on, read nothing but a run of rows.
  int64_t run_of_rows(const int32_t* indices, int64_t count, int64_t step) const {
    if (taps_ > 1 && dilation_ > 1) return 0;
    const int64_t first = indices[0];
    if (first < 0) return 0;
    const int64_t reads = std::min((count - 1) * step + taps_, num_rows_ - first);
    int64_t rows = 0;
    while (rows < reads && indices[rows] == first + rows) ++rows;
    return rows < taps_ ? 0 : (rows - taps_) / step + 1;
  }

  // Copies depth_ values of rows that follow each other, and zeros behind them.
  void fill(const Bits* __restrict from, Bits* __restrict to) const {
    std::memcpy(to, from, whole_ * sizeof(Bits));
    if (whole_ == depth_) return;
    from += whole_;
    to += whole_;
    if (reinterpret_cast<uintptr_t>(from + PairLayout::kStep) <= end_) {
      for (int64_t k = 0; k < PairLayout::kStep; ++k) to[k] = from[k] & mask_[k];
    } else {  // A whole step would read beyond the rows.
      std::memcpy(to, from, (depth_ - whole_) * sizeof(Bits));
    }
  }

  const RowAddresses& addresses_;
  const int64_t channels_;
  const int64_t num_rows_;
  const uintptr_t end_;  // Of the rows.
  const int64_t taps_;   // That a copy merges.
  const int64_t dilation_;
  const int64_t depth_;  // Values of a copy.
  const int64_t whole_;  // Of them, those in whole steps.
  const int64_t pitch_;  // Values from copy to copy.
  Bits mask_[PairLayout::kStep];
};

}  // namespace segblocks::cpu

#endif  // SEGBLOCKS_CPU_PAIR_COPIES_H_
