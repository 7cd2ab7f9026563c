// A block of products on dot products of pairs, see cpu/products.h; for a file that has such a
// product: a class with
//   Sums                               16 float32
//   zero()
//   dot(sums, pixels, weights)         sums[k] + pixels[0] * weights[k][0] + pixels[1] *
//   weights[k][1] store(rows, sums)
// where pixels points to two bfloat16, weights to (16, 2).

#ifndef SEGBLOCKS_CPU_PAIRS_DOTS_H_
#define SEGBLOCKS_CPU_PAIRS_DOTS_H_

#include <stdint.h>

#include "cpu/products.h"
#include "cpu/products_pending.h"

namespace segblocks::cpu {
namespace {

constexpr int kDotPixels = 8;  // Of a tile, whose sums the registers hold.

template <typename Product, int kPanels>
void dot_pixels(const ProductBlock<Outputs>& block, const char* pixels, float* out) {
  typename Product::Sums sums[kDotPixels][kPanels];
#pragma GCC unroll 8
  for (int p = 0; p < kDotPixels; ++p) {
#pragma GCC unroll 2
    for (int n = 0; n < kPanels; ++n) sums[p][n] = Product::zero();
  }
  const char* weights = block.weights;
  for (int64_t t = 0; t < block.taps; ++t) {
    const char* row = pixels + block.offsets[t];
    for (int64_t pair = 0; pair < block.steps * kPanel; ++pair, row += 4, weights += 4 * kPanel) {
#pragma GCC unroll 8
      for (int p = 0; p < kDotPixels; ++p) {
#pragma GCC unroll 2
        for (int n = 0; n < kPanels; ++n) {
          sums[p][n] = Product::dot(sums[p][n], row + p * block.pixel_bytes,
                                    weights + n * block.panel_bytes);
        }
      }
    }
  }
#pragma GCC unroll 8
  for (int p = 0; p < kDotPixels; ++p) {
#pragma GCC unroll 2
    for (int n = 0; n < kPanels; ++n) {
      Product::store(out + (p * kPanels + n) * kPanel, sums[p][n]);
    }
  }
}

template <typename Product>
void run_dot_block(const ProductBlock<Outputs>& block) {
  write_all(block.pending);
  float* sums = block.sums;
  for (int tile = 0; tile < block.tiles; ++tile) {
    const char* pixels = block.pixels[tile];
    for (int p = 0; p < kTilePixels; p += kDotPixels) {
      const auto run = block.panels == 1 ? &dot_pixels<Product, 1> : &dot_pixels<Product, 2>;
      run(block, pixels + p * block.pixel_bytes, sums);
      sums += kDotPixels * block.panels * kPanel;
    }
  }
}

inline void nothing() {}

template <typename Product>
constexpr Products<Outputs> dot_pairs(const char* name, void (*copy)(const Copies&)) {
  return {name, copy, &nothing, &nothing, &run_dot_block<Product>};
}

}  // namespace
}  // namespace segblocks::cpu

#endif  // SEGBLOCKS_CPU_PAIRS_DOTS_H_
