// The inner loops on bytes, for convolutions in int8; plain structs and function pointers, as in
// tiles.h.

#ifndef SEGBLOCKS_CPU_TILES_BYTES_H_
#define SEGBLOCKS_CPU_TILES_BYTES_H_

#include <stdint.h>

#include "cpu/tiles.h"

namespace segblocks::cpu {

constexpr int kByteGroup = 4;  // Channels whose products are summed up at once.

// Some output pixels by some panels of output channels: whole-number sums.
//
// sums[p * pitch + k] = sum over taps t, groups g and i < 4 of entries[p][offsets[t]][4 * g + i] *
//   weights[(k / 16) * panel_stride + ((t * groups + g) * 16 + k % 16) * 4 + i]
struct ByteTile {
  const TableEntry* entries;
  const int64_t* offsets;
  int64_t taps;
  int64_t groups;
  const int8_t* weights;
  int64_t panel_stride;
  int32_t* sums;
  int64_t pitch;
};

struct SizedByteTile {
  int pixels;
  void (*accumulate)(const ByteTile& tile);
};

// y = clip(sums * scale + bias + residual * residual_scale, low, high); out = y,
// out2 = relu(y * scale2 + bias2). Sums, scales and biases are there for whole panels, the rest for
// `channels`. Pointers are those of the first pixel and channel; null: absent.
struct ByteOutputs {
  int64_t pixels;
  int64_t channels;  // kMaxPanels * kPanel at most.
  const void* sums;
  int64_t sums_pitch;
  const float* scale;
  const float* bias;
  const float* scale2;
  const float* bias2;
  float residual_scale;
  float low;
  float high;
  const void* residual;
  bool residual_bytes;  // Else float32, as below.
  void* out;
  bool out_bytes;
  void* out2;
  bool out2_bytes;
  int64_t pitch;  // Of residual, out and out2, in elements.
};

struct ByteLoops {
  const char* name;
  // Of each number of panels: tiles of ever fewer pixels.
  SizedByteTile conv[kMaxPanels][kTileSizes];
  void (*write)(const ByteOutputs& outputs);            // Sums are int32.
  void (*write_depthwise)(const ByteOutputs& outputs);  // Sums are float32, and whole.
  RowLoops rows;                                        // Of bytes: `max`, `upsample`, `mean`.
  // For convolutions of one group; null: by address, on `conv`.
  const Products<ByteOutputs>* products;
};

extern const ByteLoops kBaseByteLoops;
extern const ByteLoops kStandInByteLoops;  // The same with products of a stand-in for a tile unit.
#ifdef SEGBLOCKS_X86_TILES
extern const ByteLoops kVnniByteLoops;
#endif
#ifdef SEGBLOCKS_PAIR_TILES
extern const ByteLoops kAmxByteLoops;  // Those of VNNI with AMX's products.
#endif

}  // namespace segblocks::cpu

#endif  // SEGBLOCKS_CPU_TILES_BYTES_H_
