// From an FFI call's buffers and attributes to a checked call of a platform's loops.
//
// Shapes and dtypes are checked here; slots, indices and counts, which are data, are not.

#ifndef SEGBLOCKS_BINDINGS_CHECKS_H_
#define SEGBLOCKS_BINDINGS_CHECKS_H_

#include <cstdint>
#include <string>

#include "segblocks/calls.h"
#include "xla/ffi/api/ffi.h"

namespace segblocks::bindings {

namespace ffi = xla::ffi;

// What becomes of the pixels of low blocks: f x f means, and the two ways to upsample them.
enum class LowPixels { kMean, kNearest, kBilinear };

// Of split, combine and their backwards.
struct ImageOperands {
  ffi::AnyBuffer image;
  ffi::AnyBuffer slots;
  ffi::AnyBuffer pixels;
  int64_t num_high;
  int64_t low_factor;
  LowPixels low;
};

// Of pad and its backward.
struct PadOperands {
  ffi::AnyBuffer pixels;
  ffi::AnyBuffer slots;
  ffi::AnyBuffer high;
  ffi::AnyBuffer low;
  int64_t num_high;
  int64_t low_factor;
  int64_t padding_y;
  int64_t padding_x;
};

struct IndexTablesOperands {
  ffi::AnyBuffer mask;
  ffi::AnyBuffer slots;
  ffi::AnyBuffer high_cells;
  ffi::AnyBuffer low_cells;
  ffi::AnyBuffer high;
  ffi::AnyBuffer low;
  ffi::AnyBuffer means;
  int64_t block_size;
  int64_t low_factor;
  int64_t padding;
  int64_t border;
};

// `tables` has high, low and means of each layer.
struct LayerTablesOperands {
  ffi::AnyBuffer mask;
  ffi::AnyBuffer slots;
  ffi::AnyBuffer high_cells;
  ffi::AnyBuffer low_cells;
  ffi::RemainingRets tables;
  int64_t low_factor;
  ffi::Span<const int64_t> block_sizes;
  ffi::Span<const int64_t> paddings;
  ffi::Span<const int64_t> borders;
};

// What all operations on rows found by index begin with, and the halos, a result; or an operand,
// `lent`, where what made the rows has written them.
struct RowOperands {
  ffi::AnyBuffer rows;
  ffi::AnyBuffer means;
  ffi::AnyBuffer high;
  ffi::AnyBuffer low;
  ffi::AnyBuffer counts;
  ffi::AnyBuffer halos;
  const ffi::RemainingArgs* lent = nullptr;
};

struct IndexedConvOperands {
  RowOperands input;
  ffi::AnyBuffer weights;
  ffi::AnyBuffer scale;
  ffi::AnyBuffer bias;
  ffi::AnyBuffer residual;
  ffi::AnyBuffer scale2;
  ffi::AnyBuffer bias2;
  ffi::AnyBuffer out;
  ffi::AnyBuffer out2;
  ffi::RemainingRets lent;  // Nothing; or halos of out; or any buffer, and halos of out2.
  int64_t kh;
  int64_t kw;
  int64_t stride;
  int64_t dilation;
  int64_t groups;
  int64_t activation;
  int64_t winograd;
};

struct QuantizedConvOperands {
  RowOperands input;
  ffi::AnyBuffer zero;
  ffi::AnyBuffer weights;
  ffi::AnyBuffer scale;
  ffi::AnyBuffer bias;
  ffi::AnyBuffer limits;
  ffi::AnyBuffer residual;
  ffi::AnyBuffer scale2;
  ffi::AnyBuffer bias2;
  ffi::AnyBuffer out;
  ffi::AnyBuffer out2;
  int64_t kh;
  int64_t kw;
  int64_t stride;
  int64_t dilation;
  int64_t groups;
};

struct DepthwiseGradientOperands {
  RowOperands input;
  ffi::AnyBuffer cotangents;
  ffi::AnyBuffer kernel;
  int64_t kh;
  int64_t kw;
  int64_t stride;
  int64_t dilation;
};

struct MaxPoolOperands {
  RowOperands input;
  ffi::AnyBuffer out;
  int64_t window;
  int64_t stride;
};

struct Upsample2Operands {
  RowOperands input;
  ffi::AnyBuffer residual;
  ffi::AnyBuffer scale2;
  ffi::AnyBuffer bias2;
  ffi::AnyBuffer out;
  ffi::RemainingRets lent;  // Nothing, or halos of out.
};

struct UpsampleArgmaxOperands {
  ffi::AnyBuffer logits;
  ffi::AnyBuffer labels;
  int64_t factor;
};

struct MaskTablesOperands {
  ffi::AnyBuffer mask;
  ffi::AnyBuffer first;
  ffi::AnyBuffer second;
  ffi::AnyBuffer sites;
  ffi::AnyBuffer rows;
  ffi::AnyBuffer dilated_counts;
  ffi::AnyBuffer counts;
  ffi::AnyBuffer parts;
  int64_t height;
  int64_t width;
  int64_t dilation_stride;
  int64_t first_stride;
  int64_t first_padding;
  int64_t second_stride;
  int64_t second_padding;
};

struct MaskAddOperands {
  ffi::AnyBuffer image;
  ffi::AnyBuffer rows;
  ffi::AnyBuffer mask;
  ffi::AnyBuffer sites;
  ffi::AnyBuffer counts;
  ffi::AnyBuffer out;
  int64_t activation;
  int64_t rest;
};

// Each fills all of `call` on success.
ffi::Error check(const char* operation, const ImageOperands& operands, SplitCall* call);
ffi::Error check(const char* operation, const ImageOperands& operands, CombineCall* call);
ffi::Error check(const char* operation, const PadOperands& operands, PadCall* call);
ffi::Error check(const char* operation, const PadOperands& operands, PadBackwardCall* call);
ffi::Error check(const char* operation, const IndexTablesOperands& operands, LayerTablesCall* call);
ffi::Error check(const char* operation, const LayerTablesOperands& operands, LayerTablesCall* call);
ffi::Error check(const char* operation, const IndexedConvOperands& operands, IndexedConvCall* call);
ffi::Error check(const char* operation, const QuantizedConvOperands& operands,
                 QuantizedConvCall* call);
ffi::Error check(const char* operation, const DepthwiseGradientOperands& operands,
                 DepthwiseGradientCall* call);
ffi::Error check(const char* operation, const MaxPoolOperands& operands, MaxPoolCall* call);
ffi::Error check(const char* operation, const Upsample2Operands& operands, Upsample2Call* call);
ffi::Error check(const char* operation, const UpsampleArgmaxOperands& operands,
                 UpsampleArgmaxCall* call);
ffi::Error check(const char* operation, const MaskTablesOperands& operands, MaskTablesCall* call);
ffi::Error check(const char* operation, const MaskAddOperands& operands, MaskAddCall* call);

// The error of a call: which operation, which argument, what it got and what it expected.
inline ffi::Error invalid(const std::string& operation, const std::string& argument,
                          const std::string& got, const std::string& expected) {
  return ffi::Error::InvalidArgument(operation + ": argument '" + argument + "': got " + got +
                                     ", expected " + expected);
}

}  // namespace segblocks::bindings

#endif  // SEGBLOCKS_BINDINGS_CHECKS_H_
