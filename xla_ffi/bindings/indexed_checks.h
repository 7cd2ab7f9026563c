// From an FFI call's buffers and attributes to a checked call of an indexed operation.
//
// Shapes and dtypes are checked here, indices and counts, which are data, are not.

#ifndef SEGBLOCKS_BINDINGS_INDEXED_CHECKS_H_
#define SEGBLOCKS_BINDINGS_INDEXED_CHECKS_H_

#include <cstdint>
#include <string>

#include "segblocks/indexed_calls.h"
#include "xla/ffi/api/ffi.h"

namespace segblocks::bindings {

// Operands that all indexed operations begin with, and the ghosts, a result.
struct IndexedOperands {
  xla::ffi::AnyBuffer rows;
  xla::ffi::AnyBuffer means;
  xla::ffi::AnyBuffer high;
  xla::ffi::AnyBuffer low;
  xla::ffi::AnyBuffer counts;
  xla::ffi::AnyBuffer ghosts;
};

struct IndexedConvOperands {
  IndexedOperands input;
  xla::ffi::AnyBuffer weights;
  xla::ffi::AnyBuffer scale;
  xla::ffi::AnyBuffer bias;
  xla::ffi::AnyBuffer residual;
  xla::ffi::AnyBuffer scale2;
  xla::ffi::AnyBuffer bias2;
  xla::ffi::AnyBuffer out;
  xla::ffi::AnyBuffer out2;
};

struct IndexedConvAttributes {
  int64_t kh;
  int64_t kw;
  int64_t stride;
  int64_t groups;
  int64_t activation;
  int64_t winograd;
};

struct IndexedUpsample2Operands {
  IndexedOperands input;
  xla::ffi::AnyBuffer residual;
  xla::ffi::AnyBuffer scale2;
  xla::ffi::AnyBuffer bias2;
  xla::ffi::AnyBuffer out;
};

struct IndexTablesOperands {
  xla::ffi::AnyBuffer mask;
  xla::ffi::AnyBuffer slots;
  xla::ffi::AnyBuffer high_cells;
  xla::ffi::AnyBuffer low_cells;
  xla::ffi::AnyBuffer high;
  xla::ffi::AnyBuffer low;
  xla::ffi::AnyBuffer means;
};

struct IndexTablesAttributes {
  int64_t block_size;
  int64_t low_factor;
  int64_t padding;
  int64_t border;
};

// Each fills all of `call`, pointers too, on success.
xla::ffi::Error check_indexed_conv(const std::string& operation,
                                   const IndexedConvOperands& operands,
                                   const IndexedConvAttributes& attributes, IndexedConvCall* call);

xla::ffi::Error check_indexed_max_pool(const std::string& operation, const IndexedOperands& input,
                                       xla::ffi::AnyBuffer out, int64_t window, int64_t stride,
                                       IndexedMaxPoolCall* call);

xla::ffi::Error check_indexed_upsample2(const std::string& operation,
                                        const IndexedUpsample2Operands& operands,
                                        IndexedUpsample2Call* call);

xla::ffi::Error check_index_tables(const std::string& operation,
                                   const IndexTablesOperands& operands,
                                   const IndexTablesAttributes& attributes, IndexTablesCall* call);

}  // namespace segblocks::bindings

#endif  // SEGBLOCKS_BINDINGS_INDEXED_CHECKS_H_
