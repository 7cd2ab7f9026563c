// What a handler hands to the loops of its platform, once it has checked everything.

#ifndef SEGBLOCKS_CALLS_H_
#define SEGBLOCKS_CALLS_H_

#include <cstdint>

#include "segblocks/corners.h"
#include "segblocks/element.h"
#include "segblocks/index_tables.h"
#include "segblocks/layout.h"
#include "segblocks/macros.h"
#include "segblocks/mask_tables.h"
#include "segblocks/padding.h"
#include "segblocks/resampling.h"
#include "segblocks/units.h"

namespace segblocks {

enum class Activation { kNone, kRelu, kRelu6 };

// Image to packed pixels: high blocks are copied, low ones get the resampling's transpose.
struct SplitCall {
  BlockLayout layout;
  Resampling resampling;
  Element element;
  const int32_t* slots;
  const void* image;
  void* pixels;

  bool empty() const { return layout.empty(); }
};

// Packed pixels to image: high blocks are copied, low ones resampled.
struct CombineCall {
  BlockLayout layout;
  Resampling resampling;
  Element element;
  const int32_t* slots;
  const void* pixels;
  void* image;

  bool empty() const { return layout.empty(); }
};

struct PadCall {
  PadLayout layout;
  Element element;
  const int32_t* slots;
  const void* pixels;
  void* high;
  void* low;

  bool empty() const { return layout.blocks.empty(); }
};

struct PadBackwardCall {
  PadLayout layout;
  Element element;
  const int32_t* slots;
  const void* high;
  const void* low;
  void* pixels;

  bool empty() const { return layout.blocks.empty(); }
};

// How weights in pairs lie: (panels, taps, steps() * kStep / 2, kPanel, 2) bfloat16, where the last
// axis is that of two neighboring inputs, with zeros beyond the depth.
struct PairLayout {
  static constexpr int64_t kStep = 32;  // Inputs.

  int64_t taps;
  int64_t depth;  // Inputs of a tap.

  SEGBLOCKS_HD int64_t steps() const { return (depth + kStep - 1) / kStep; }
  SEGBLOCKS_HD int64_t rows() const { return taps * steps() * kStep / 2; }
};

// y = activation(convolution * scale + bias + residual); out = y, out2 = relu(y * scale2 + bias2).
// What is null is absent. Sums are float32, and out2 is made of the unrounded y.
struct IndexedConvCall {
  // Output channels a panel of packed weights holds; the last panel is filled up with zeros.
  static constexpr int64_t kPanel = 16;

  IndexedRows input;
  Units units;
  Window window;
  int64_t features;  // Output channels K; as many as input channels where depthwise.
  bool depthwise;    // One channel a group.
  bool winograd;     // Weights transformed for squares of outputs; 3 x 3 of stride 1 or 2.
  bool pairs;        // Weights in pairs of inputs, see pair_layout().
  Activation activation;
  // (panels, taps() * channels, kPanel), depthwise (taps(), K); of the rows' element type, those of
  // winograd float32.
  const void* weights;
  const float* scale;
  const float* bias;
  const void* residual;
  const float* scale2;  // Both or none of scale2 and bias2.
  const float* bias2;
  void* out;            // At least one of out and out2 is there.
  void* out2;           // There where scale2 is.
  LentHalos lent = {};  // On GPUs only.

  SEGBLOCKS_HD int64_t panels() const { return (features + kPanel - 1) / kPanel; }
  // Of the weights: those of the window, or the inputs of a square: 4 x 4 outputs of stride 1, 2 x
  // 2 of stride 2.
  SEGBLOCKS_HD int64_t taps() const {
    if (!winograd) return window.area();
    return window.stride == 1 ? 36 : 25;
  }
  // The taps of a kernel row are one where that takes fewer steps.
  SEGBLOCKS_HD PairLayout pair_layout() const {
    const PairLayout apart{window.area(), input.channels};
    const PairLayout merged{window.height, window.width * input.channels};
    return merged.rows() < apart.rows() ? merged : apart;
  }
  SEGBLOCKS_HD UnitOutputs outputs(const UnitPatches& patches) const {
    return window.outputs(patches);
  }

  bool empty() const { return max_output_rows(*this) == 0 || features == 0; }
};

// A convolution of bytes: y = sums * scale + bias + residual * residual_scale, between low and
// high; out = y, out2 = relu(y * scale2 + bias2). Bytes are rounded and clipped to 0 .. 255. Each
// product and each sum in float32 is rounded. On CPUs only.
struct QuantizedConvCall {
  static constexpr int64_t kPanel = 16;
  static constexpr int64_t kGroup = 4;  // Input channels that lie together in the weights.
  // A depthwise kernel has no more taps, so that its sums are exact in float32.
  static constexpr int64_t kMaxDepthwiseTaps = 512;

  IndexedRows input;  // Bytes.
  Units units;
  Window window;
  int64_t features;
  bool depthwise;
  // (panels, taps * groups, kPanel, kGroup), depthwise (taps, K); zeros beyond the last channel.
  const int8_t* weights;
  const float* scale;
  const float* bias;
  float residual_scale;
  float low;
  float high;
  const void* residual;  // null: none, as below.
  bool residual_bytes;   // Else float32.
  const float* scale2;
  const float* bias2;
  void* out;
  bool out_bytes;
  void* out2;
  bool out2_bytes;

