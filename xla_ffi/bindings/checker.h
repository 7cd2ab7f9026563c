// Checks of single buffers and attributes, with the errors that say what was expected.

#ifndef SEGBLOCKS_BINDINGS_CHECKER_H_
#define SEGBLOCKS_BINDINGS_CHECKER_H_

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <sstream>
#include <string>
#include <utility>

#include "bindings/checks.h"
#include "xla/ffi/api/ffi.h"

namespace segblocks::bindings {

// Sides, strides and paddings up to here keep every product of sizes inside int64.
constexpr int64_t kMaxSide = 1 << 14;

inline std::string text(ffi::DataType type) {
  std::ostringstream stream;
  stream << type;
  return stream.str();
}

template <typename Dimensions>
std::string shape_text(const Dimensions& dimensions) {
  std::string result = "(";
  for (const int64_t dimension : dimensions) {
    if (result.size() > 1) result += ", ";
    result += std::to_string(dimension);
  }
  return result + ")";
}

// The checks of one call. Each says whether all is well; the first one that isn't makes the error.
class Checker {
 public:
  explicit Checker(const char* operation) : operation_(operation) {}

  ffi::Error error() const { return error_; }

  bool fail(const char* name, const std::string& got, const std::string& expected) {
    error_ = invalid(operation_, name, got, expected);
    return false;
  }

  bool rank(const char* name, ffi::AnyBuffer buffer, size_t rank, const char* dimensions) {
    return buffer.dimensions().size() == rank ||
           fail(name, "shape " + shape_text(buffer.dimensions()),
                "rank " + std::to_string(rank) + " " + dimensions);
  }

  bool shape(const char* name, ffi::AnyBuffer buffer, std::initializer_list<int64_t> expected) {
    const auto dimensions = buffer.dimensions();
    return std::equal(dimensions.begin(), dimensions.end(), expected.begin(), expected.end()) ||
           fail(name, "shape " + shape_text(dimensions), "shape " + shape_text(expected));
  }

  bool dtype(const char* name, ffi::AnyBuffer buffer, ffi::DataType type) {
    return buffer.element_type() == type ||
           fail(name, "dtype " + text(buffer.element_type()), "dtype " + text(type));
  }

  bool range(const char* name, int64_t value, int64_t first, int64_t last) {
    return (value >= first && value <= last) ||
           fail(name, std::to_string(value),
                "a number in " + std::to_string(first) + " .. " + std::to_string(last));
  }

  // The element type of a buffer: float32, bfloat16 or, where `half` allows it, float16.
  bool element(const char* name, ffi::AnyBuffer buffer, Element* element, bool half = true) {
    const ffi::DataType type = buffer.element_type();
    *element = type == ffi::F16    ? Element::kFloat16
               : type == ffi::BF16 ? Element::kBFloat16
                                   : Element::kFloat32;
    return type == ffi::F32 || type == ffi::BF16 || (half && type == ffi::F16) ||
           fail(name, "dtype " + text(type), half ? "dtype F32, BF16 or F16" : "dtype F32 or BF16");
  }

  bool same_element(const char* name, ffi::AnyBuffer buffer, const char* like_name,
                    ffi::AnyBuffer like) {
    return buffer.element_type() == like.element_type() ||
           fail(name, "dtype " + text(buffer.element_type()),
                "dtype " + text(like.element_type()) + " like argument '" + like_name + "'");
  }

  // The slots, num_high and low_factor; fills all of the layout but block and channels.
  bool grid(ffi::AnyBuffer slots, int64_t num_high, int64_t low_factor, BlockLayout* layout) {
    if (!rank("slots", slots, 3, "(n, gh, gw)") || !dtype("slots", slots, ffi::S32)) return false;
    const auto d = slots.dimensions();
    if (d[1] < 1 || d[2] < 1) {
      return fail("slots", "shape " + shape_text(d), "gh >= 1 and gw >= 1");
    }
    layout->images = d[0];
    layout->grid_height = d[1];
    layout->grid_width = d[2];
    layout->num_high = num_high;
    layout->factor = low_factor;
    return range("num_high", num_high, 0, layout->cells()) &&
           (low_factor >= 1 || fail("low_factor", std::to_string(low_factor), "a number >= 1"));
  }

  // The side of the blocks; a batch without blocks may have side 0.
  bool block(const char* name, ffi::AnyBuffer buffer, const BlockLayout& layout) {
    const bool some = layout.block >= 1 || layout.cells() == 0;
    return (some && layout.block % layout.factor == 0) ||
           fail(name,
                "shape " + shape_text(buffer.dimensions()) + ", so blocks of side " +
                    std::to_string(layout.block),
                "a positive multiple of low_factor " + std::to_string(layout.factor));
  }

 private:
  const char* operation_;
  ffi::Error error_;
};

}  // namespace segblocks::bindings

#endif  // SEGBLOCKS_BINDINGS_CHECKER_H_
