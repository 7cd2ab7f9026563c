// The FFI handler of label maps, once for all platforms; see handlers.h for what a platform is.

#ifndef SEGBLOCKS_BINDINGS_LABEL_MAP_HANDLER_H_
#define SEGBLOCKS_BINDINGS_LABEL_MAP_HANDLER_H_

#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>

#include "bindings/checker.h"
#include "bindings/registrations.h"
#include "segblocks/label_map.h"
#include "xla/ffi/api/ffi.h"

namespace segblocks::bindings {

template <typename Platform>
struct LabelMapHandler {
  static ffi::Error run(typename Platform::Context context, ffi::AnyBuffer logits,
                        ffi::Result<ffi::AnyBuffer> labels, int64_t factor) {
    const std::string name = "segblocks_label_map";
    LabelMapCall call{};
    if (auto e = check(name, logits, *labels, factor, &call); e.failure()) return e;
    if (call.empty()) return ffi::Error::Success();
    call.logits = logits.untyped_data();
    call.labels = labels->typed_data<uint8_t>();
    return Platform::run(context, name, call);
  }

  static auto bind() {
    return ffi::Ffi::Bind()
        .template Ctx<typename Platform::Tag>()
        .template Arg<ffi::AnyBuffer>()  // logits
        .template Ret<ffi::AnyBuffer>()  // labels
        .template Attr<int64_t>("factor");
  }

 private:
  // On success fills all of `call` but its pointers.
  static ffi::Error check(const std::string& name, ffi::AnyBuffer logits, ffi::AnyBuffer labels,
                          int64_t factor, LabelMapCall* call) {
    const Checker check(name);
    if (auto e = check.rank("logits", logits, 4, "(n, h, w, k)"); e.failure()) return e;
    if (auto e = check.element({{"logits", logits}}, &call->element); e.failure()) return e;
    if (auto e = check.dtype("labels", labels, ffi::U8); e.failure()) return e;
    if (factor != 2 && factor != 4 && factor != 8) {
      return invalid(name, "factor", std::to_string(factor), "2, 4 or 8");
    }
    const auto d = logits.dimensions();
    if (d[3] < 1 || d[3] > LabelMapCall::kMostClasses) {
      return invalid(name, "logits", "shape " + shape_text(d),
                     "1 .. " + std::to_string(LabelMapCall::kMostClasses) + " classes");
    }
    call->images = d[0];
    call->height = d[1];
    call->width = d[2];
    call->classes = d[3];
    call->factor = factor;
    return check.shape("labels", labels, {d[0], d[1] * factor, d[2] * factor});
  }
};

// {operation: {target name: capsule}}. The traits are the platform's.
template <typename Platform>
pybind11::dict label_map_registrations() {
  using H = LabelMapHandler<Platform>;
  using namespace pybind11::literals;
  XLA_FFI_DEFINE_HANDLER(label_map, H::run, H::bind(), Platform::kTraits);
  return pybind11::dict("label_map"_a =
                            pybind11::dict("segblocks_label_map"_a = capsule(label_map)));
}

}  // namespace segblocks::bindings

#endif  // SEGBLOCKS_BINDINGS_LABEL_MAP_HANDLER_H_
