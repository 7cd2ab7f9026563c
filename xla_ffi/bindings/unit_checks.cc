// Checks of the operations on rows found by index: indexed_conv,
// depthwise_gradient, max_pool, upsample2.

#include <string>

#include "bindings/checker.h"
#include "bindings/checks.h"

namespace segblocks::bindings {
namespace {

class UnitChecker : public Checker {
 public:
  using Checker::Checker;

  // Rows are of float32 or bfloat16, or of bytes alone, or of any of them.
  enum class Rows { kFloats, kBytes, kAny };

  bool input(const RowOperands& o, IndexedRows* rows, Units* units, Rows kind = Rows::kFloats) {
    if (!rank("rows", o.rows, 2, "(r, c)") || !rank("means", o.means, 2, "(g, q)") ||
        !dtype("means", o.means, ffi::S32) || !patches("high", o.high, &units->high) ||
        !patches("low", o.low, &units->low) || !shape("counts", o.counts, {2}) ||
        !dtype("counts", o.counts, ffi::S32)) {
      return false;
    }
    const auto r = o.rows.dimensions();
    const auto g = o.means.dimensions();
    if (g[0] > 0 && g[1] < 1) return fail("means", "shape " + shape_text(g), "q >= 1 where g > 0");
    const bool bytes = o.rows.element_type() == ffi::U8;
    if (bytes && kind != Rows::kFloats) {
      rows->element = Element::kUint8;
    } else if (kind == Rows::kBytes ? !dtype("rows", o.rows, ffi::U8)
                                    : !element("rows", o.rows, &rows->element, false)) {
      return false;
    }
    ffi::AnyBuffer halos = o.halos;
    if (o.lent != nullptr && o.lent->size() > 0) {
      if (o.lent->size() > 1) return fail("lent halos", "several", "one operand");
      if (!shape("halos", o.halos, {0, r[1]})) return false;
      halos = o.lent->get<ffi::AnyBuffer>(0).value();
      rows->lent = true;
    }
    if (!shape("halos", halos, {g[0], r[1]}) || !same_element("halos", halos, "rows", o.rows)) {
      return false;
    }
    units->counts = o.counts.typed_data<int32_t>();
    rows->num_rows = r[0];
    rows->channels = r[1];
    rows->num_halos = g[0];
    rows->halo_reads = g[1];
    rows->rows = o.rows.untyped_data();
    rows->means = o.means.typed_data<int32_t>();
    rows->halos = halos.untyped_data();
    return true;
  }

  bool window(const char* height_name, int64_t height, const char* width_name, int64_t width,
              int64_t stride, int64_t dilation, const Units& units, Window* window) {
    *window = {height, width, stride, dilation};
    return range(height_name, height, 1, kMaxSide) && range(width_name, width, 1, kMaxSide) &&
           range("stride", stride, 1, kMaxSide) && range("dilation", dilation, 1, kMaxSide) &&
           at_least("high", units.high, window->extent_y(), window->extent_x()) &&
           at_least("low", units.low, window->extent_y(), window->extent_x());
  }

  // Depthwise, there are as many groups as channels.
  bool depthwise(bool depthwise, int64_t groups, int64_t channels, int64_t features) {
    return !depthwise || (groups == channels && features == channels) ||
           fail("groups",
                std::to_string(groups) + " of " + std::to_string(channels) + " input and " +
                    std::to_string(features) + " output channels",
                "1, or one channel a group, in and out");
  }

  // Whether the weights are transformed, which all but them must allow.
  bool winograd(int64_t attribute, IndexedConvCall* call) {
    if (!range("winograd", attribute, 0, 1)) return false;
    call->winograd = attribute == 1;
    const Window& window = call->window;
    return !call->winograd ||
           (window.height == 3 && window.width == 3 && window.stride <= 2 && window.dilation == 1 &&
            !call->depthwise) ||
           fail("winograd", "1", "0 for all but one group, 3 x 3, stride 1 or 2, dilation 1");
  }