  int64_t panels() const { return (features + kPanel - 1) / kPanel; }
  int64_t groups() const { return (input.channels + kGroup - 1) / kGroup; }
  SEGBLOCKS_HD UnitOutputs outputs(const UnitPatches& patches) const {
    return window.outputs(patches);
  }

  bool empty() const { return max_output_rows(*this) == 0 || features == 0; }
};

// The gradient of a depthwise kernel: of each tap and channel, the sum over output pixels of what
// the tap reads times the output's cotangent. On CPUs only.
struct DepthwiseGradientCall {
  IndexedRows input;  // float32.
  Units units;
  Window window;
  const float* cotangents;  // (output rows, channels)
  float* kernel;            // (taps, channels)

  SEGBLOCKS_HD UnitOutputs outputs(const UnitPatches& patches) const {
    return window.outputs(patches);
  }

  // Without output pixels, zeros are still to be written.
  bool empty() const { return input.channels == 0; }
};

// The maximum over windows; rows of index -1 count as zeros.
struct MaxPoolCall {
  IndexedRows input;
  Units units;
  Window window;
  void* out;

  SEGBLOCKS_HD UnitOutputs outputs(const UnitPatches& patches) const {
    return window.outputs(patches);
  }

  bool empty() const { return max_output_rows(*this) == 0 || input.channels == 0; }
};

// Bilinear x2 of units padded by 1; y = up + residual; out = relu(y * scale2 + bias2) where these
// are there, else y.
struct Upsample2Call {
  IndexedRows input;
  Units units;
  const void* residual;
  const float* scale2;
  const float* bias2;
  void* out;
  LentHalos lent = {};  // On GPUs only.

  SEGBLOCKS_HD UnitOutputs outputs(const UnitPatches& patches) const {
    if (patches.height < 2 || patches.width < 2) return {0, 0};
    return {2 * (patches.height - 2), 2 * (patches.width - 2)};
  }

  bool empty() const { return max_output_rows(*this) == 0 || input.channels == 0; }
};

struct IndexTablesCall {
  IndexTableLayout layout;
  const bool* mask;           // (n, gh, gw): true is high.
  const int32_t* slots;       // (n, gh, gw)
  const int32_t* high_cells;  // (num_high,)
  const int32_t* low_cells;   // (num_low,)
  int32_t* high;              // (num_high, patch_side(true), patch_side(true))
  int32_t* low;               // (num_low, patch_side(false), patch_side(false))
  int32_t* means;             // (num_halos(), factor * factor)

  bool empty() const { return layout.blocks.empty(); }
};

// From a mask to the tables of two convolutions: the first one at the dilated mask's active pixels,
// which reads images; the second at the mask's, which reads the first one's output rows.
struct MaskTablesCall {
  MaskTableLayout layout;
  const bool* mask;         // (images, height, width)
  int32_t* first;           // (dilated pixels, first.side, first.side)
  int32_t* second;          // (pixels, second.side, second.side)
  int32_t* sites;           // (pixels,): numbers of the active pixels, in order.
  int32_t* rows;            // Of each dilated pixel: its number among the active ones, or -1.
  int32_t* dilated_counts;  // (2,): how many are active, and 0.
  int32_t* counts;          // (2,): the same of the mask.
  int32_t* parts;           // (num_parts(),): kernels for GPUs work in it.

  bool empty() const { return layout.num_pixels() == 0; }
};

// Adds rows to those of a mask's active pixels, in place; `activation` follows, elsewhere only
// where `rest` asks for it.
struct MaskAddCall {
  Element element;
  int64_t pixels;
  int64_t channels;
  Activation activation;
  bool rest;
  const bool* mask;       // (pixels,)
  const int32_t* sites;   // (pixels,): as of MaskTablesCall.
  const int32_t* counts;  // (2,)
  const void* rows;       // (pixels, channels)
  void* out;              // (pixels, channels)

  bool empty() const { return pixels == 0 || channels == 0; }
};

// The tables of several layers of one grid.
struct LayerTablesCall {
  static constexpr int kMaxLayers = 16;

  int count;
  IndexTablesCall layers[kMaxLayers];  // With the same mask, slots and cells.

  bool empty() const { return count == 0 || layers[0].empty(); }
};

// Ties go to the lowest class. A NaN never wins; where nothing is above minus infinity, class 0
// does.
struct UpsampleArgmaxCall {
  static constexpr int64_t kMaxClasses = 256;

  Element element;
  int64_t images;
  int64_t height;  // Of the logits.
  int64_t width;
  int64_t classes;
  int64_t factor;
  const void* logits;  // (images, height, width, classes)
  uint8_t* labels;     // (images, height * factor, width * factor)

  SEGBLOCKS_HD Corners rows() const { return {height, factor}; }
  SEGBLOCKS_HD Corners columns() const { return {width, factor}; }
  bool empty() const { return images == 0 || height == 0 || width == 0; }
};

}  // namespace segblocks

#endif  // SEGBLOCKS_CALLS_H_
