// A block of products on a tile unit, see cpu/pairs.h; for a file that has a unit.
//
// A unit is a class of 8 registers of 16 rows of 64 bytes, with
//   begin(), end()                     the thread may use them between these calls
//   zero<kTo>()
//   load<kTo>(rows, stride)            of 16 rows, `stride` bytes apart
//   dot<kSums, kPixels, kWeights>()    sums[p][k] += sum over d of pixels[p][d] *
//   weights[d/2][k][d%2] store<kFrom>(rows, stride)
// where sums are float32 (16, 16), pixels bfloat16 (16, 32), weights bfloat16 (16, 16, 2).

#ifndef SEGBLOCKS_CPU_PAIRS_TILES_H_
#define SEGBLOCKS_CPU_PAIRS_TILES_H_

#include <stdint.h>

#include <utility>

#include "cpu/pairs.h"
#include "cpu/pairs_pending.h"

namespace segblocks::cpu {
namespace {

// Calls each(number) for the numbers 0 .. kCount-1 as types.
template <int kCount, typename Each>
SEGBLOCKS_INLINE void unrolled(const Each& each) {
  [&]<int... kNumbers>(std::integer_sequence<int, kNumbers...>) __attribute__((always_inline)) {
    (each(std::integral_constant<int, kNumbers>()), ...);
  }(std::make_integer_sequence<int, kCount>());
}

template <typename Unit, int kTiles, int kPanels>
void tile_block(const PairBlock& block) {
  constexpr int kPixels = 6;
  constexpr int kWeights = 7;
  static_assert(kTiles * kPanels <= kPixels);
  unrolled<kTiles * kPanels>(
      [](auto k) __attribute__((always_inline)) { Unit::template zero<decltype(k)::value>(); });
  const char* weights = block.weights;
  PendingRows* pending = block.pending;
  const int64_t pieces = pieces_left(*pending);
  // A unit's stores of sums come late: the rows of the block before are written meanwhile.
  const int64_t interval = pieces == 0 ? 0 : block.taps * block.steps / pieces + 1;
  int64_t wait = interval;
  for (int64_t t = 0; t < block.taps; ++t) {
    int64_t offset = block.offsets[t];
    for (int64_t s = 0; s < block.steps; ++s) {
      // Back and forth over the tiles, so that a turn needs no new pixels.
      unrolled<kTiles * kPanels>([&](auto k) __attribute__((always_inline)) {
        constexpr int kPanel = decltype(k)::value / kTiles;
        constexpr int kTurn = decltype(k)::value % kTiles;
        constexpr int kTile = kPanel % 2 == 0 ? kTurn : kTiles - 1 - kTurn;
        if constexpr (kTurn == 0) {
          Unit::template load<kWeights>(weights + kPanel * block.panel_bytes, kStepBytes);
        }
        if constexpr (kTurn > 0 || kPanel == 0) {
          Unit::template load<kPixels>(block.pixels[kTile] + offset, block.pixel_bytes);
        }
        Unit::template dot<kTile * kPanels + kPanel, kPixels, kWeights>();
      });
      weights += kStepWeightBytes;
      offset += kStepBytes;
      if (--wait == 0) {
        write_piece(pending);
        wait = pieces_left(*pending) > 0 ? interval : 0;
      }
    }
  }
  write_all(pending);
  unrolled<kTiles * kPanels>([&](auto k) __attribute__((always_inline)) {
    constexpr int kTile = decltype(k)::value / kPanels;
    constexpr int kFirst = decltype(k)::value % kPanels * kPanel;
    constexpr int kPitch = kPanels * kPanel;
    Unit::template store<decltype(k)::value>(block.sums + kTile * kTilePixels * kPitch + kFirst,
                                             kPitch * static_cast<int64_t>(sizeof(float)));
  });
}

template <typename Unit>
void run_tile_block(const PairBlock& block) {
  static constexpr void (*kBlocks[kBlockTiles][kBlockPanels])(const PairBlock&) = {
      {&tile_block<Unit, 1, 1>, &tile_block<Unit, 1, 2>},
      {&tile_block<Unit, 2, 1>, &tile_block<Unit, 2, 2>},
      {&tile_block<Unit, 3, 1>, &tile_block<Unit, 3, 2>},
  };
  kBlocks[block.tiles - 1][block.panels - 1](block);
}

template <typename Unit>
constexpr PairKernels tile_pairs(const char* name) {
  return {name, &Unit::begin, &Unit::end, &run_tile_block<Unit>};
}

}  // namespace
}  // namespace segblocks::cpu

#endif  // SEGBLOCKS_CPU_PAIRS_TILES_H_