  // Weights in pairs have an axis more.
  bool weights(ffi::AnyBuffer buffer, ffi::AnyBuffer rows, IndexedConvCall* call) {
    constexpr int64_t kPanel = IndexedConvCall::kPanel;
    const int64_t channels = call->input.channels;
    call->weights = buffer.untyped_data();
    if (call->winograd) {
      return dtype("weights", buffer, ffi::F32) &&
             shape("weights", buffer, {call->panels(), call->taps() * channels, kPanel});
    }
    if (!same_element("weights", buffer, "rows", rows)) return false;
    call->pairs = !call->depthwise && call->input.element == Element::kBFloat16 &&
                  buffer.dimensions().size() == 4;
    if (call->depthwise) return shape("weights", buffer, {call->taps(), channels});
    if (call->pairs) {
      return shape("weights", buffer, {call->panels(), call->pair_layout().rows(), kPanel, 2});
    }
    return shape("weights", buffer, {call->panels(), call->taps() * channels, kPanel});
  }

  // Units, if there are any, must have patches of at least this size.
  bool at_least(const char* name, const UnitPatches& patches, int64_t height, int64_t width) {
    return patches.capacity == 0 || (patches.height >= height && patches.width >= width) ||
           fail(name,
                "patches of " + std::to_string(patches.height) + " x " +
                    std::to_string(patches.width),
                "at least " + std::to_string(height) + " x " + std::to_string(width));
  }

  // A buffer of the rows' dtype with a row for every output row, or with none: then null.
  template <typename Data>
  bool optional_rows(const char* name, ffi::AnyBuffer buffer, ffi::AnyBuffer like, int64_t rows,
                     int64_t features, Data** data) {
    *data = nullptr;
    if (!same_element(name, buffer, "rows", like)) return false;
    const auto d = buffer.dimensions();
    const bool absent = d.size() == 2 && d[0] == 0 && d[1] == features;
    if (absent && rows > 0) return true;
    *data = buffer.untyped_data();
    return shape(name, buffer, {rows, features});
  }

  // The same of bytes or float32, each buffer as it likes.
  template <typename Data>
  bool optional_bytes(const char* name, ffi::AnyBuffer buffer, int64_t rows, int64_t features,
                      Data** data, bool* bytes) {
    *bytes = buffer.element_type() == ffi::U8;
    return (*bytes || buffer.element_type() == ffi::F32 ||
            fail(name, "dtype " + text(buffer.element_type()), "dtype U8 or F32")) &&
           optional_rows(name, buffer, buffer, rows, features, data);
  }

  // Which outputs there are: one at least, and the second one where there is a scale of it.
  bool outputs(ffi::AnyBuffer out, ffi::AnyBuffer out2, const void* out_data, const void* out2_data,
               const float* scale2) {
    if ((out2_data == nullptr) != (scale2 == nullptr)) {
      return fail("out2", "shape " + shape_text(out2.dimensions()),
                  "rows where scale2 and bias2 are given, and none where they are not");
    }
    return out_data != nullptr || out2_data != nullptr ||
           fail("out", "shape " + shape_text(out.dimensions()),
                "rows in at least one of the results out and out2");
  }

  // Halos of `features` channels that the outputs of high units lend, as many as a ring of some
  // width has; or nothing. They are the last result, whose number is that of the output.
  bool lent(ffi::RemainingRets results, ffi::AnyBuffer like, const UnitPatches& patches,
            const UnitOutputs& map, int64_t features, LentHalos* lent) {
    *lent = {};
    if (results.size() == 0) return true;
    const size_t last = results.size() - 1;
    const ffi::AnyBuffer halos = *results.get<ffi::AnyBuffer>(last).value();
    if (!rank("lent halos", halos, 2, "(g, k)") ||
        !same_element("lent halos", halos, "rows", like)) {
      return false;
    }
    const int64_t count = halos.dimensions()[0];
    if (!shape("lent halos", halos, {count, features})) return false;
    if (count == 0) return true;
    const int64_t side = map.height / 2;
    int64_t edge = 1;
    while (edge < side && patches.capacity * ring_size(side, edge) < count) ++edge;
    if (last > 1 || map.height != map.width || map.height % 2 != 0 ||
        patches.capacity * ring_size(side, edge) != count) {
      return fail(
          "lent halos", shape_text(halos.dimensions()),
          "one result of as many rows as means of 2 x 2 outputs in a ring of each high unit");
    }
    *lent = {side, edge, last == 1, halos.untyped_data()};
    return true;
  }

