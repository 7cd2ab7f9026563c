// The handlers of indexed operations as Python sees them.

#ifndef SEGBLOCKS_BINDINGS_INDEXED_REGISTRATIONS_H_
#define SEGBLOCKS_BINDINGS_INDEXED_REGISTRATIONS_H_

#include <pybind11/pybind11.h>

#include "bindings/indexed_handlers.h"
#include "bindings/label_map_handler.h"
#include "bindings/registrations.h"
#include "xla/ffi/api/ffi.h"

namespace segblocks::bindings {

// {operation: {target name: capsule}}. The traits are the platform's.
template <typename Platform>
pybind11::dict indexed_registrations() {
  using H = IndexedHandlers<Platform>;
  using namespace pybind11::literals;
  XLA_FFI_DEFINE_HANDLER(conv, H::conv, H::bind_conv(), Platform::kTraits);
  XLA_FFI_DEFINE_HANDLER(max_pool, H::max_pool, H::bind_max_pool(), Platform::kTraits);
  XLA_FFI_DEFINE_HANDLER(upsample2, H::upsample2, H::bind_upsample2(), Platform::kTraits);
  XLA_FFI_DEFINE_HANDLER(tables, H::tables, H::bind_tables(), Platform::kTraits);
  return pybind11::dict("indexed"_a =
                            pybind11::dict("segblocks_indexed_conv"_a = capsule(conv),
                                           "segblocks_indexed_max_pool"_a = capsule(max_pool),
                                           "segblocks_indexed_upsample2"_a = capsule(upsample2),
                                           "segblocks_index_tables"_a = capsule(tables)));
}

// All operations of a platform.
template <typename Platform>
pybind11::dict all_registrations() {
  pybind11::dict all = registrations<Platform>();
  for (const pybind11::dict& some :
       {indexed_registrations<Platform>(), label_map_registrations<Platform>()}) {
    for (const auto& [operation, targets] : some) all[operation] = targets;
  }
  return all;
}

}  // namespace segblocks::bindings

#endif  // SEGBLOCKS_BINDINGS_INDEXED_REGISTRATIONS_H_
