// A block of products on a tile unit, see cpu/products.h; for a file that has a unit.
//
// A unit is a class of 8 registers of 16 rows of 64 bytes, with
//   Outputs                            of what is written
//   begin(), end()                     the thread may use them between these calls
//   Rows                               writes pending rows, see cpu/products_pending.h
//   zero<kTo>()
//   load<kTo>(rows, stride)            of 16 rows, `stride` bytes apart
//   dot<kSums, kPixels, kWeights>()    sums[p][k] += sum over w of pixels[p][w] * weights[w][k]
//   store<kFrom>(rows, stride)
// where sums are (16, 16), pixels words (16, 16), weights words (16, 16).

#ifndef SEGBLOCKS_CPU_PRODUCTS_TILES_H_
#define SEGBLOCKS_CPU_PRODUCTS_TILES_H_

#include <stdint.h>

#include <utility>

#include "cpu/products.h"
#include "cpu/products_pending.h"

namespace segblocks::cpu {
namespace {

// Calls each(number) for the numbers 0 .. kCount-1 as types.
template <int kCount, typename Each>
SEGBLOCKS_INLINE void unrolled(const Each& each) {
  [&]<int... kNumbers>(std::integer_sequence<int, kNumbers...>) __attribute__((always_inline)) {
    (each(std::integral_constant<int, kNumbers>()), ...);
  }(std::make_integer_sequence<int, kCount>());
}

constexpr int kRegisters = 8;

template <typename Unit>
using Block = ProductBlock<typename Unit::Outputs>;

template <typename Unit, int kTiles, int kPanels>
void tile_block(const Block<Unit>& block) {
  constexpr int kPixels = kBlockTiles * kBlockPanels;
  constexpr int kWeights = kPixels + kBlockTiles;
  static_assert(kWeights + kBlockPanels <= kRegisters);
  unrolled<kTiles * kPanels>(
      [](auto k) __attribute__((always_inline)) { Unit::template zero<decltype(k)::value>(); });
  const char* weights = block.weights;
  auto* pending = block.pending;
  typename Unit::Rows rows(pending);
  // A unit's stores of sums come late: the rows of the block before are written meanwhile.
  const int64_t turns = block.taps * block.steps;
  const int64_t piece = turns == 0 ? 0 : (rows_left(*pending) + turns - 1) / turns;
  for (int64_t t = 0; t < block.taps; ++t) {
    int64_t offset = block.offsets[t];
    for (int64_t s = 0; s < block.steps; ++s) {
      unrolled<kTiles>([&](auto k) __attribute__((always_inline)) {
        constexpr int kTile = decltype(k)::value;
        Unit::template load<kPixels + kTile>(block.pixels[kTile] + offset, block.pixel_bytes);
      });
      unrolled<kPanels>([&](auto k) __attribute__((always_inline)) {
        constexpr int kPanel = decltype(k)::value;
        Unit::template load<kWeights + kPanel>(weights + kPanel * block.panel_bytes, kStepBytes);
      });
      unrolled<kTiles * kPanels>([&](auto k) __attribute__((always_inline)) {
        constexpr int kSums = decltype(k)::value;
        Unit::template dot<kSums, kPixels + kSums / kPanels, kWeights + kSums % kPanels>();
      });
      weights += kStepWeightBytes;
      offset += kStepBytes;
      rows.write(piece);
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

// A stack reads six rows of tiles for twelve products.
template <typename Unit>
void tile_stack(const Block<Unit>& block) {
  constexpr int kWeights = kStackTiles;
  constexpr int kPixels = kWeights + kStackTaps;
  static_assert(kPixels < kRegisters);
  constexpr int kRows = kStackTiles + kStackTaps - 1;
  const int64_t columns = block.taps / kStackTaps;
  const int64_t pitch = block.panels * kPanel;
  typename Unit::Rows rows(block.pending);
  const int64_t turns = block.panels * columns * block.steps * kRows;
  const int64_t piece = (rows_left(*block.pending) + turns - 1) / turns;
  for (int64_t panel = 0; panel < block.panels; ++panel) {
    unrolled<kStackTiles>(
        [](auto k) __attribute__((always_inline)) { Unit::template zero<decltype(k)::value>(); });
    const char* weights = block.weights + panel * block.panel_bytes;
    for (int64_t column = 0; column < columns; ++column) {
      const char* pixels = block.pixels[0] + block.offsets[column];
      for (int64_t s = 0; s < block.steps; ++s) {
        unrolled<kStackTaps>([&](auto k) __attribute__((always_inline)) {
          constexpr int kTap = decltype(k)::value;
          const int64_t step = kTap * columns * block.steps;
          Unit::template load<kWeights + kTap>(weights + step * kStepWeightBytes, kStepBytes);
        });
        unrolled<kRows>([&](auto k) __attribute__((always_inline)) {
          constexpr int kRow = decltype(k)::value;
          Unit::template load<kPixels>(pixels + kRow * block.down, block.pixel_bytes);
          unrolled<kStackTaps>([&](auto i) __attribute__((always_inline)) {
            constexpr int kTap = kStackTaps - 1 - decltype(i)::value;
            constexpr int kTile = kRow - kTap;
            if constexpr (kTile >= 0 && kTile < kStackTiles) {
              Unit::template dot<kTile, kPixels, kWeights + kTap>();
            }
          });
          rows.write(piece);
        });
        pixels += kStepBytes;
        weights += kStepWeightBytes;
      }
    }
    unrolled<kStackTiles>([&](auto k) __attribute__((always_inline)) {
      constexpr int kTile = decltype(k)::value;
      Unit::template store<kTile>(block.sums + kTile * kTilePixels * pitch + panel * kPanel,
                                  pitch * static_cast<int64_t>(sizeof(float)));
    });
  }
  write_all(block.pending);
}

template <typename Unit>
void run_tile_block(const Block<Unit>& block) {
  static constexpr void (*kBlocks[kBlockTiles][kBlockPanels])(const Block<Unit>&) = {
      {&tile_block<Unit, 1, 1>, &tile_block<Unit, 1, 2>},
      {&tile_block<Unit, 2, 1>, &tile_block<Unit, 2, 2>},
  };
  if (block.down != 0) return tile_stack<Unit>(block);
  kBlocks[block.tiles - 1][block.panels - 1](block);
}

template <typename Unit>
constexpr Products<typename Unit::Outputs> tile_products(const char* name,
                                                         void (*copy)(const Copies&)) {
  return {name, copy, &Unit::begin, &Unit::end, &run_tile_block<Unit>};
}

}  // namespace
}  // namespace segblocks::cpu

#endif  // SEGBLOCKS_CPU_PRODUCTS_TILES_H_
