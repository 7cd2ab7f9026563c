// The FFI handlers of indexed operations, once for all platforms; see handlers.h for what a
// platform is. run() gets the calls of segblocks/indexed_calls.h, whose indices it has yet to check
// or clamp.

#ifndef SEGBLOCKS_BINDINGS_INDEXED_HANDLERS_H_
#define SEGBLOCKS_BINDINGS_INDEXED_HANDLERS_H_

#include <cstdint>
#include <string>

#include "bindings/indexed_checks.h"
#include "segblocks/indexed_calls.h"
#include "xla/ffi/api/ffi.h"

namespace segblocks::bindings {

namespace ffi = xla::ffi;

template <typename Platform>
struct IndexedHandlers {
  using Context = typename Platform::Context;
  using Buffer = ffi::AnyBuffer;
  using Result = ffi::Result<ffi::AnyBuffer>;

  static ffi::Error conv(Context context, Buffer rows, Buffer means, Buffer high, Buffer low,
                         Buffer counts, Buffer weights, Buffer scale, Buffer bias, Buffer residual,
                         Buffer scale2, Buffer bias2, Result out, Result out2, Result ghosts,
                         int64_t kh, int64_t kw, int64_t stride, int64_t groups, int64_t activation,
                         int64_t winograd) {
    const std::string name = "segblocks_indexed_conv";
    IndexedConvCall call{};
    if (auto e = check_indexed_conv(name,
                                    {{rows, means, high, low, counts, *ghosts},
                                     weights,
                                     scale,
                                     bias,
                                     residual,
                                     scale2,
                                     bias2,
                                     *out,
                                     *out2},
                                    {kh, kw, stride, groups, activation, winograd}, &call);
        e.failure()) {
      return e;
    }
    if (max_output_rows(call) == 0 || call.features == 0) return ffi::Error::Success();
    return Platform::run(context, name, call);
  }

  static ffi::Error max_pool(Context context, Buffer rows, Buffer means, Buffer high, Buffer low,
                             Buffer counts, Result out, Result ghosts, int64_t window,
                             int64_t stride) {
    const std::string name = "segblocks_indexed_max_pool";
    IndexedMaxPoolCall call{};
    if (auto e = check_indexed_max_pool(name, {rows, means, high, low, counts, *ghosts}, *out,
                                        window, stride, &call);
        e.failure()) {
      return e;
    }
    if (max_output_rows(call) == 0 || call.input.channels == 0) return ffi::Error::Success();
    return Platform::run(context, name, call);
  }

  static ffi::Error upsample2(Context context, Buffer rows, Buffer means, Buffer high, Buffer low,
                              Buffer counts, Buffer residual, Buffer scale2, Buffer bias2,
                              Result out, Result ghosts) {
    const std::string name = "segblocks_indexed_upsample2";
    IndexedUpsample2Call call{};
    if (auto e = check_indexed_upsample2(
            name, {{rows, means, high, low, counts, *ghosts}, residual, scale2, bias2, *out},
            &call);
        e.failure()) {
      return e;
    }
    if (max_output_rows(call) == 0 || call.input.channels == 0) return ffi::Error::Success();
    return Platform::run(context, name, call);
  }

  static ffi::Error tables(Context context, Buffer mask, Buffer slots, Buffer high_cells,
                           Buffer low_cells, Result high, Result low, Result means,
                           int64_t block_size, int64_t low_factor, int64_t padding,
                           int64_t border) {
    const std::string name = "segblocks_index_tables";
    IndexTablesCall call{};
    if (auto e = check_index_tables(name, {mask, slots, high_cells, low_cells, *high, *low, *means},
                                    {block_size, low_factor, padding, border}, &call);
        e.failure()) {
      return e;
    }
    if (call.layout.blocks.empty()) return ffi::Error::Success();
    return Platform::run(context, name, call);
  }

  static auto bind_conv() {
    return bind_units()
        .template Arg<Buffer>()  // weights
        .template Arg<Buffer>()  // scale
        .template Arg<Buffer>()  // bias
        .template Arg<Buffer>()  // residual
        .template Arg<Buffer>()  // scale2
        .template Arg<Buffer>()  // bias2
        .template Ret<Buffer>()  // out
        .template Ret<Buffer>()  // out2
        .template Ret<Buffer>()  // ghosts
        .template Attr<int64_t>("kh")
        .template Attr<int64_t>("kw")
        .template Attr<int64_t>("stride")
        .template Attr<int64_t>("groups")
        .template Attr<int64_t>("activation")
        .template Attr<int64_t>("winograd");
  }

  static auto bind_max_pool() {
    return bind_units()
        .template Ret<Buffer>()  // out
        .template Ret<Buffer>()  // ghosts
        .template Attr<int64_t>("window")
        .template Attr<int64_t>("stride");
  }

  static auto bind_upsample2() {
    return bind_units()
        .template Arg<Buffer>()   // residual
        .template Arg<Buffer>()   // scale2
        .template Arg<Buffer>()   // bias2
        .template Ret<Buffer>()   // out
        .template Ret<Buffer>();  // ghosts
  }

  static auto bind_tables() {
    return ffi::Ffi::Bind()
        .template Ctx<typename Platform::Tag>()
        .template Arg<Buffer>()  // mask
        .template Arg<Buffer>()  // slots
        .template Arg<Buffer>()  // high_cells
        .template Arg<Buffer>()  // low_cells
        .template Ret<Buffer>()  // high
        .template Ret<Buffer>()  // low
        .template Ret<Buffer>()  // means
        .template Attr<int64_t>("block_size")
        .template Attr<int64_t>("low_factor")
        .template Attr<int64_t>("padding")
        .template Attr<int64_t>("border");
  }

 private:
  static auto bind_units() {
    return ffi::Ffi::Bind()
        .template Ctx<typename Platform::Tag>()
        .template Arg<Buffer>()   // rows
        .template Arg<Buffer>()   // means
        .template Arg<Buffer>()   // high
        .template Arg<Buffer>()   // low
        .template Arg<Buffer>();  // counts
  }
};

}  // namespace segblocks::bindings

#endif  // SEGBLOCKS_BINDINGS_INDEXED_HANDLERS_H_
