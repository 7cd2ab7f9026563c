// The 32-bit index arithmetic of the CUDA kernels of indexed operations.

#ifndef SEGBLOCKS_CUDA_WINDOW_TABLES_H_
#define SEGBLOCKS_CUDA_WINDOW_TABLES_H_

#include <cstdint>
#include <limits>

#include "cuda/divisor.h"
#include "segblocks/calls.h"
#include "segblocks/macros.h"

namespace segblocks {

SEGBLOCKS_HD int32_t min_int32(int32_t a, int32_t b) { return a < b ? a : b; }

// The position of an output row's window in the table of its size of units. A position in the low
// units' table is kept as its complement, so that the sign tells the table.
using WindowOrigin = int32_t;

// The output rows that are live, high ones first.
struct LiveRows {
  int32_t high;
  int32_t all;
};

// Finds, for an output row, the indices of the rows that its window covers.
struct WindowTables {
  struct Size {
    int32_t capacity;
    int32_t patch_area;
    int32_t patch_width;
    int32_t map_rows;  // Outputs of a unit; 0 where its patch is smaller than the window.
    Divisor map_area;
    Divisor map_width;
    const int32_t* indices;
  };

  Size high;
  Size low;
  int32_t stride;
  int32_t dilation;
  const int32_t* counts;

  SEGBLOCKS_HD LiveRows live() const {
    const int32_t rows = live_units(counts[0], high) * high.map_rows;
    return {rows, rows + live_units(counts[1], low) * low.map_rows};
  }

  SEGBLOCKS_HD int32_t capacity() const {
    return high.capacity * high.map_rows + low.capacity * low.map_rows;
  }

  // Of a live row, in the table of its size of units.
  SEGBLOCKS_HD int32_t position(const LiveRows& live, int32_t row) const {
    return row < live.high ? position(high, row) : position(low, row - live.high);
  }
  SEGBLOCKS_HD WindowOrigin origin(const LiveRows& live, int32_t row) const {
    return row < live.high ? position(high, row) : ~position(low, row - live.high);
  }

  // The index at tap (y, x) of a window, given as dilation * (y * patch_width + x) for both sizes
  // of units.
  SEGBLOCKS_HD int32_t index(WindowOrigin origin, int32_t in_high, int32_t in_low) const {
    // One load, no branch: the rows of a tile differ.
    const bool is_high = origin >= 0;
    const int32_t* indices = is_high ? high.indices : low.indices;
    return indices[is_high ? origin + in_high : ~origin + in_low];
  }
  // The first index of a window, and the distance of its rows.
  SEGBLOCKS_HD const int32_t* window(WindowOrigin origin, int32_t* pitch) const {
    const bool is_high = origin >= 0;
    *pitch = is_high ? high.patch_width : low.patch_width;
    return (is_high ? high.indices : low.indices) + (is_high ? origin : ~origin);
  }

 private:
  SEGBLOCKS_HD static int32_t live_units(int32_t count, const Size& size) {
    return count < 0 ? 0 : min_int32(count, size.capacity);
  }

  SEGBLOCKS_HD int32_t position(const Size& size, int32_t row) const {
    int32_t pixel;
    int32_t x;
    const int32_t unit = size.map_area.divide(row, &pixel);
    const int32_t y = size.map_width.divide(pixel, &x);
    return unit * size.patch_area + (y * size.patch_width + x) * stride;
  }
};

// Runs through the terms of a convolution's sum, ordered as (window row, window column, channel).
struct TapWalk {
  int32_t channel;
  int32_t column;
  int32_t tap;      // The window's pixels, row by row; its area or more: past the end.
  int32_t in_high;  // For WindowTables::index.
  int32_t in_low;

  // Whether that led to another tap.
  SEGBLOCKS_HD bool advance(int32_t terms, int32_t channels, int32_t window_width,
                            const WindowTables& tables) {
    const int32_t before = tap;
    channel += terms;
    while (channel >= channels) {
      channel -= channels;
      ++tap;
      in_high += tables.dilation;
      in_low += tables.dilation;
      if (++column == window_width) {
        column = 0;
        in_high += tables.dilation * (tables.high.patch_width - window_width);
        in_low += tables.dilation * (tables.low.patch_width - window_width);
      }
    }
    return tap != before;
  }
};

// Rows of channels by index. Indices out of range, -1 among them, stand for zeros.
template <typename T>
struct RowList {
  const T* rows;
  const T* halos;  // As if they were rows, too: where their row 0 would be.
  int32_t num_rows;
  uint32_t num_indices;
  int32_t channels;

  SEGBLOCKS_HD bool has(int32_t index) const { return static_cast<uint32_t>(index) < num_indices; }
  // Channel `channel` of row `index`; in bytes its place is one product and sum.
  SEGBLOCKS_HD const T* at(int32_t index, int32_t channel) const {
    constexpr int32_t kBytes = sizeof(T);
    const auto* first = reinterpret_cast<const char*>(index < num_rows ? rows : halos);
    const int64_t place = int64_t{index} * (channels * kBytes) + int64_t{channel} * kBytes;
    return reinterpret_cast<const T*>(first + place);
  }
  // Of an index that the list has.
  SEGBLOCKS_HD const T* row(int32_t index) const { return at(index, 0); }
};

template <typename T>
RowList<T> row_list(const IndexedRows& input) {
  constexpr int64_t kMax = std::numeric_limits<int32_t>::max();
  const int64_t indices = input.num_indices() < kMax ? input.num_indices() : kMax;
  const auto before = static_cast<uintptr_t>(input.num_rows * input.channels) * sizeof(T);
  return {static_cast<const T*>(input.rows),
          reinterpret_cast<const T*>(reinterpret_cast<uintptr_t>(input.halos) - before),
          static_cast<int32_t>(input.num_rows < kMax ? input.num_rows : kMax),
          static_cast<uint32_t>(indices), static_cast<int32_t>(input.channels)};
}

inline WindowTables::Size table_size(const UnitPatches& patches, const UnitOutputs& map) {
  return {static_cast<int32_t>(patches.capacity),
          static_cast<int32_t>(patches.area()),
          static_cast<int32_t>(patches.width),
          static_cast<int32_t>(map.area()),
          Divisor(map.area()),
          Divisor(map.width),
          patches.indices};
}

// The windows of a convolution or of a pooling.
template <typename Call>
WindowTables window_tables(const Call& call) {
  const Units& units = call.units;
  return {table_size(units.high, call.outputs(units.high)),
          table_size(units.low, call.outputs(units.low)), static_cast<int32_t>(call.window.stride),
          static_cast<int32_t>(call.window.dilation), units.counts};
}

// Whether all of a call's positions fit the arithmetic of the kernels.
template <typename Call>
bool fits_int32(const Call& call) {
  // Room for the last tile and for a step beyond the end.
  constexpr int64_t kMax = std::numeric_limits<int32_t>::max() - (1 << 20);
  const Units& units = call.units;
  return units.high.capacity * units.high.area() <= kMax &&
         units.low.capacity * units.low.area() <= kMax && max_output_rows(call) <= kMax &&
         call.input.channels <= kMax / 4 && call.input.num_halos <= kMax;
}
// Whose sums have few enough terms, too.
inline bool fits_int32(const IndexedConvCall& call) {
  constexpr int64_t kMax = std::numeric_limits<int32_t>::max() - (1 << 20);
  return fits_int32<IndexedConvCall>(call) && call.features <= kMax &&
         call.window.area() <= kMax / (call.input.channels > 0 ? call.input.channels : 1);
}

}  // namespace segblocks

#endif  // SEGBLOCKS_CUDA_WINDOW_TABLES_H_
