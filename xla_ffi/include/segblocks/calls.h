// What a handler hands to the loops of its platform, once it has checked everything.

#ifndef SEGBLOCKS_CALLS_H_
#define SEGBLOCKS_CALLS_H_

#include <cstdint>

#include "segblocks/layout.h"
#include "segblocks/padding.h"
#include "segblocks/resampling.h"

namespace segblocks {

enum class Element { kFloat32, kBFloat16, kFloat16 };

// Image to packed pixels: high blocks are copied, low ones get the resampling's transpose.
struct SplitCall {
  BlockLayout layout;
  Resampling resampling;
  Element element;
  const int32_t* slots;
  const void* image;
  void* pixels;
};

// Packed pixels to image: high blocks are copied, low ones resampled.
struct CombineCall {
  BlockLayout layout;
  Resampling resampling;
  Element element;
  const int32_t* slots;
  const void* pixels;
  void* image;
};

struct PadCall {
  PadLayout layout;
  Element element;
  const int32_t* slots;
  const void* pixels;
  void* high;
  void* low;
};

struct PadBackwardCall {
  PadLayout layout;
  Element element;
  const int32_t* slots;
  const void* high;
  const void* low;
  void* pixels;
};

}  // namespace segblocks

#endif  // SEGBLOCKS_CALLS_H_
