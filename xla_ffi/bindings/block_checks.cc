// Checks of the operations on blocks and images: split, combine, pad, index_tables,
// upsample_argmax.

#include <limits>
#include <string>

#include "bindings/checker.h"
#include "bindings/checks.h"

namespace segblocks::bindings {
namespace {

template <typename Call>
ffi::Error check_image(const char* operation, const ImageOperands& o, Call* call) {
  Checker check(operation);
  BlockLayout& layout = call->layout;
  if (!check.rank("image", o.image, 4, "(n, h, w, c)") ||
      !check.rank("pixels", o.pixels, 2, "(pixels, c)") ||
      !check.element("image", o.image, &call->element) ||
      !check.same_element("pixels", o.pixels, "image", o.image) ||
      !check.grid(o.slots, o.num_high, o.low_factor, &layout)) {
    return check.error();
  }
  const auto d = o.image.dimensions();
  layout.block = d[1] / layout.grid_height;
  layout.channels = d[3];
  if (!check.block("image", o.image, layout) ||
      !check.shape("image", o.image,
                   {layout.images, layout.grid_height * layout.block,
                    layout.grid_width * layout.block, layout.channels}) ||
      !check.shape("pixels", o.pixels, {layout.num_pixels(), layout.channels})) {
    return check.error();
  }
  // The f x f mean is the transpose of nearest upsampling, divided by the pixels of a square.
  const auto square = static_cast<float>(layout.factor * layout.factor);
  call->resampling = {o.low == LowPixels::kBilinear,
                      o.low == LowPixels::kMean ? 1.0f / square : 1.0f};
  call->slots = o.slots.typed_data<int32_t>();
  call->image = o.image.untyped_data();
  call->pixels = o.pixels.untyped_data();
  return ffi::Error::Success();
}

template <typename Call>
ffi::Error check_pad(const char* operation, const PadOperands& o, Call* call) {
  Checker check(operation);
  PadLayout& layout = call->layout;
  BlockLayout& blocks = layout.blocks;
  if (!check.rank("pixels", o.pixels, 2, "(pixels, c)") ||
      !check.rank("high", o.high, 4, "(n_high, b + 2 * padding_y, b + 2 * padding_x, c)") ||
      !check.rank("low", o.low, 4, "(n_low, b / f + 2 * padding_y, b / f + 2 * padding_x, c)") ||
      !check.element("pixels", o.pixels, &call->element) ||
      !check.same_element("high", o.high, "pixels", o.pixels) ||
      !check.same_element("low", o.low, "pixels", o.pixels) ||
      !check.grid(o.slots, o.num_high, o.low_factor, &blocks)) {
    return check.error();
  }
  const auto d = o.high.dimensions();
  if (!check.range("padding_y", o.padding_y, 0, d[1] / 2) ||
      !check.range("padding_x", o.padding_x, 0, d[2] / 2)) {
    return check.error();
  }
  layout.padding_y = o.padding_y;
  layout.padding_x = o.padding_x;
  blocks.block = d[1] - 2 * o.padding_y;
  blocks.channels = o.pixels.dimensions()[1];
  if (!check.block("high", o.high, blocks) ||
      !check.shape("high", o.high,
                   {blocks.num_high, layout.height(true), layout.width(true), blocks.channels}) ||
      !check.shape(
          "low", o.low,
          {blocks.num_low(), layout.height(false), layout.width(false), blocks.channels}) ||
      !check.shape("pixels", o.pixels, {blocks.num_pixels(), blocks.channels})) {
    return check.error();
  }
  call->slots = o.slots.typed_data<int32_t>();
  call->pixels = o.pixels.untyped_data();
  call->high = o.high.untyped_data();
  call->low = o.low.untyped_data();
  return ffi::Error::Success();
}

bool check_table(Checker& check, const char* name, ffi::AnyBuffer buffer,
                 std::initializer_list<int64_t> shape) {
  return check.dtype(name, buffer, ffi::S32) && check.shape(name, buffer, shape);
}

ffi::Error check_tables(const char* operation, const IndexTablesOperands& o,
                        IndexTablesCall* call) {
  constexpr int64_t kMaxIndices = std::numeric_limits<int32_t>::max();
  Checker check(operation);
  IndexTableLayout& layout = call->layout;
  BlockLayout& blocks = layout.blocks;
  if (!check.rank("high_cells", o.high_cells, 1, "(n_high,)") ||
      !check.dtype("high_cells", o.high_cells, ffi::S32) ||
      !check.grid(o.slots, o.high_cells.dimensions()[0], o.low_factor, &blocks) ||
      !check.dtype("mask", o.mask, ffi::PRED) ||
      !check.shape("mask", o.mask, {blocks.images, blocks.grid_height, blocks.grid_width}) ||
      !check_table(check, "low_cells", o.low_cells, {blocks.num_low()}) ||
      !check.range("block_size", o.block_size, 1, kMaxSide)) {
    return check.error();
  }
  if (o.block_size % o.low_factor != 0) {
    check.fail("block_size", std::to_string(o.block_size),
               "a multiple of low_factor " + std::to_string(o.low_factor));
    return check.error();
  }
  if (!check.range("padding", o.padding, 0, kMaxSide) || !check.range("border", o.border, 0, 2)) {
    return check.error();
  }
  blocks.block = o.block_size;
  blocks.channels = 1;
  layout.padding = o.padding;
  layout.border = static_cast<Border>(o.border);
  const int64_t high_side = layout.patch_side(true);
  const int64_t low_side = layout.patch_side(false);
  if (!check_table(check, "high", o.high, {blocks.num_high, high_side, high_side}) ||
      !check_table(check, "low", o.low, {blocks.num_low(), low_side, low_side})) {
    return check.error();
  }
  const int64_t indices = blocks.num_pixels() + layout.num_halos();
  if (indices > kMaxIndices) {
    check.fail("block_size",
               std::to_string(o.block_size) + ", so " + std::to_string(indices) + " rows",
               "at most " + std::to_string(kMaxIndices));
    return check.error();
  }
  if (!check_table(check, "means", o.means, {layout.num_halos(), blocks.factor * blocks.factor})) {
    return check.error();
  }
  call->mask = o.mask.typed_data<bool>();
  call->slots = o.slots.typed_data<int32_t>();
  call->high_cells = o.high_cells.typed_data<int32_t>();
  call->low_cells = o.low_cells.typed_data<int32_t>();
  call->high = o.high.typed_data<int32_t>();
  call->low = o.low.typed_data<int32_t>();
  call->means = o.means.typed_data<int32_t>();
  return ffi::Error::Success();
}

}  // namespace

ffi::Error check(const char* operation, const ImageOperands& operands, SplitCall* call) {
  return check_image(operation, operands, call);
}

ffi::Error check(const char* operation, const ImageOperands& operands, CombineCall* call) {
  return check_image(operation, operands, call);
}

ffi::Error check(const char* operation, const PadOperands& operands, PadCall* call) {
  return check_pad(operation, operands, call);
}

ffi::Error check(const char* operation, const PadOperands& operands, PadBackwardCall* call) {
  return check_pad(operation, operands, call);
}

ffi::Error check(const char* operation, const IndexTablesOperands& o, LayerTablesCall* call) {
  call->count = 1;
  return check_tables(operation, o, &call->layers[0]);
}

ffi::Error check(const char* operation, const LayerTablesOperands& o, LayerTablesCall* call) {
  const size_t count = o.block_sizes.size();
  if (count < 1 || count > LayerTablesCall::kMaxLayers || o.paddings.size() != count ||
      o.borders.size() != count || o.tables.size() != 3 * count) {
    return invalid(operation, "block_sizes",
                   std::to_string(count) + " layers, " + std::to_string(o.paddings.size()) +
                       " paddings, " + std::to_string(o.borders.size()) + " borders and " +
                       std::to_string(o.tables.size()) + " tables",
                   "1 to " + std::to_string(LayerTablesCall::kMaxLayers) +
                       " layers with a padding, a border and 3 tables each");
  }
  call->count = static_cast<int>(count);
  for (size_t k = 0; k < count; ++k) {
    const auto table = [&](size_t i) { return *o.tables.get<ffi::AnyBuffer>(3 * k + i).value(); };
    const IndexTablesOperands one{o.mask,       o.slots,       o.high_cells, o.low_cells,
                                  table(0),     table(1),      table(2),     o.block_sizes[k],
                                  o.low_factor, o.paddings[k], o.borders[k]};
    if (auto e = check_tables(operation, one, &call->layers[k]); e.failure()) return e;
  }
  return ffi::Error::Success();
}

ffi::Error check(const char* operation, const UpsampleArgmaxOperands& o, UpsampleArgmaxCall* call) {
  Checker check(operation);
  if (!check.rank("logits", o.logits, 4, "(n, h, w, k)") ||
      !check.element("logits", o.logits, &call->element) ||
      !check.dtype("labels", o.labels, ffi::U8)) {
    return check.error();
  }
  if (o.factor != 2 && o.factor != 4 && o.factor != 8) {
    check.fail("factor", std::to_string(o.factor), "2, 4 or 8");
    return check.error();
  }
  const auto d = o.logits.dimensions();
  if (d[3] < 1 || d[3] > UpsampleArgmaxCall::kMaxClasses) {
    check.fail("logits", "shape " + shape_text(d),
               "1 .. " + std::to_string(UpsampleArgmaxCall::kMaxClasses) + " classes");
    return check.error();
  }
  if (!check.shape("labels", o.labels, {d[0], d[1] * o.factor, d[2] * o.factor})) {
    return check.error();
  }
  call->images = d[0];
  call->height = d[1];
  call->width = d[2];
  call->classes = d[3];
  call->factor = o.factor;
  call->logits = o.logits.untyped_data();
  call->labels = o.labels.typed_data<uint8_t>();
  return ffi::Error::Success();
}

}  // namespace segblocks::bindings
