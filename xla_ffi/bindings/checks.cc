#include "bindings/checks.h"

#include "bindings/checker.h"

namespace segblocks::bindings {

ffi::Error invalid(const std::string& operation, const std::string& argument,
                   const std::string& got, const std::string& expected) {
  return ffi::Error::InvalidArgument(operation + ": argument '" + argument + "': got " + got +
                                     ", expected " + expected);
}

ffi::Error check_image_operands(const std::string& operation, const GridAttributes& attributes,
                                ffi::AnyBuffer image, ffi::AnyBuffer slots, ffi::AnyBuffer pixels,
                                BlockLayout* layout, Element* element) {
  const Checker check(operation);
  if (auto e = check.rank("image", image, 4, "(n, h, w, c)"); e.failure()) return e;
  if (auto e = check.rank("pixels", pixels, 2, "(pixels, c)"); e.failure()) return e;
  if (auto e = check.element({{"image", image}, {"pixels", pixels}}, element); e.failure()) {
    return e;
  }
  if (auto e = check.grid(slots, attributes, layout); e.failure()) return e;

  const auto d = image.dimensions();
  layout->block = d[1] / layout->grid_height;
  layout->channels = d[3];
  if (auto e = check.block("image", image, *layout); e.failure()) return e;
  if (auto e = check.shape("image", image,
                           {layout->images, layout->grid_height * layout->block,
                            layout->grid_width * layout->block, layout->channels});
      e.failure()) {
    return e;
  }
  return check.shape("pixels", pixels, {layout->num_pixels(), layout->channels});
}

ffi::Error check_pad_operands(const std::string& operation, const PadAttributes& attributes,
                              ffi::AnyBuffer pixels, ffi::AnyBuffer slots, ffi::AnyBuffer high,
                              ffi::AnyBuffer low, PadLayout* layout, Element* element) {
  const Checker check(operation);
  if (auto e = check.rank("pixels", pixels, 2, "(pixels, c)"); e.failure()) return e;
  if (auto e = check.rank("high", high, 4, "(n_high, b + 2 * padding_y, b + 2 * padding_x, c)");
      e.failure()) {
    return e;
  }
  if (auto e =
          check.rank("low", low, 4, "(n_low, b / f + 2 * padding_y, b / f + 2 * padding_x, c)");
      e.failure()) {
    return e;
  }
  if (auto e = check.element({{"pixels", pixels}, {"high", high}, {"low", low}}, element);
      e.failure()) {
    return e;
  }
  BlockLayout& blocks = layout->blocks;
  if (auto e = check.grid(slots, attributes.grid, &blocks); e.failure()) return e;

  const auto d = high.dimensions();
  if (auto e = check.range("padding_y", attributes.padding_y, 0, d[1] / 2); e.failure()) return e;
  if (auto e = check.range("padding_x", attributes.padding_x, 0, d[2] / 2); e.failure()) return e;
  layout->padding_y = attributes.padding_y;
  layout->padding_x = attributes.padding_x;
  blocks.block = d[1] - 2 * layout->padding_y;
  blocks.channels = pixels.dimensions()[1];
  if (auto e = check.block("high", high, blocks); e.failure()) return e;
  if (auto e = check.shape(
          "high", high,
          {blocks.num_high, layout->height(true), layout->width(true), blocks.channels});
      e.failure()) {
    return e;
  }
  if (auto e = check.shape(
          "low", low,
          {blocks.num_low(), layout->height(false), layout->width(false), blocks.channels});
      e.failure()) {
    return e;
  }
  return check.shape("pixels", pixels, {blocks.num_pixels(), blocks.channels});
}

}  // namespace segblocks::bindings
