// The inner loops, in vectors of SEGBLOCKS_LANES floats, for a file that is compiled for one
// instruction set and defines, before it includes this one,
//   SEGBLOCKS_LANES                    4, 8 or 16
//   SEGBLOCKS_PANELS                   panels that the registers hold at a time
//   SEGBLOCKS_PIXELS_1 .. _4           pixels a tile of 1 .. 4 panels has
//   SEGBLOCKS_ROW_VECTORS              vectors that a depthwise tile of a row has at a time
// No inline function of another header may be called here; see tiles.h.

#include "cpu/tiles.h"
#include "cpu/tiles_argmax.h"
#include "cpu/tiles_bytes.h"
#include "cpu/tiles_gradient.h"
#include "cpu/tiles_products.h"
#include "cpu/tiles_rows.h"
#include "cpu/tiles_winograd.h"

namespace segblocks::cpu {
namespace {

// Tiles of kPixels pixels, and of fewer for the rest of a list.
#define SEGBLOCKS_SIZES(Sums, kPixels, kPanels)                       \
  {                                                                   \
      {kPixels, &accumulate<Sums, kPixels, kPanels>},                 \
      {kPixels * 2 / 3, &accumulate<Sums, kPixels * 2 / 3, kPanels>}, \
      {kPixels / 3, &accumulate<Sums, kPixels / 3, kPanels>},         \
  }

#define SEGBLOCKS_ALL_PANELS(Sums)                  \
  {                                                 \
      SEGBLOCKS_SIZES(Sums, SEGBLOCKS_PIXELS_1, 1), \
      SEGBLOCKS_SIZES(Sums, SEGBLOCKS_PIXELS_2, 2), \
      SEGBLOCKS_SIZES(Sums, SEGBLOCKS_PIXELS_3, 3), \
      SEGBLOCKS_SIZES(Sums, SEGBLOCKS_PIXELS_4, 4), \
  }

#define SEGBLOCKS_RUNS(T, kWidth, kStride)          \
  {                                                 \
      &depthwise_row<T, kWidth, kStride, kRuns[0]>, \
      &depthwise_row<T, kWidth, kStride, kRuns[1]>, \
      &depthwise_row<T, kWidth, kStride, kRuns[2]>, \
  }

template <typename T>
constexpr DepthwiseLoops depthwise_loops() {
  return {
      SEGBLOCKS_ALL_PANELS(Depthwise<T>),
      {{SEGBLOCKS_RUNS(T, 3, 1), SEGBLOCKS_RUNS(T, 3, 2)},
       {SEGBLOCKS_RUNS(T, 5, 1), SEGBLOCKS_RUNS(T, 5, 2)}},
      &depthwise_rest<T>,
  };
}

template <typename T>
constexpr RowLoops row_loops() {
  return {&write<T>,
          &max<T>,
          &upsample<T>,
          &mean<T>,
          &to_float<T>,
          {&winograd_input<0, T>, &winograd_input<1, T>, &winograd_input<2, T>},
          {&winograd_output<0, T>, &winograd_output<1, T>, &winograd_output<2, T>}};
}

constexpr TileKernels tiles(const char* name, const Products<Outputs>* pairs = nullptr,
                            const ByteLoops* bytes = &kBaseByteLoops) {
  return {name,
          pairs,
          SEGBLOCKS_ALL_PANELS(Dense),
          depthwise_loops<float>(),
          depthwise_loops<BFloat16>(),
          depthwise_loops<uint8_t>(),
          &depthwise_gradient,
          row_loops<float>(),
          row_loops<BFloat16>(),
          {&read_logits<float>, &read_logits<BFloat16>, &read_logits<Float16>, &label},
          bytes};
}

}  // namespace
}  // namespace segblocks::cpu
