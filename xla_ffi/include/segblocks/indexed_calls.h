// What the handlers of indexed operations hand to the loops of their platform, all shapes checked.
//
// The input is a list of rows of channels. The work is a list of units of two sizes, "high" and
// "low": a unit is a patch of indices of the rows that it reads, and yields a small map of output
// rows. How many units are live is data (`counts`); buffers hold as many as their capacity.

#ifndef SEGBLOCKS_INDEXED_CALLS_H_
#define SEGBLOCKS_INDEXED_CALLS_H_

#include <cstdint>

#include "segblocks/calls.h"
#include "segblocks/index_tables.h"
#include "segblocks/macros.h"

namespace segblocks {

enum class Activation { kNone, kRelu, kRelu6 };

// Rows 0 .. num_rows-1 are given. Row num_rows + g is the ghost g: the mean of the rows
// means[g, 0 .. ghost_reads-1], kept in `ghosts` in the rows' element type; unused where
// means[g, 0] < 0. Index -1 is a row of zeros.
struct IndexedRows {
  Element element;  // float32 or bfloat16.
  int64_t num_rows;
  int64_t channels;
  int64_t num_ghosts;
  int64_t ghost_reads;   // >= 1 where there are ghosts.
  const void* rows;      // (num_rows, channels)
  const int32_t* means;  // (num_ghosts, ghost_reads)
  void* ghosts;          // (num_ghosts, channels): the handler fills it first.

  SEGBLOCKS_HD int64_t num_indices() const { return num_rows + num_ghosts; }
};

// Units of one size.
struct UnitPatches {
  int64_t capacity;
  int64_t height;  // Of a patch.
  int64_t width;
  const int32_t* indices;  // (capacity, height, width)

  SEGBLOCKS_HD int64_t area() const { return height * width; }
};

// The map of output rows of each unit.
struct UnitOutputs {
  int64_t height;
  int64_t width;

  SEGBLOCKS_HD int64_t area() const { return height * width; }
};

struct Units {
  UnitPatches high;
  UnitPatches low;
  // int32 (2,): live units of each size, in 0 .. capacity. Output rows of the high units come
  // first, those of the low ones right behind the last *live* high one.
  const int32_t* counts;
};

struct Window {
  int64_t height;
  int64_t width;
  int64_t stride;

  SEGBLOCKS_HD int64_t area() const { return height * width; }
  // Nothing where the patch is smaller than the window.
  SEGBLOCKS_HD UnitOutputs outputs(const UnitPatches& patches) const {
    if (patches.height < height || patches.width < width) return {0, 0};
    return {(patches.height - height) / stride + 1, (patches.width - width) / stride + 1};
  }
};

// y = activation(convolution * scale + bias + residual); out = y, out2 = relu(y * scale2 + bias2).
// What is null is absent. Sums are float32, and out2 is made of the unrounded y.
struct IndexedConvCall {
  // Output channels a panel of packed weights holds; the last panel is filled up with zeros.
  static constexpr int64_t kPanel = 16;

  IndexedRows input;
  Units units;
  Window window;
  int64_t features;  // Output channels K; as many as input channels where depthwise.
  bool depthwise;    // One channel a group.
  bool winograd;     // Weights transformed for squares of 2 x 2 outputs; 3 x 3 of stride 1 or 2.
  Activation activation;
  const void* weights;  // (panels, taps() * channels, kPanel), depthwise (taps(), K).
  const float* scale;
  const float* bias;
  const void* residual;
  const float* scale2;  // Both or none of scale2 and bias2.
  const float* bias2;
  void* out;   // At least one of out and out2 is there.
  void* out2;  // There where scale2 is.

  SEGBLOCKS_HD int64_t panels() const { return (features + kPanel - 1) / kPanel; }
  // Of the weights: those of the window, or the inputs of a square.
  SEGBLOCKS_HD int64_t taps() const {
    if (!winograd) return window.area();
    return (window.stride + 3) * (window.stride + 3);
  }
  SEGBLOCKS_HD UnitOutputs outputs(const UnitPatches& patches) const {
    return window.outputs(patches);
  }
};

// The maximum over windows; rows of index -1 count as zeros.
struct IndexedMaxPoolCall {
  IndexedRows input;
  Units units;
  Window window;
  void* out;

  SEGBLOCKS_HD UnitOutputs outputs(const UnitPatches& patches) const {
    return window.outputs(patches);
  }
};

// Bilinear x2 of units padded by 1; y = up + residual; out = relu(y * scale2 + bias2) where these
// are there, else y.
struct IndexedUpsample2Call {
  IndexedRows input;
  Units units;
  const void* residual;
  const float* scale2;
  const float* bias2;
  void* out;

  SEGBLOCKS_HD UnitOutputs outputs(const UnitPatches& patches) const {
    if (patches.height < 2 || patches.width < 2) return {0, 0};
    return {2 * (patches.height - 2), 2 * (patches.width - 2)};
  }
};

// Capacity of the list of output rows.
template <typename Call>
SEGBLOCKS_HD int64_t max_output_rows(const Call& call) {
  return call.units.high.capacity * call.outputs(call.units.high).area() +
         call.units.low.capacity * call.outputs(call.units.low).area();
}

struct IndexTablesCall {
  IndexTableLayout layout;
  const bool* mask;           // (n, gh, gw): true is high.
  const int32_t* slots;       // (n, gh, gw)
  const int32_t* high_cells;  // (num_high,)
  const int32_t* low_cells;   // (num_low,)
  int32_t* high;              // (num_high, patch_side(true), patch_side(true))
  int32_t* low;               // (num_low, patch_side(false), patch_side(false))
  int32_t* means;             // (num_ghosts(), factor * factor)
};

}  // namespace segblocks

#endif  // SEGBLOCKS_INDEXED_CALLS_H_
