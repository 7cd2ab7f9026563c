// The FFI handlers of all operations, once for all platforms.
//
// A platform names its context (`Tag` binds it, `Context` is what the handler receives) and its
// traits, and has run(context, operation, call) for every call of segblocks/calls.h that isn't
// empty, and nothing(context, operation) for those that are.

#ifndef SEGBLOCKS_BINDINGS_HANDLERS_H_
#define SEGBLOCKS_BINDINGS_HANDLERS_H_

#include <cstdint>
#include <utility>

#include "bindings/checks.h"
#include "segblocks/calls.h"
#include "xla/ffi/api/ffi.h"

namespace segblocks::bindings {

// The name of an attribute that is a bool.
struct Flag {
  const char* name;
};
// The name of one that is a list of int64.
struct List {
  const char* name;
};
// Added to a number of operands or results: others may follow.
constexpr int kRemaining = 1 << 8;

template <typename Platform>
struct Handlers {
  using Context = typename Platform::Context;
  using Buffer = ffi::AnyBuffer;
  using Result = ffi::Result<ffi::AnyBuffer>;
  using Numbers = ffi::Span<const int64_t>;

  static ffi::Error split(Context context, Buffer image, Buffer slots, Result pixels,
                          int64_t num_high, int64_t low_factor) {
    const ImageOperands operands{image, slots, *pixels, num_high, low_factor, LowPixels::kMean};
    return run<SplitCall>(context, "segblocks_split", operands);
  }

  static ffi::Error split_backward(Context context, Buffer pixels, Buffer slots, Result image,
                                   int64_t num_high, int64_t low_factor) {
    const ImageOperands operands{*image, slots, pixels, num_high, low_factor, LowPixels::kMean};
    return run<CombineCall>(context, "segblocks_split_backward", operands);
  }

  static ffi::Error combine(Context context, Buffer pixels, Buffer slots, Result image,
                            int64_t num_high, int64_t low_factor, bool bilinear) {
    const ImageOperands operands{*image, slots, pixels, num_high, low_factor, upsampling(bilinear)};
    return run<CombineCall>(context, "segblocks_combine", operands);
  }

  static ffi::Error combine_backward(Context context, Buffer image, Buffer slots, Result pixels,
                                     int64_t num_high, int64_t low_factor, bool bilinear) {
    const ImageOperands operands{image, slots, *pixels, num_high, low_factor, upsampling(bilinear)};
    return run<SplitCall>(context, "segblocks_combine_backward", operands);
  }

  static ffi::Error pad(Context context, Buffer pixels, Buffer slots, Result high, Result low,
                        int64_t num_high, int64_t low_factor, int64_t padding_y,
                        int64_t padding_x) {
    const PadOperands operands{pixels,   slots,      *high,     *low,
                               num_high, low_factor, padding_y, padding_x};
    return run<PadCall>(context, "segblocks_pad", operands);
  }

  static ffi::Error pad_backward(Context context, Buffer high, Buffer low, Buffer slots,
                                 Result pixels, int64_t num_high, int64_t low_factor,
                                 int64_t padding_y, int64_t padding_x) {
    const PadOperands operands{*pixels,  slots,      high,      low,
                               num_high, low_factor, padding_y, padding_x};
    return run<PadBackwardCall>(context, "segblocks_pad_backward", operands);
  }

  static ffi::Error index_tables(Context context, Buffer mask, Buffer slots, Buffer high_cells,
                                 Buffer low_cells, Result high, Result low, Result means,
                                 int64_t block_size, int64_t low_factor, int64_t padding,
                                 int64_t border) {
    const IndexTablesOperands operands{mask,   slots,      high_cells, low_cells, *high, *low,
                                       *means, block_size, low_factor, padding,   border};
    return run<LayerTablesCall>(context, "segblocks_index_tables", operands);
  }

