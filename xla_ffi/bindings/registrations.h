// The handlers of a platform as Python sees them.

#ifndef SEGBLOCKS_BINDINGS_REGISTRATIONS_H_
#define SEGBLOCKS_BINDINGS_REGISTRATIONS_H_

#include <pybind11/pybind11.h>

#include "bindings/handlers.h"
#include "xla/ffi/api/ffi.h"

namespace segblocks::bindings {

inline pybind11::capsule capsule(XLA_FFI_Handler* handler) {
  return pybind11::capsule(reinterpret_cast<void*>(handler));
}

// {operation: {target name: capsule}}. The traits are the platform's.
template <typename Platform>
pybind11::dict registrations() {
  using H = Handlers<Platform>;
  using namespace pybind11::literals;
  XLA_FFI_DEFINE_HANDLER(split, H::split, H::bind_image_operation(), Platform::kTraits);
  XLA_FFI_DEFINE_HANDLER(split_backward, H::split_backward, H::bind_image_operation(),
                         Platform::kTraits);
  XLA_FFI_DEFINE_HANDLER(combine, H::combine, H::bind_combine(), Platform::kTraits);
  XLA_FFI_DEFINE_HANDLER(combine_backward, H::combine_backward, H::bind_combine(),
                         Platform::kTraits);
  XLA_FFI_DEFINE_HANDLER(pad, H::pad, H::bind_pad(), Platform::kTraits);
  XLA_FFI_DEFINE_HANDLER(pad_backward, H::pad_backward, H::bind_pad_backward(), Platform::kTraits);
  return pybind11::dict(
      "split"_a = pybind11::dict("segblocks_split"_a = capsule(split),
                                 "segblocks_split_backward"_a = capsule(split_backward)),
      "combine"_a = pybind11::dict("segblocks_combine"_a = capsule(combine),
                                   "segblocks_combine_backward"_a = capsule(combine_backward)),
      "pad"_a = pybind11::dict("segblocks_pad"_a = capsule(pad),
                               "segblocks_pad_backward"_a = capsule(pad_backward)));
}

}  // namespace segblocks::bindings

#endif  // SEGBLOCKS_BINDINGS_REGISTRATIONS_H_
