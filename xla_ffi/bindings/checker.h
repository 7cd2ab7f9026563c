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

namespace ffi = xla::ffi;

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

// Names the operation in errors.
class Checker {
 public:
  explicit Checker(const std::string& operation) : operation_(operation) {}

  ffi::Error rank(const char* name, ffi::AnyBuffer buffer, size_t rank,
                  const char* dimensions) const {
    if (buffer.dimensions().size() == rank) return ffi::Error::Success();
    return invalid(operation_, name, "shape " + shape_text(buffer.dimensions()),
                   "rank " + std::to_string(rank) + " " + dimensions);
  }

  ffi::Error shape(const char* name, ffi::AnyBuffer buffer,
                   std::initializer_list<int64_t> expected) const {
    const auto dimensions = buffer.dimensions();
    if (std::equal(dimensions.begin(), dimensions.end(), expected.begin(), expected.end())) {
      return ffi::Error::Success();
    }
    return invalid(operation_, name, "shape " + shape_text(dimensions),
                   "shape " + shape_text(expected));
  }

  ffi::Error range(const char* name, int64_t value, int64_t first, int64_t last) const {
    if (value >= first && value <= last) return ffi::Error::Success();
    return invalid(operation_, name, std::to_string(value),
                   "a number in " + std::to_string(first) + " .. " + std::to_string(last));
  }

  // The element type of the first buffer, which all the others must share.
  ffi::Error element(std::initializer_list<std::pair<const char*, ffi::AnyBuffer>> buffers,
                     Element* element) const {
    const auto [first_name, first] = *buffers.begin();
    switch (first.element_type()) {
      case ffi::F32:
        *element = Element::kFloat32;
        break;
      case ffi::BF16:
        *element = Element::kBFloat16;
        break;
      case ffi::F16:
        *element = Element::kFloat16;
        break;
      default:
        return invalid(operation_, first_name, "dtype " + text(first.element_type()),
                       "dtype F32, BF16 or F16");
    }
    for (const auto& [name, buffer] : buffers) {
      if (buffer.element_type() == first.element_type()) continue;
      return invalid(operation_, name, "dtype " + text(buffer.element_type()),
                     "dtype " + text(first.element_type()) + " like argument '" + first_name + "'");
    }
    return ffi::Error::Success();
  }

  ffi::Error dtype(const char* name, ffi::AnyBuffer buffer, ffi::DataType type) const {
    if (buffer.element_type() == type) return ffi::Error::Success();
    return invalid(operation_, name, "dtype " + text(buffer.element_type()), "dtype " + text(type));
  }

  // The slots, num_high and low_factor; fills all of the layout but block and channels.
  ffi::Error grid(ffi::AnyBuffer slots, const GridAttributes& attributes,
                  BlockLayout* layout) const {
    if (auto e = rank("slots", slots, 3, "(n, gh, gw)"); e.failure()) return e;
    if (auto e = dtype("slots", slots, ffi::S32); e.failure()) return e;
    const auto d = slots.dimensions();
    if (d[1] < 1 || d[2] < 1) {
      return invalid(operation_, "slots", "shape " + shape_text(d), "gh >= 1 and gw >= 1");
    }
    layout->images = d[0];
    layout->grid_height = d[1];
    layout->grid_width = d[2];
    if (auto e = range("num_high", attributes.num_high, 0, layout->cells()); e.failure()) return e;
    if (attributes.low_factor < 1) {
      return invalid(operation_, "low_factor", std::to_string(attributes.low_factor),
                     "a number >= 1");
    }
    layout->num_high = attributes.num_high;
    layout->factor = attributes.low_factor;
    return ffi::Error::Success();
  }

  // The side of the blocks; a batch without blocks may have side 0.
  ffi::Error block(const char* name, ffi::AnyBuffer buffer, const BlockLayout& layout) const {
    const bool some = layout.block >= 1 || layout.cells() == 0;
    if (some && layout.block % layout.factor == 0) return ffi::Error::Success();
    return invalid(operation_, name,
                   "shape " + shape_text(buffer.dimensions()) + ", so blocks of side " +
                       std::to_string(layout.block),
                   "a positive multiple of low_factor " + std::to_string(layout.factor));
  }

 protected:
  const std::string& operation_;
};

}  // namespace segblocks::bindings

#endif  // SEGBLOCKS_BINDINGS_CHECKER_H_
