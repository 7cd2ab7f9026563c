// Products of bfloat16 rows and bfloat16 weights with float32 sums, on instructions that take pairs
// of neighboring inputs: AMX's tile products and AVX-512's dot products.
//
// Like the sets of inner loops (cpu/tiles.h), what implements this is compiled with flags of its
// own: plain structs and function pointers only.

#ifndef SEGBLOCKS_CPU_PAIRS_H_
#define SEGBLOCKS_CPU_PAIRS_H_

#include <stdint.h>

#include "cpu/tiles.h"

namespace segblocks::cpu {

constexpr int kTilePixels = 16;
constexpr int kBlockTiles = 2;
constexpr int kStackTiles = 4;
constexpr int kStackTaps = 3;
constexpr int kBlockPanels = 2;
constexpr int kStepBytes = 64;          // Of the inputs of a pixel that a step takes: 32 of them.
constexpr int kStepWeightBytes = 1024;  // Of a panel: (16 pairs, kPanel, 2).

// Finished sums, to be written while the next ones are formed.
struct PendingRows {
  void (*write)(const Outputs& outputs);
  Outputs outputs[kStackTiles];  // Of each tile: its live pixels.
  int tiles;
  int64_t done;  // Rows of the tiles, kTilePixels each, that are written or not live.
};

// A few tiles of 16 pixels by a panel or two of output channels:
//
// sums[tile][pixel][panel * 16 + k] = sum over taps t, steps s, inputs d < 32 of
//   pixels[tile][pixel * pixel_bytes + offsets[t] + s * kStepBytes][d] *
//   weights[panel * panel_bytes + (t * steps + s) * kStepWeightBytes][d / 2][k][d % 2]
//
// where the first brackets count bytes. All 16 pixels are read, whether they are live or not.
//
// There are at most kBlockTiles tiles, or a stack of kStackTiles: each lies `down` bytes behind the
// one before, and the taps are kStackTaps rows of as many taps, as far from each other. What one
// tile of a stack reads the others do, too.
struct PairBlock {
  const char* pixels[kStackTiles];
  int tiles;
  int64_t down;  // 0: no stack.
  int panels;
  int64_t pixel_bytes;
  const int64_t* offsets;
  int64_t taps;
  int64_t steps;
  const char* weights;
  int64_t panel_bytes;
  float* sums;           // (tiles, kTilePixels, panels * kPanel)
  PendingRows* pending;  // Written when the call ends.
};

// Copies of `depth` values, each filled up with zeros: values from[i * step + d] go to
// to[i * pitch + d].
struct PairCopies {
  const uint16_t* from;
  int64_t step;
  int64_t count;
  int64_t depth;
  uint16_t* to;
  int64_t pitch;  // Whole steps of 32 values.
};

struct PairKernels {
  const char* name;
  void (*copy)(const PairCopies& copies);
  // Around the blocks that a thread runs, in one piece of work.
  void (*begin)();
  void (*end)();
  void (*block)(const PairBlock& block);
};

// What the stand-ins run is what the instructions mean, in C++: for tests on any machine.
extern const PairKernels kPlainTilePairs;
extern const PairKernels kPlainDotPairs;
#ifdef SEGBLOCKS_PAIR_TILES
extern const PairKernels kAmxPairs;
extern const PairKernels kAvx512DotPairs;
#endif

}  // namespace segblocks::cpu

#endif  // SEGBLOCKS_CPU_PAIRS_H_
