// The rows behind indices: checks, halos, addresses; and units cut into chunks of work.

#ifndef SEGBLOCKS_CPU_UNITS_H_
#define SEGBLOCKS_CPU_UNITS_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/tiles.h"
#include "cpu/tiles_bytes.h"
#include "cpu/workers.h"
#include "segblocks/calls.h"

namespace segblocks::cpu {

inline const RowLoops& row_loops(const TileKernels& kernels, Element element) {
  if (element == Element::kUint8) return kernels.bytes->rows;
  return element == Element::kFloat32 ? kernels.float32 : kernels.bfloat16;
}

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// What is wrong with the counts, the means, or the indices of live units.
Problem check_indices(Workers& workers, const IndexedRows& input, const Units& units);

// The halos that are used, unless they are lent. The indices must have been checked.
void fill_halos(Workers& workers, const TileKernels& kernels, const IndexedRows& input);

// Addresses of rows. The indices must have been checked.
class RowAddresses {
 public:
  explicit RowAddresses(const IndexedRows& input)
      : zeros_(input.channels * element_bytes(input.element), std::byte{input.zero}),
        rows_(static_cast<const std::byte*>(input.rows)),
        halos_(static_cast<const std::byte*>(input.halos)),
        num_rows_(input.num_rows),
        bytes_(input.channels * element_bytes(input.element)) {}

  const void* operator()(int64_t index) const {
    if (index < 0) return zeros_.data();
    if (index < num_rows_) return rows_ + index * bytes_;
    return halos_ + (index - num_rows_) * bytes_;
  }

 private:
  std::vector<std::byte> zeros_;
  const std::byte* rows_;
  const std::byte* halos_;
  int64_t num_rows_;
  int64_t bytes_;
};

// Output rows of live units of one size, in the list of output rows.
struct LiveUnits {
  const UnitPatches* patches;
  UnitOutputs outputs;
  int64_t count;
  int64_t first_output;

  int64_t num_outputs() const { return count * outputs.area(); }
};

// A box of output pixels: `units` units from `unit` on, of each `height` x `width` pixels from
// (y, x) on. Its pixels lie one behind the other in the list of output rows, if its rows are whole
// or it has only one.
struct Chunk {
  const LiveUnits* live;
  int64_t unit;
  int64_t units;
  int64_t y;
  int64_t height;
  int64_t x;
  int64_t width;

  int64_t pixels() const { return units * height * width; }
  int64_t first_output() const {
    return live->first_output + unit * live->outputs.area() + y * live->outputs.width + x;
  }
  bool has_whole_rows() const { return width == live->outputs.width; }
  // Row `i` of one unit's patch, from the first that the box reads on.
  const int32_t* patch_row(const Window& window, int64_t u, int64_t i) const {
    const UnitPatches& p = *live->patches;
    return p.indices + ((unit + u) * p.height + y * window.stride + i) * p.width +
           x * window.stride;
  }
};

// All live units, in chunks of at most `max_pixels` pixels; whole units where these are small.
// Chunks that are to be high as well as wide have at most `max_width` columns. Where they are parts
// of a unit, their heights are multiples of `rows` if that makes none larger than it may be.
class Chunks {
 public:
  template <typename Call>
  Chunks(const Call& call, int64_t max_pixels, int64_t max_width = 0, int64_t rows = 1)
      : high_{&call.units.high, call.outputs(call.units.high), call.units.counts[0], 0},
        low_{&call.units.low, call.outputs(call.units.low), call.units.counts[1],
             high_.num_outputs()},
        high_boxes_(high_, max_pixels, max_width, rows),
        low_boxes_(low_, max_pixels, max_width, rows) {}
  Chunks(const Chunks&) = delete;
  Chunks& operator=(const Chunks&) = delete;

  int64_t count() const { return high_boxes_.count + low_boxes_.count; }
  int64_t num_outputs() const { return high_.num_outputs() + low_.num_outputs(); }
  Chunk operator[](int64_t index) const {
    return index < high_boxes_.count ? high_boxes_.chunk(high_, index)
                                     : low_boxes_.chunk(low_, index - high_boxes_.count);
  }
  // The largest value of size(chunk) that a chunk can have, for a `size` that grows with each
  // side of a box.
  template <typename Size>
  int64_t max_size(const Size& size) const {
    int64_t result = 0;
    if (high_boxes_.count > 0) result = size(high_boxes_.largest(high_));
    if (low_boxes_.count > 0) result = std::max(result, size(low_boxes_.largest(low_)));
    return result;
  }

 private:
  // How units of one size are cut: sides of a full box, and how many there are in each direction.
  struct Boxes {
    int64_t units = 1;
    int64_t height = 1;
    int64_t width = 1;
    int64_t rows = 0;
    int64_t columns = 0;
    int64_t count = 0;

    Boxes(const LiveUnits& live, int64_t max_pixels, int64_t max_width, int64_t multiple) {
      if (live.num_outputs() == 0) return;
      const UnitOutputs& o = live.outputs;
      columns = ceil_div(o.width, max_pixels);
      width = ceil_div(o.width, columns);
      if (max_width > 0 && o.width >= 2 * max_width) width = max_width;
      columns = ceil_div(o.width, width);
      const int64_t max_height = std::max<int64_t>(max_pixels / width, 1);
      rows = ceil_div(o.height, max_height);
      height = ceil_div(o.height, rows);
      const int64_t rounded = ceil_div(height, multiple) * multiple;
      if (rounded <= std::min(max_height, o.height)) height = rounded;
      rows = ceil_div(o.height, height);
      const int64_t groups =
          ceil_div(live.count, std::max<int64_t>(max_pixels / (width * height), 1));
      if (rows * columns == 1) units = ceil_div(live.count, groups);
      count = ceil_div(live.count, units) * rows * columns;
    }

    Chunk chunk(const LiveUnits& live, int64_t index) const {
      const int64_t unit = index / (rows * columns) * units;
      const int64_t y = index / columns % rows * height;
      const int64_t x = index % columns * width;
      return {&live,
              unit,
              std::min(units, live.count - unit),
              y,
              std::min(height, live.outputs.height - y),
              x,
              std::min(width, live.outputs.width - x)};
    }

    Chunk largest(const LiveUnits& live) const { return {&live, 0, units, 0, height, 0, width}; }
  };

  LiveUnits high_;
  LiveUnits low_;
  Boxes high_boxes_;
  Boxes low_boxes_;
};

}  // namespace segblocks::cpu

#endif  // SEGBLOCKS_CPU_UNITS_H_
