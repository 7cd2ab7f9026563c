// Checks of the operations at a mask's active pixels: mask_tables, mask_add.

#include <algorithm>
#include <limits>
#include <string>

#include "bindings/checker.h"
#include "bindings/checks.h"

namespace segblocks::bindings {
namespace {

// A table (pixels, side, side) and its window.
bool check_window(Checker& check, const char* name, ffi::AnyBuffer table, int64_t pixels,
                  const char* stride_name, const char* padding_name, MapWindow* window) {
  if (!check.rank(name, table, 3, "(p, k, k)") || !check.dtype(name, table, ffi::S32)) return false;
  window->side = table.dimensions()[1];
  return check.range(name, window->side, 1, kMaxSide) &&
         check.shape(name, table, {pixels, window->side, window->side}) &&
         check.range(stride_name, window->stride, 1, kMaxSide) &&
         check.range(padding_name, window->padding, 0, kMaxSide);
}

bool check_list(Checker& check, const char* name, ffi::AnyBuffer buffer, int64_t length) {
  return check.dtype(name, buffer, ffi::S32) && check.shape(name, buffer, {length});
}

}  // namespace

ffi::Error check(const char* operation, const MaskTablesOperands& o, MaskTablesCall* call) {
  constexpr int64_t kMaxEntries = std::numeric_limits<int32_t>::max();
  Checker check(operation);
  MaskTableLayout& layout = call->layout;
  if (!check.rank("mask", o.mask, 3, "(n, h, w)") || !check.dtype("mask", o.mask, ffi::PRED) ||
      !check.rank("rows", o.rows, 3, "(n, h, w)") || !check.dtype("rows", o.rows, ffi::S32) ||
      !check.range("height", o.height, 1, kMaxSide) ||
      !check.range("width", o.width, 1, kMaxSide) ||
      !check.range("dilation_stride", o.dilation_stride, 1, kMaxSide)) {
    return check.error();
  }
  const auto mask = o.mask.dimensions();
  const auto rows = o.rows.dimensions();
  layout.images = mask[0];
  layout.height = mask[1];
  layout.width = mask[2];
  layout.stride = o.dilation_stride;
  layout.first = {0, o.first_stride, o.first_padding, o.height, o.width};
  layout.second = {0, o.second_stride, o.second_padding, rows[1], rows[2]};
  if (!check.shape("rows", o.rows, {mask[0], rows[1], rows[2]}) ||
      !check_window(check, "first", o.first, layout.num_dilated(), "first_stride", "first_padding",
                    &layout.first) ||
      !check_window(check, "second", o.second, layout.num_pixels(), "second_stride",
                    "second_padding", &layout.second) ||
      !check_list(check, "sites", o.sites, layout.num_pixels()) ||
      !check_list(check, "dilated_counts", o.dilated_counts, 2) ||
      !check_list(check, "counts", o.counts, 2) ||
      !check_list(check, "parts", o.parts, layout.num_parts())) {
    return check.error();
  }
  const int64_t entries =
      std::max({layout.num_dilated() * layout.first.area(),
                layout.num_pixels() * layout.second.area(), layout.images * o.height * o.width});
  if (entries > kMaxEntries) {
    check.fail("mask", "shape " + shape_text(mask) + ", so " + std::to_string(entries) + " entries",
               "at most " + std::to_string(kMaxEntries));
    return check.error();
  }
  call->mask = o.mask.typed_data<bool>();
  call->first = o.first.typed_data<int32_t>();
  call->second = o.second.typed_data<int32_t>();
  call->sites = o.sites.typed_data<int32_t>();
  call->rows = o.rows.typed_data<int32_t>();
  call->dilated_counts = o.dilated_counts.typed_data<int32_t>();
  call->counts = o.counts.typed_data<int32_t>();
  call->parts = o.parts.typed_data<int32_t>();
  return ffi::Error::Success();
}

ffi::Error check(const char* operation, const MaskAddOperands& o, MaskAddCall* call) {
  constexpr int64_t kMaxRows = std::numeric_limits<int32_t>::max() / 2;
  Checker check(operation);
  if (!check.rank("image", o.image, 2, "(p, c)") ||
      !check.element("image", o.image, &call->element, false)) {
    return check.error();
  }
  const auto d = o.image.dimensions();
  call->pixels = d[0];
  call->channels = d[1];
  if (!check.same_element("rows", o.rows, "image", o.image) ||
      !check.shape("rows", o.rows, {d[0], d[1]}) || !check.dtype("mask", o.mask, ffi::PRED) ||
      !check.shape("mask", o.mask, {d[0]}) || !check_list(check, "sites", o.sites, d[0]) ||
      !check_list(check, "counts", o.counts, 2) ||
      !check.same_element("out", o.out, "image", o.image) ||
      !check.shape("out", o.out, {d[0], d[1]}) || !check.range("activation", o.activation, 0, 2) ||
      !check.range("rest", o.rest, 0, 1)) {
    return check.error();
  }
  if (d[0] > kMaxRows) {
    check.fail("image", "shape " + shape_text(d), "at most " + std::to_string(kMaxRows) + " rows");
    return check.error();
  }
  if (o.out.untyped_data() != o.image.untyped_data() && !call->empty()) {
    check.fail("out", "a buffer of its own", "that of argument 'image'");
    return check.error();
  }
  call->activation = static_cast<Activation>(o.activation);
  call->rest = o.rest == 1;
  call->mask = o.mask.typed_data<bool>();
  call->sites = o.sites.typed_data<int32_t>();
  call->counts = o.counts.typed_data<int32_t>();
  call->rows = o.rows.untyped_data();
  call->out = o.out.untyped_data();
  return ffi::Error::Success();
}

}  // namespace segblocks::bindings