  static ffi::Error layer_tables(Context context, Buffer mask, Buffer slots, Buffer high_cells,
                                 Buffer low_cells, ffi::RemainingRets tables, int64_t low_factor,
                                 Numbers block_sizes, Numbers paddings, Numbers borders) {
    const LayerTablesOperands operands{mask,       slots,       high_cells, low_cells, tables,
                                       low_factor, block_sizes, paddings,   borders};
    return run<LayerTablesCall>(context, "segblocks_layer_tables", operands);
  }

  static ffi::Error indexed_conv(Context context, Buffer rows, Buffer means, Buffer high,
                                 Buffer low, Buffer counts, Buffer weights, Buffer scale,
                                 Buffer bias, Buffer residual, Buffer scale2, Buffer bias2,
                                 ffi::RemainingArgs given, Result out, Result out2, Result halos,
                                 ffi::RemainingRets lent, int64_t kh, int64_t kw, int64_t stride,
                                 int64_t dilation, int64_t groups, int64_t activation,
                                 int64_t winograd) {
    const RowOperands input{rows, means, high, low, counts, *halos, &given};
    const IndexedConvOperands operands{input,  weights,  scale,  bias,       residual, scale2,
                                       bias2,  *out,     *out2,  lent,       kh,       kw,
                                       stride, dilation, groups, activation, winograd};
    return run<IndexedConvCall>(context, "segblocks_indexed_conv", operands);
  }

  static ffi::Error quantized_conv(Context context, Buffer rows, Buffer means, Buffer high,
                                   Buffer low, Buffer counts, Buffer zero, Buffer weights,
                                   Buffer scale, Buffer bias, Buffer limits, Buffer residual,
                                   Buffer scale2, Buffer bias2, Result out, Result out2,
                                   Result halos, int64_t kh, int64_t kw, int64_t stride,
                                   int64_t dilation, int64_t groups) {
    const RowOperands input{rows, means, high, low, counts, *halos};
    const QuantizedConvOperands operands{input,    zero,   weights,  scale, bias,  limits,
                                         residual, scale2, bias2,    *out,  *out2, kh,
                                         kw,       stride, dilation, groups};
    return run<QuantizedConvCall>(context, "segblocks_quantized_conv", operands);
  }

  static ffi::Error depthwise_gradient(Context context, Buffer rows, Buffer means, Buffer high,
                                       Buffer low, Buffer counts, Buffer cotangents, Result kernel,
                                       Result halos, int64_t kh, int64_t kw, int64_t stride,
                                       int64_t dilation) {
    const RowOperands input{rows, means, high, low, counts, *halos};
    const DepthwiseGradientOperands operands{input, cotangents, *kernel, kh, kw, stride, dilation};
    return run<DepthwiseGradientCall>(context, "segblocks_depthwise_gradient", operands);
  }

  static ffi::Error max_pool(Context context, Buffer rows, Buffer means, Buffer high, Buffer low,
                             Buffer counts, ffi::RemainingArgs given, Result out, Result halos,
                             int64_t window, int64_t stride) {
    const RowOperands input{rows, means, high, low, counts, *halos, &given};
    return run<MaxPoolCall>(context, "segblocks_indexed_max_pool",
                            MaxPoolOperands{input, *out, window, stride});
  }

  static ffi::Error upsample2(Context context, Buffer rows, Buffer means, Buffer high, Buffer low,
                              Buffer counts, Buffer residual, Buffer scale2, Buffer bias2,
                              ffi::RemainingArgs given, Result out, Result halos,
                              ffi::RemainingRets lent) {
    const RowOperands input{rows, means, high, low, counts, *halos, &given};
    return run<Upsample2Call>(context, "segblocks_indexed_upsample2",
                              Upsample2Operands{input, residual, scale2, bias2, *out, lent});
  }

  static ffi::Error upsample_argmax(Context context, Buffer logits, Result labels, int64_t factor) {
    return run<UpsampleArgmaxCall>(context, "segblocks_upsample_argmax",
                                   UpsampleArgmaxOperands{logits, *labels, factor});
  }

