// Which tiles an indexed convolution on tensor cores is made of, and how many blocks of threads
// share one: what a model of the GPU says takes the least time.

#ifndef SEGBLOCKS_CUDA_INDEXED_CONV_PLAN_H_
#define SEGBLOCKS_CUDA_INDEXED_CONV_PLAN_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "segblocks/macros.h"
#include "segblocks/units.h"

namespace segblocks::cuda {

// `clocks` and `rest`: of 64 terms, and of all else of a tile, while a multiprocessor works on this
// one alone. `latency`: of 64 terms, what nothing hides where it has no other tile. Modeled, see
// benchmarks/cuda_model.py.
struct TileKind {
  int32_t rows;
  int32_t columns;
  int32_t resident;  // Tiles at once on a multiprocessor.
  double clocks;
  double rest;
  double latency;
  int32_t places = 2560;  // Rows that the windows of a tile cover, at most.
};

constexpr int32_t kTileRows = 256;
constexpr TileKind kTileKinds[] = {
    {256, 128, 1, 1652, 6000, 360},
    {256, 64, 2, 1136, 3000, 660},
};
// Of products of warp groups, which have the rows that the windows cover in shared memory, in
// slices of so many channels.
constexpr int32_t kSliceChannels = 32;
constexpr TileKind kGroupKinds[] = {
    {256, 128, 1, 1191, 6000, 360, 1440},
    {256, 64, 2, 618, 3000, 360, 640},
};
SEGBLOCKS_HD int32_t slices_of(int32_t channels) {
  return (channels + kSliceChannels - 1) / kSliceChannels;
}

// Each of the blocks that share a tile has slices of its own.
inline int32_t max_group_parts(int64_t channels, int32_t max_parts) {
  return std::min(max_parts, std::max(slices_of(static_cast<int32_t>(channels)), 1));
}

// The product that is divided in tiles. Rows of units of the two sizes lie in tiles of their own.
struct Product {
  int64_t high_rows;
  int64_t low_rows;
  int64_t columns;
  int64_t terms;
  int64_t places = 0;  // Rows that the windows of a tile cover.
};

struct Plan {
  int32_t kind;   // Of the kinds in question.
  int32_t parts;  // Blocks of threads that share the terms of a tile.
  double clocks;
};

inline int64_t tiles_of(const Product& product, const TileKind& kind) {
  const auto parts = [](int64_t all, int64_t one) { return (all + one - 1) / one; };
  return (parts(product.high_rows, kind.rows) + parts(product.low_rows, kind.rows)) *
         parts(product.columns, kind.columns);
}

inline double clocks_of(const Product& product, const TileKind& kind, int32_t parts,
                        int32_t processors) {
  constexpr double kStart = 1500;
  constexpr double kMeeting = 800;        // Of the parts of a tile.
  constexpr double kExchange = 4.0 / 32;  // Of a sum, for a part that reads others' ones.
  constexpr double kTail = 0.3;           // Of a tile, at the end of many.
  const double stages = static_cast<double>((product.terms + 63) / 64 + parts - 1) / parts;
  const double meeting = parts > 1 ? kMeeting + kExchange * kind.rows * kind.columns : 0;
  const double rest = kind.rest / parts + meeting;
  const double alone = (kind.clocks + kind.latency) * stages + rest + kStart;
  const double busy = kind.clocks * stages + rest;
  const auto blocks = static_cast<double>(tiles_of(product, kind) * parts);
  const int64_t waves = (tiles_of(product, kind) * parts + processors - 1) / processors;
  const double many = blocks / processors + kTail;
  const double turns = waves > kind.resident ? many : static_cast<double>(waves);
  return std::max(alone, busy * turns);
}

// The best one of those whose parts don't exceed `max_parts`.
template <size_t kCount>
Plan plan(const TileKind (&kinds)[kCount], const Product& product, int32_t max_parts,
          int32_t processors) {
  constexpr int64_t kMinTerms = 4 * 64;  // Of a part.
  Plan best{0, 1, std::numeric_limits<double>::max()};
  for (int32_t kind = 0; kind < static_cast<int32_t>(kCount); ++kind) {
    if (product.places > kinds[kind].places) continue;
    for (int32_t parts = 1; parts <= max_parts; parts *= 2) {
      if (parts > 1 && product.terms < parts * kMinTerms) break;
      const double clocks = clocks_of(product, kinds[kind], parts, processors);
      if (clocks < best.clocks) best = {kind, parts, clocks};
    }
  }
  return best;
}

inline Plan plan(const Product& product, int32_t max_parts, int32_t processors) {
  return plan(kTileKinds, product, max_parts, processors);
}

// From the first index that a tile of kTileRows output rows reads to its last one, at most.
inline int64_t most_places(const Window& window, const UnitPatches& patches) {
  const UnitOutputs map = window.outputs(patches);
  if (patches.capacity == 0 || map.area() == 0) return 0;
  // How often the rows of a tile go over from one to the next of those of `size` rows.
  const auto changes = [](int64_t size) {
    if (kTileRows % size == 0) return kTileRows / size - 1;
    return size % kTileRows == 0 ? 0 : (kTileRows + size - 2) / size;
  };
  const int64_t along = window.stride;
  const int64_t line = window.stride * (patches.width - map.width);
  const int64_t unit =
      patches.area() - window.stride * ((map.height - 1) * patches.width + map.width) - line;
  const int64_t reach = (window.extent_y() - 1) * patches.width + window.extent_x();
  const int64_t all = (kTileRows - 1) * along + changes(map.width) * line +
                      changes(map.area()) * std::max<int64_t>(unit, 0) + reach;
  return std::min(all, patches.capacity * patches.area());
}

}  // namespace segblocks::cuda

#endif  // SEGBLOCKS_CUDA_INDEXED_CONV_PLAN_H_
