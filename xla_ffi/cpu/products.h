// Products of rows found in copies and packed weights, on instructions that take several
// neighboring inputs at once: AMX's tile products of bfloat16 and of bytes, AVX-512's dot products
// of bfloat16.
//
// Like the sets of inner loops (cpu/tiles.h), what implements this is compiled with flags of its
// own: plain structs and function pointers only.

#ifndef SEGBLOCKS_CPU_PRODUCTS_H_
#define SEGBLOCKS_CPU_PRODUCTS_H_

#include <stdint.h>

#include "cpu/tiles.h"
#include "cpu/tiles_bytes.h"

namespace segblocks::cpu {

constexpr int kTilePixels = 16;
constexpr int kBlockTiles = 2;
constexpr int kStackTiles = 4;
constexpr int kStackTaps = 3;
constexpr int kBlockPanels = 2;
constexpr int kStepBytes = 64;          // Of the inputs of a pixel that a step takes.
constexpr int kStepWeightBytes = 1024;  // Of a panel: (16 words, kPanel, 4).

// Finished sums, to be written while the next ones are formed. T is Outputs or ByteOutputs.
template <typename T>
struct Pending {
  void (*write)(const T& outputs);
  T outputs[kStackTiles];  // Of each tile: its live pixels.
  int tiles;
  int64_t done;  // Rows of the tiles, kTilePixels each, that are written or not live.
};

// A few tiles of 16 pixels by a panel or two of output channels:
//
// sums[tile][pixel][panel * 16 + k] = sum over taps t, steps s, words w < 16 of the product of
//   pixels[tile][pixel * pixel_bytes + offsets[t] + s * kStepBytes][w] and
//   weights[panel * panel_bytes + (t * steps + s) * kStepWeightBytes][w][k]
//
// where the first brackets count bytes. A word is two bfloat16 or four bytes, unsigned in pixels
// and signed in weights; sums are float32 or int32. All 16 pixels are read, whether they are live
// or not.
//
// There are at most kBlockTiles tiles, or a stack of kStackTiles: each lies `down` bytes behind the
// one before, and the taps are kStackTaps rows of as many taps, as far from each other. What one
// tile of a stack reads the others do, too.
template <typename T>
struct ProductBlock {
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
  float* sums;          // Or int32_t: (tiles, kTilePixels, panels * kPanel)
  Pending<T>* pending;  // Written when the call ends.
};

// Copies of `depth` bytes, each filled up with zeros: byte from[i * step + d] goes to
// to[i * pitch + d].
struct Copies {
  const char* from;
  int64_t step;
  int64_t count;
  int64_t depth;
  char* to;
  int64_t pitch;  // Whole steps.
};

template <typename T>
struct Products {
  const char* name;
  void (*copy)(const Copies& copies);
  // Around the blocks that a thread runs, in one piece of work.
  void (*begin)();
  void (*end)();
  void (*block)(const ProductBlock<T>& block);
};

// What the stand-ins run is what the instructions mean, in C++: for tests on any machine.
extern const Products<Outputs> kPlainTilePairs;
extern const Products<Outputs> kPlainDotPairs;
extern const Products<ByteOutputs> kPlainTileBytes;
#ifdef SEGBLOCKS_PAIR_TILES
extern const Products<Outputs> kAmxPairs;
extern const Products<Outputs> kAvx512DotPairs;
extern const Products<ByteOutputs> kAmxBytes;
#endif

}  // namespace segblocks::cpu

#endif  // SEGBLOCKS_CPU_PRODUCTS_H_
