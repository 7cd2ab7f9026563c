// From an FFI call's buffers and attributes to a checked call of a platform's loops.

#ifndef SEGBLOCKS_BINDINGS_CHECKS_H_
#define SEGBLOCKS_BINDINGS_CHECKS_H_

#include <cstdint>
#include <string>

#include "segblocks/calls.h"
#include "xla/ffi/api/ffi.h"

namespace segblocks::bindings {

// Attributes that every operation has.
struct GridAttributes {
  int64_t num_high;
  int64_t low_factor;
};

struct PadAttributes {
  GridAttributes grid;
  int64_t padding_y;
  int64_t padding_x;
};

// The error of a call: which operation, which argument, what it got and what it expected.
xla::ffi::Error invalid(const std::string& operation, const std::string& argument,
                        const std::string& got, const std::string& expected);

// Checks the operands of split, combine and their backwards, which are the same three. On success
// fills `layout` and `element`.
xla::ffi::Error check_image_operands(const std::string& operation, const GridAttributes& attributes,
                                     xla::ffi::AnyBuffer image, xla::ffi::AnyBuffer slots,
                                     xla::ffi::AnyBuffer pixels, BlockLayout* layout,
                                     Element* element);

// Checks the operands of pad and its backward. On success fills `layout` and `element`.
xla::ffi::Error check_pad_operands(const std::string& operation, const PadAttributes& attributes,
                                   xla::ffi::AnyBuffer pixels, xla::ffi::AnyBuffer slots,
                                   xla::ffi::AnyBuffer high, xla::ffi::AnyBuffer low,
                                   PadLayout* layout, Element* element);

}  // namespace segblocks::bindings

#endif  // SEGBLOCKS_BINDINGS_CHECKS_H_
