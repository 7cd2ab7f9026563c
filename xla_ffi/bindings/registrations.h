// The handlers of a platform as Python sees them, and the module that has them.

#ifndef SEGBLOCKS_BINDINGS_REGISTRATIONS_H_
#define SEGBLOCKS_BINDINGS_REGISTRATIONS_H_

#include <pybind11/pybind11.h>

#include "bindings/handlers.h"
#include "xla/ffi/api/ffi.h"

namespace segblocks::bindings {

inline pybind11::capsule capsule(XLA_FFI_Handler* handler) {
  return pybind11::capsule(reinterpret_cast<void*>(handler));
}

// Returns {operation: {FFI target: capsule}}.
template <typename Platform>
pybind11::dict registrations() {
  using H = Handlers<Platform>;
#define SEGBLOCKS_HANDLER(name, operands, results, ...)                                    \
  XLA_FFI_Handler* const name = [](XLA_FFI_CallFrame* frame) {                             \
    static auto* handler =                                                                 \
        H::template bind<operands, results>(H::name __VA_OPT__(, ) __VA_ARGS__).release(); \
    return handler->Call(frame);                                                           \
  }
  constexpr Flag kBilinear{"bilinear"};
  SEGBLOCKS_HANDLER(split, 2, 1, "num_high", "low_factor");
  SEGBLOCKS_HANDLER(split_backward, 2, 1, "num_high", "low_factor");
  SEGBLOCKS_HANDLER(combine, 2, 1, "num_high", "low_factor", kBilinear);
  SEGBLOCKS_HANDLER(combine_backward, 2, 1, "num_high", "low_factor", kBilinear);
  SEGBLOCKS_HANDLER(pad, 2, 2, "num_high", "low_factor", "padding_y", "padding_x");
  SEGBLOCKS_HANDLER(pad_backward, 3, 1, "num_high", "low_factor", "padding_y", "padding_x");
  SEGBLOCKS_HANDLER(index_tables, 4, 3, "block_size", "low_factor", "padding", "border");
  SEGBLOCKS_HANDLER(layer_tables, 4, kRemaining, "low_factor", List{"block_sizes"},
                    List{"paddings"}, List{"borders"});
  SEGBLOCKS_HANDLER(indexed_conv, 11 + kRemaining, 3 + kRemaining, "kh", "kw", "stride", "dilation",
                    "groups", "activation", "winograd");
  SEGBLOCKS_HANDLER(max_pool, 5 + kRemaining, 2, "window", "stride");
  SEGBLOCKS_HANDLER(upsample2, 8 + kRemaining, 2 + kRemaining);
  SEGBLOCKS_HANDLER(upsample_argmax, 1, 1, "factor");
  SEGBLOCKS_HANDLER(mask_tables, 1, 7, "height", "width", "dilation_stride", "first_stride",
                    "first_padding", "second_stride", "second_padding");
  SEGBLOCKS_HANDLER(mask_add, 5, 1, "activation", "rest");
  pybind11::dict operations;
  const auto add = [&operations](const char* operation, const char* target, XLA_FFI_Handler* run) {
    if (!operations.contains(operation)) operations[operation] = pybind11::dict();
    operations[operation][target] = capsule(run);
  };
  add("split", "segblocks_split", split);
  add("split", "segblocks_split_backward", split_backward);
  add("combine", "segblocks_combine", combine);
  add("combine", "segblocks_combine_backward", combine_backward);
  add("pad", "segblocks_pad", pad);
  add("pad", "segblocks_pad_backward", pad_backward);
  add("index_tables", "segblocks_index_tables", index_tables);
  add("index_tables", "segblocks_layer_tables", layer_tables);
  add("indexed_conv", "segblocks_indexed_conv", indexed_conv);
  if constexpr (Platform::kIsCpu) {
    SEGBLOCKS_HANDLER(depthwise_gradient, 6, 2, "kh", "kw", "stride", "dilation");
    add("depthwise_gradient", "segblocks_depthwise_gradient", depthwise_gradient);
    SEGBLOCKS_HANDLER(quantized_conv, 13, 3, "kh", "kw", "stride", "dilation", "groups");
    add("quantized_conv", "segblocks_quantized_conv", quantized_conv);
  }
#undef SEGBLOCKS_HANDLER
  add("max_pool", "segblocks_indexed_max_pool", max_pool);
  add("upsample2", "segblocks_indexed_upsample2", upsample2);
  add("upsample_argmax", "segblocks_upsample_argmax", upsample_argmax);
  add("mask_tables", "segblocks_mask_tables", mask_tables);
  add("mask_add", "segblocks_mask_add", mask_add);
  return operations;
}

}  // namespace segblocks::bindings

#endif  // SEGBLOCKS_BINDINGS_REGISTRATIONS_H_