  static ffi::Error mask_tables(Context context, Buffer mask, Result first, Result second,
                                Result sites, Result rows, Result dilated_counts, Result counts,
                                Result parts, int64_t height, int64_t width,
                                int64_t dilation_stride, int64_t first_stride,
                                int64_t first_padding, int64_t second_stride,
                                int64_t second_padding) {
    const MaskTablesOperands operands{mask,          *first,          *second,         *sites,
                                      *rows,         *dilated_counts, *counts,         *parts,
                                      height,        width,           dilation_stride, first_stride,
                                      first_padding, second_stride,   second_padding};
    return run<MaskTablesCall>(context, "segblocks_mask_tables", operands);
  }

  static ffi::Error mask_add(Context context, Buffer image, Buffer rows, Buffer mask, Buffer sites,
                             Buffer counts, Result out, int64_t activation, int64_t rest) {
    const MaskAddOperands operands{image, rows, mask, sites, counts, *out, activation, rest};
    return run<MaskAddCall>(context, "segblocks_mask_add", operands);
  }

  // Binds a handler of so many operands and results. An attribute's name means an int64.
  template <int kOperands, int kResults, typename Handler, typename... Attributes>
  static auto bind(Handler handler, Attributes... attributes) {
    return bind_buffers<kOperands, kResults>(
        ffi::Ffi::Bind().template Ctx<typename Platform::Tag>(), handler, attributes...);
  }

 private:
  template <int kOperands, int kResults, typename Binding, typename... Rest>
  static auto bind_buffers(Binding&& binding, Rest... rest) {
    if constexpr (kOperands % kRemaining > 0) {
      return bind_buffers<kOperands - 1, kResults>(std::move(binding).template Arg<Buffer>(),
                                                   rest...);
    } else if constexpr (kOperands == kRemaining) {
      return bind_buffers<0, kResults>(std::move(binding).RemainingArgs(), rest...);
    } else if constexpr (kResults % kRemaining > 0) {
      return bind_buffers<0, kResults - 1>(std::move(binding).template Ret<Buffer>(), rest...);
    } else if constexpr (kResults == kRemaining) {
      return bind_buffers<0, 0>(std::move(binding).RemainingRets(), rest...);
    } else {
      return bind_attributes(std::move(binding), rest...);
    }
  }

  template <typename Binding, typename Handler, typename... Rest>
  static auto bind_attributes(Binding&& binding, Handler handler, const char* name, Rest... rest) {
    return bind_attributes(std::move(binding).template Attr<int64_t>(name), handler, rest...);
  }
  template <typename Binding, typename Handler, typename... Rest>
  static auto bind_attributes(Binding&& binding, Handler handler, Flag flag, Rest... rest) {
    return bind_attributes(std::move(binding).template Attr<bool>(flag.name), handler, rest...);
  }
  template <typename Binding, typename Handler, typename... Rest>
  static auto bind_attributes(Binding&& binding, Handler handler, List list, Rest... rest) {
    return bind_attributes(std::move(binding).template Attr<Numbers>(list.name), handler, rest...);
  }
  template <typename Binding, typename Handler>
  static auto bind_attributes(Binding&& binding, Handler handler) {
    return std::move(binding).To(handler, Platform::kTraits);
  }

  static LowPixels upsampling(bool bilinear) {
    return bilinear ? LowPixels::kBilinear : LowPixels::kNearest;
  }

  template <typename Call, typename Operands>
  static ffi::Error run(Context& context, const char* operation, const Operands& operands) {
    Call call{};
    if (auto e = check(operation, operands, &call); e.failure()) return e;
    if (call.empty()) return Platform::nothing(context, operation);
    return Platform::run(context, operation, call);
  }
};

}  // namespace segblocks::bindings

#endif  // SEGBLOCKS_BINDINGS_HANDLERS_H_
