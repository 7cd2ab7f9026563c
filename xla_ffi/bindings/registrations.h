// The handlers of a platform as Python sees them, and the module that has them.

#ifndef SEGBLOCKS_BINDINGS_REGISTRATIONS_H_
#define SEGBLOCKS_BINDINGS_REGISTRATIONS_H_

#include <Python.h>

#include "bindings/handlers.h"
#include "xla/ffi/api/ffi.h"

namespace segblocks::bindings {

inline PyObject* capsule(XLA_FFI_Handler* handler) {
  return PyCapsule_New(reinterpret_cast<void*>(handler), nullptr, nullptr);
}

// Returns {operation: {FFI target: capsule}}.
template <typename Platform>
PyObject* registrations() {
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
  SEGBLOCKS_HANDLER(indexed_conv, 11, 3, "kh", "kw", "stride", "groups", "activation", "winograd");
  SEGBLOCKS_HANDLER(max_pool, 5, 2, "window", "stride");
  SEGBLOCKS_HANDLER(upsample2, 8, 2);
  SEGBLOCKS_HANDLER(upsample_argmax, 1, 1, "factor");
#undef SEGBLOCKS_HANDLER
  return Py_BuildValue(
      "{s{sNsN}s{sNsN}s{sNsN}s{sN}s{sN}s{sN}s{sN}s{sN}}",  //
      "split", "segblocks_split", capsule(split), "segblocks_split_backward",
      capsule(split_backward),  //
      "combine", "segblocks_combine", capsule(combine), "segblocks_combine_backward",
      capsule(combine_backward),                                                              //
      "pad", "segblocks_pad", capsule(pad), "segblocks_pad_backward", capsule(pad_backward),  //
      "index_tables", "segblocks_index_tables", capsule(index_tables),                        //
      "indexed_conv", "segblocks_indexed_conv", capsule(indexed_conv),                        //
      "max_pool", "segblocks_indexed_max_pool", capsule(max_pool),                            //
      "upsample2", "segblocks_indexed_upsample2", capsule(upsample2),                         //
      "upsample_argmax", "segblocks_upsample_argmax", capsule(upsample_argmax));
}

// Starts a module whose only function is `registrations`.
inline PyObject* start_module(const char* name, const char* doc, PyCFunction registrations) {
  static PyMethodDef methods[] = {
      {"registrations", registrations, METH_NOARGS, "Returns {operation: {FFI target: capsule}}."},
      {}};
  static PyModuleDef definition = {
      PyModuleDef_HEAD_INIT, name, doc, 0, methods, nullptr, nullptr, nullptr, nullptr};
  return PyModuleDef_Init(&definition);
}

}  // namespace segblocks::bindings

#endif  // SEGBLOCKS_BINDINGS_REGISTRATIONS_H_