  // A float32 for every feature, or none at all: then null.
  bool optional_vector(const char* name, ffi::AnyBuffer buffer, int64_t features,
                       const float** data) {
    *data = nullptr;
    if (!dtype(name, buffer, ffi::F32)) return false;
    if (buffer.dimensions().size() == 1 && buffer.dimensions()[0] == 0) return true;
    *data = buffer.typed_data<float>();
    return shape(name, buffer, {features});
  }

  // scale2 and bias2: both or none.
  bool second_affine(ffi::AnyBuffer scale2, ffi::AnyBuffer bias2, int64_t features,
                     const float** scale_data, const float** bias_data) {
    return optional_vector("scale2", scale2, features, scale_data) &&
           optional_vector("bias2", bias2, features, bias_data) &&
           ((*scale_data == nullptr) == (*bias_data == nullptr) ||
            fail("bias2", "shape " + shape_text(bias2.dimensions()),
                 "shape " + shape_text(scale2.dimensions()) + " like argument 'scale2'"));
  }

 private:
  bool patches(const char* name, ffi::AnyBuffer buffer, UnitPatches* patches) {
    if (!rank(name, buffer, 3, "(m, h, w)") || !dtype(name, buffer, ffi::S32)) return false;
    const auto d = buffer.dimensions();
    *patches = {d[0], d[1], d[2], buffer.typed_data<int32_t>()};
    return true;
  }
};

}  // namespace

ffi::Error check(const char* operation, const IndexedConvOperands& o, IndexedConvCall* call) {
  UnitChecker check(operation);
  if (!check.input(o.input, &call->input, &call->units) ||
      !check.window("kh", o.kh, "kw", o.kw, o.stride, o.dilation, call->units, &call->window) ||
      !check.range("activation", o.activation, 0, 2) || !check.rank("out", o.out, 2, "(p, k)")) {
    return check.error();
  }
  const int64_t channels = call->input.channels;
  const int64_t features = o.out.dimensions()[1];
  call->activation = static_cast<Activation>(o.activation);
  call->features = features;
  call->depthwise = o.groups != 1;
  if (!check.depthwise(call->depthwise, o.groups, channels, features)) return check.error();
  const ffi::AnyBuffer rows = o.input.rows;
  const int64_t outputs = max_output_rows(*call);
  if (!check.winograd(o.winograd, call) || !check.weights(o.weights, rows, call) ||
      !check.optional_vector("scale", o.scale, features, &call->scale) ||
      !check.optional_vector("bias", o.bias, features, &call->bias) ||
      !check.second_affine(o.scale2, o.bias2, features, &call->scale2, &call->bias2) ||
      !check.optional_rows("residual", o.residual, rows, outputs, features, &call->residual) ||
      !check.optional_rows("out", o.out, rows, outputs, features, &call->out) ||
      !check.optional_rows("out2", o.out2, rows, outputs, features, &call->out2) ||
      !check.lent(o.lent, rows, call->units.high, call->outputs(call->units.high), features,
                  &call->lent)) {
    return check.error();
  }
  if (call->empty()) return ffi::Error::Success();
  if (check.outputs(o.out, o.out2, call->out, call->out2, call->scale2) && call->lent.any() &&
      (call->lent.second ? call->out2 : call->out) == nullptr) {
    check.fail("lent halos", "those of a result without rows", "none");
  }
  return check.error();
}

ffi::Error check(const char* operation, const QuantizedConvOperands& o, QuantizedConvCall* call) {
  UnitChecker check(operation);
  if (!check.input(o.input, &call->input, &call->units, UnitChecker::Rows::kBytes) ||
      !check.window("kh", o.kh, "kw", o.kw, o.stride, o.dilation, call->units, &call->window) ||
      !check.rank("out", o.out, 2, "(p, k)")) {
    return check.error();
  }
  const int64_t channels = call->input.channels;
  const int64_t features = call->features = o.out.dimensions()[1];
  call->depthwise = o.groups != 1;
  if (!check.depthwise(call->depthwise, o.groups, channels, features)) return check.error();
  const int64_t taps = call->window.area();
  const int64_t outputs = max_output_rows(*call);
  if ((call->depthwise && !check.range("kh", taps, 1, QuantizedConvCall::kMaxDepthwiseTaps)) ||
      !check.dtype("zero", o.zero, ffi::U8) || !check.shape("zero", o.zero, {1}) ||
      !check.dtype("weights", o.weights, ffi::S8) ||
      !(call->depthwise ? check.shape("weights", o.weights, {taps, channels})
                        : check.shape("weights", o.weights,
                                      {call->panels(), taps * call->groups(),
                                       QuantizedConvCall::kPanel * QuantizedConvCall::kGroup})) ||
      !check.dtype("scale", o.scale, ffi::F32) || !check.shape("scale", o.scale, {features}) ||
      !check.dtype("bias", o.bias, ffi::F32) || !check.shape("bias", o.bias, {features}) ||
      !check.dtype("limits", o.limits, ffi::F32) || !check.shape("limits", o.limits, {3}) ||
      !check.second_affine(o.scale2, o.bias2, features, &call->scale2, &call->bias2) ||
      !check.optional_bytes("residual", o.residual, outputs, features, &call->residual,
                            &call->residual_bytes) ||
      !check.optional_bytes("out", o.out, outputs, features, &call->out, &call->out_bytes) ||
      !check.optional_bytes("out2", o.out2, outputs, features, &call->out2, &call->out2_bytes)) {
    return check.error();
  }
  if (call->empty() || !check.outputs(o.out, o.out2, call->out, call->out2, call->scale2)) {
    return check.error();
  }
  call->input.zero = o.zero.typed_data<uint8_t>()[0];
  call->weights = o.weights.typed_data<int8_t>();
  call->scale = o.scale.typed_data<float>();
  call->bias = o.bias.typed_data<float>();
  call->residual_scale = o.limits.typed_data<float>()[0];
  call->low = o.limits.typed_data<float>()[1];
  call->high = o.limits.typed_data<float>()[2];
  return check.error();
}

ffi::Error check(const char* operation, const DepthwiseGradientOperands& o,
                 DepthwiseGradientCall* call) {
  UnitChecker check(operation);
  if (check.input(o.input, &call->input, &call->units) &&
      check.dtype("rows", o.input.rows, ffi::F32) &&
      check.window("kh", o.kh, "kw", o.kw, o.stride, o.dilation, call->units, &call->window) &&
      check.dtype("cotangents", o.cotangents, ffi::F32) &&
      check.shape("cotangents", o.cotangents, {max_output_rows(*call), call->input.channels}) &&
      check.dtype("kernel", o.kernel, ffi::F32) &&
      check.shape("kernel", o.kernel, {call->window.area(), call->input.channels})) {
    call->cotangents = o.cotangents.typed_data<float>();
    call->kernel = o.kernel.typed_data<float>();
  }
  return check.error();
}

ffi::Error check(const char* operation, const MaxPoolOperands& o, MaxPoolCall* call) {
  UnitChecker check(operation);
  if (check.input(o.input, &call->input, &call->units, UnitChecker::Rows::kAny) &&
      check.window("window", o.window, "window", o.window, o.stride, 1, call->units,
                   &call->window) &&
      check.same_element("out", o.out, "rows", o.input.rows) &&
      check.shape("out", o.out, {max_output_rows(*call), call->input.channels})) {
    call->out = o.out.untyped_data();
  }
  return check.error();
}

ffi::Error check(const char* operation, const Upsample2Operands& o, Upsample2Call* call) {
  UnitChecker check(operation);
  if (!check.input(o.input, &call->input, &call->units, UnitChecker::Rows::kAny) ||
      !check.at_least("high", call->units.high, 2, 2) ||
      !check.at_least("low", call->units.low, 2, 2)) {
    return check.error();
  }
  const int64_t channels = call->input.channels;
  const int64_t outputs = max_output_rows(*call);
  if (check.optional_rows("residual", o.residual, o.input.rows, outputs, channels,
                          &call->residual) &&
      check.second_affine(o.scale2, o.bias2, channels, &call->scale2, &call->bias2) &&
      check.same_element("out", o.out, "rows", o.input.rows) &&
      check.shape("out", o.out, {outputs, channels}) &&
      check.lent(o.lent, o.input.rows, call->units.high, call->outputs(call->units.high), channels,
                 &call->lent)) {
    call->out = o.out.untyped_data();
    if (call->input.element == Element::kUint8 &&
        (call->residual != nullptr || call->scale2 != nullptr)) {
      check.fail("rows", "dtype U8", "dtype F32 or BF16 beside a residual, or scale2 and bias2");
    }
  }
  return check.error();
}

}  // namespace segblocks::bindings
