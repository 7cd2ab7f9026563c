// The FFI handlers, once for all platforms.
//
// A platform names its context (`Tag` binds it, `Context` is what the handler receives) and has
// run(context, operation, call) for every call of segblocks/calls.h.

#ifndef SEGBLOCKS_BINDINGS_HANDLERS_H_
#define SEGBLOCKS_BINDINGS_HANDLERS_H_

#include <cstdint>
#include <string>

#include "bindings/checks.h"
#include "segblocks/calls.h"
#include "xla/ffi/api/ffi.h"

namespace segblocks::bindings {

namespace ffi = xla::ffi;

inline const int32_t* slot_data(ffi::AnyBuffer slots) { return slots.typed_data<int32_t>(); }

// The f x f mean is the transpose of nearest enlargement, divided by the pixels of a square.
inline Resampling mean_resampling(const BlockLayout& layout) {
  return {false, 1.0f / static_cast<float>(layout.factor * layout.factor)};
}

template <typename Platform>
struct Handlers {
  using Context = typename Platform::Context;
  using Result = ffi::Result<ffi::AnyBuffer>;

  static ffi::Error split(Context context, ffi::AnyBuffer image, ffi::AnyBuffer slots,
                          Result pixels, int64_t num_high, int64_t low_factor) {
    const std::string name = "segblocks_split";
    SplitCall call{};
    if (auto e = check_image_operands(name, {num_high, low_factor}, image, slots, *pixels,
                                      &call.layout, &call.element);
        e.failure()) {
      return e;
    }
    call.resampling = mean_resampling(call.layout);
    return run_split(context, name, call, image, slots, *pixels);
  }

  static ffi::Error split_backward(Context context, ffi::AnyBuffer pixels, ffi::AnyBuffer slots,
                                   Result image, int64_t num_high, int64_t low_factor) {
    const std::string name = "segblocks_split_backward";
    CombineCall call{};
    if (auto e = check_image_operands(name, {num_high, low_factor}, *image, slots, pixels,
                                      &call.layout, &call.element);
        e.failure()) {
      return e;
    }
    call.resampling = mean_resampling(call.layout);
    return run_combine(context, name, call, pixels, slots, *image);
  }

  static ffi::Error combine(Context context, ffi::AnyBuffer pixels, ffi::AnyBuffer slots,
                            Result image, int64_t num_high, int64_t low_factor, bool bilinear) {
    const std::string name = "segblocks_combine";
    CombineCall call{};
    if (auto e = check_image_operands(name, {num_high, low_factor}, *image, slots, pixels,
                                      &call.layout, &call.element);
        e.failure()) {
      return e;
    }
    call.resampling = {bilinear, 1.0f};
    return run_combine(context, name, call, pixels, slots, *image);
  }

  static ffi::Error combine_backward(Context context, ffi::AnyBuffer image, ffi::AnyBuffer slots,
                                     Result pixels, int64_t num_high, int64_t low_factor,
                                     bool bilinear) {
    const std::string name = "segblocks_combine_backward";
    SplitCall call{};
    if (auto e = check_image_operands(name, {num_high, low_factor}, image, slots, *pixels,
                                      &call.layout, &call.element);
        e.failure()) {
      return e;
    }
    call.resampling = {bilinear, 1.0f};
    return run_split(context, name, call, image, slots, *pixels);
  }

  static ffi::Error pad(Context context, ffi::AnyBuffer pixels, ffi::AnyBuffer slots, Result high,
                        Result low, int64_t num_high, int64_t low_factor, int64_t padding_y,
                        int64_t padding_x) {
    const std::string name = "segblocks_pad";
    PadCall call{};
    if (auto e = check_pad_operands(name, {{num_high, low_factor}, padding_y, padding_x}, pixels,
                                    slots, *high, *low, &call.layout, &call.element);
        e.failure()) {
      return e;
    }
    if (call.layout.blocks.empty()) return ffi::Error::Success();
    call.slots = slot_data(slots);
    call.pixels = pixels.untyped_data();
    call.high = high->untyped_data();
    call.low = low->untyped_data();
    return Platform::run(context, name, call);
  }

  static ffi::Error pad_backward(Context context, ffi::AnyBuffer high, ffi::AnyBuffer low,
                                 ffi::AnyBuffer slots, Result pixels, int64_t num_high,
                                 int64_t low_factor, int64_t padding_y, int64_t padding_x) {
    const std::string name = "segblocks_pad_backward";
    PadBackwardCall call{};
    if (auto e = check_pad_operands(name, {{num_high, low_factor}, padding_y, padding_x}, *pixels,
                                    slots, high, low, &call.layout, &call.element);
        e.failure()) {
      return e;
    }
    if (call.layout.blocks.empty()) return ffi::Error::Success();
    call.slots = slot_data(slots);
    call.high = high.untyped_data();
    call.low = low.untyped_data();
    call.pixels = pixels->untyped_data();
    return Platform::run(context, name, call);
  }

  static auto bind_image_operation() {
    return ffi::Ffi::Bind()
        .template Ctx<typename Platform::Tag>()
        .template Arg<ffi::AnyBuffer>()
        .template Arg<ffi::AnyBuffer>()
        .template Ret<ffi::AnyBuffer>()
        .template Attr<int64_t>("num_high")
        .template Attr<int64_t>("low_factor");
  }

  static auto bind_combine() { return bind_image_operation().template Attr<bool>("bilinear"); }

  static auto bind_pad() {
    return ffi::Ffi::Bind()
        .template Ctx<typename Platform::Tag>()
        .template Arg<ffi::AnyBuffer>()
        .template Arg<ffi::AnyBuffer>()
        .template Ret<ffi::AnyBuffer>()
        .template Ret<ffi::AnyBuffer>()
        .template Attr<int64_t>("num_high")
        .template Attr<int64_t>("low_factor")
        .template Attr<int64_t>("padding_y")
        .template Attr<int64_t>("padding_x");
  }

  static auto bind_pad_backward() {
    return ffi::Ffi::Bind()
        .template Ctx<typename Platform::Tag>()
        .template Arg<ffi::AnyBuffer>()
        .template Arg<ffi::AnyBuffer>()
        .template Arg<ffi::AnyBuffer>()
        .template Ret<ffi::AnyBuffer>()
        .template Attr<int64_t>("num_high")
        .template Attr<int64_t>("low_factor")
        .template Attr<int64_t>("padding_y")
        .template Attr<int64_t>("padding_x");
  }

 private:
  static ffi::Error run_split(Context& context, const std::string& name, SplitCall& call,
                              ffi::AnyBuffer image, ffi::AnyBuffer slots, ffi::AnyBuffer pixels) {
    if (call.layout.empty()) return ffi::Error::Success();
    call.slots = slot_data(slots);
    call.image = image.untyped_data();
    call.pixels = pixels.untyped_data();
    return Platform::run(context, name, call);
  }

  static ffi::Error run_combine(Context& context, const std::string& name, CombineCall& call,
                                ffi::AnyBuffer pixels, ffi::AnyBuffer slots, ffi::AnyBuffer image) {
    if (call.layout.empty()) return ffi::Error::Success();
    call.slots = slot_data(slots);
    call.pixels = pixels.untyped_data();
    call.image = image.untyped_data();
    return Platform::run(context, name, call);
  }
};

}  // namespace segblocks::bindings

#endif  // SEGBLOCKS_BINDINGS_HANDLERS_H_
