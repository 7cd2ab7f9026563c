// What operations on rows found by index have in common.
//
// The input is a list of rows of channels. The work is a list of units of two sizes, "high" and
// "low": a unit is a patch of indices of the rows that it reads, and yields a small map of output
// rows. How many units are live is data (`counts`); buffers hold as many as their capacity.

#ifndef SEGBLOCKS_UNITS_H_
#define SEGBLOCKS_UNITS_H_

#include <cstdint>

#include "segblocks/element.h"
#include "segblocks/macros.h"

namespace segblocks {

// Rows 0 .. num_rows-1 are given. Row num_rows + g is the halo g: the mean of the rows
// means[g, 0 .. halo_reads-1], kept in `halos` in the rows' element type; unused where
// means[g, 0] < 0. Index -1 is a row of zeros.
struct IndexedRows {
  Element element;  // float32, bfloat16 or, on CPUs, bytes.
  int64_t num_rows;
  int64_t channels;
  int64_t num_halos;
  int64_t halo_reads;    // >= 1 where there are halos.
  const void* rows;      // (num_rows, channels)
  const int32_t* means;  // (num_halos, halo_reads)
  void* halos;           // (num_halos, channels): the handler fills it first, unless `lent`.
  uint8_t zero = 0;      // The byte that index -1 is a row of.
  bool lent = false;     // What has made the rows has filled the halos.

  SEGBLOCKS_HD int64_t num_indices() const { return num_rows + num_halos; }
};

// Halos that an operation lends to one that reads its output rows: of each high unit the means of 2
// x 2 outputs as they are stored, in a ring of its map of means, as IndexTableLayout has it.
struct LentHalos {
  int64_t side;  // Of the map of means.
  int64_t edge;  // How wide the ring is.
  bool second;   // Those of the second output.
  void* halos;   // (capacity * ring, features); null where nothing is lent.

  SEGBLOCKS_HD bool any() const { return halos != nullptr; }
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
  int64_t dilation = 1;  // Distance of neighboring taps.

  SEGBLOCKS_HD int64_t area() const { return height * width; }
  // What it covers of a patch.
  SEGBLOCKS_HD int64_t extent_y() const { return dilation * (height - 1) + 1; }
  SEGBLOCKS_HD int64_t extent_x() const { return dilation * (width - 1) + 1; }
  // Nothing where the patch is smaller than that.
  SEGBLOCKS_HD UnitOutputs outputs(const UnitPatches& patches) const {
    if (patches.height < extent_y() || patches.width < extent_x()) return {0, 0};
    return {(patches.height - extent_y()) / stride + 1, (patches.width - extent_x()) / stride + 1};
  }
};

// Capacity of the list of output rows.
template <typename Call>
SEGBLOCKS_HD int64_t max_output_rows(const Call& call) {
  return call.units.high.capacity * call.outputs(call.units.high).area() +
         call.units.low.capacity * call.outputs(call.units.low).area();
}

}  // namespace segblocks

#endif  // SEGBLOCKS_UNITS_H_
