#include "bindings/indexed_checks.h"

#include <limits>

#include "bindings/checker.h"
#include "bindings/checks.h"

namespace segblocks::bindings {
namespace {

// Sides, strides and paddings up to here keep every product of sizes inside int64.
constexpr int64_t kMostSide = 1 << 14;

// Checks that come back in every operation.
class IndexedChecker : public Checker {
 public:
  using Checker::Checker;

  ffi::Error input(const IndexedOperands& operands, IndexedRows* rows, Units* units) const {
    if (auto e = rank("rows", operands.rows, 2, "(r, c)"); e.failure()) return e;
    if (auto e = rank("means", operands.means, 2, "(g, q)"); e.failure()) return e;
    if (auto e = dtype("means", operands.means, ffi::S32); e.failure()) return e;
    if (auto e = patches("high", operands.high, &units->high); e.failure()) return e;
    if (auto e = patches("low", operands.low, &units->low); e.failure()) return e;
    if (auto e = shape("counts", operands.counts, {2}); e.failure()) return e;
    if (auto e = dtype("counts", operands.counts, ffi::S32); e.failure()) return e;
    units->counts = operands.counts.typed_data<int32_t>();

    const auto r = operands.rows.dimensions();
    const auto g = operands.means.dimensions();
    if (g[0] > 0 && g[1] < 1) {
      return invalid(operation_, "means", "shape " + shape_text(g), "q >= 1 where g > 0");
    }
    if (auto e = shape("ghosts", operands.ghosts, {g[0], r[1]}); e.failure()) return e;
    if (auto e = two_elements("rows", operands.rows, &rows->element); e.failure()) return e;
    if (auto e = same_element("ghosts", operands.ghosts, operands.rows); e.failure()) return e;
    rows->num_rows = r[0];
    rows->channels = r[1];
    rows->num_ghosts = g[0];
    rows->ghost_reads = g[1];
    rows->rows = operands.rows.untyped_data();
    rows->means = operands.means.typed_data<int32_t>();
    rows->ghosts = operands.ghosts.untyped_data();
    return ffi::Error::Success();
  }

  ffi::Error window(const char* height_name, int64_t height, const char* width_name, int64_t width,
                    int64_t stride, const Units& units, Window* window) const {
    if (auto e = range(height_name, height, 1, kMostSide); e.failure()) return e;
    if (auto e = range(width_name, width, 1, kMostSide); e.failure()) return e;
    if (auto e = range("stride", stride, 1, kMostSide); e.failure()) return e;
    *window = {height, width, stride};
    if (auto e = at_least("high", units.high, height, width); e.failure()) return e;
    return at_least("low", units.low, height, width);
  }

  // Whether the weights are transformed, which all but them must allow.
  ffi::Error winograd(int64_t attribute, IndexedConvCall* call) const {
    if (auto e = range("winograd", attribute, 0, 1); e.failure()) return e;
    call->winograd = attribute == 1;
    const Window& window = call->window;
    if (!call->winograd || (window.height == 3 && window.width == 3 && window.stride <= 2 &&
                            !call->depthwise && call->input.element == Element::kFloat32)) {
      return ffi::Error::Success();
    }
    return invalid(operation_, "winograd", "1",
                   "0 for all but float32, one group, 3 x 3, stride 1 or 2");
  }

  // Units, if there are any, must have patches of at least this size.
  ffi::Error at_least(const char* name, const UnitPatches& patches, int64_t height,
                      int64_t width) const {
    if (patches.capacity == 0 || (patches.height >= height && patches.width >= width)) {
      return ffi::Error::Success();
    }
    return invalid(
        operation_, name,
        "patches of " + std::to_string(patches.height) + " x " + std::to_string(patches.width),
        "at least " + std::to_string(height) + " x " + std::to_string(width));
  }

  // A buffer of the rows' dtype with a row for every output row, or with none: then null.
  ffi::Error optional_rows(const char* name, ffi::AnyBuffer buffer, ffi::AnyBuffer like,
                           int64_t rows, int64_t features, void** data) const {
    *data = nullptr;
    if (auto e = same_element(name, buffer, like); e.failure()) return e;
    const auto d = buffer.dimensions();
    const bool absent = d.size() == 2 && d[0] == 0 && d[1] == features;
    if (absent && rows > 0) return ffi::Error::Success();
    if (auto e = shape(name, buffer, {rows, features}); e.failure()) return e;
    *data = buffer.untyped_data();
    return ffi::Error::Success();
  }

  // A float32 for every feature, or none at all: then null.
  ffi::Error optional_vector(const char* name, ffi::AnyBuffer buffer, int64_t features,
                             const float** data) const {
    *data = nullptr;
    if (auto e = dtype(name, buffer, ffi::F32); e.failure()) return e;
    if (buffer.dimensions().size() == 1 && buffer.dimensions()[0] == 0) {
      return ffi::Error::Success();
    }
    if (auto e = shape(name, buffer, {features}); e.failure()) return e;
    *data = buffer.typed_data<float>();
    return ffi::Error::Success();
  }

  // scale2 and bias2.
  ffi::Error second_affine(ffi::AnyBuffer scale2, ffi::AnyBuffer bias2, int64_t features,
                           const float** scale_data, const float** bias_data) const {
    if (auto e = optional_vector("scale2", scale2, features, scale_data); e.failure()) return e;
    if (auto e = optional_vector("bias2", bias2, features, bias_data); e.failure()) return e;
    if ((*scale_data == nullptr) == (*bias_data == nullptr)) return ffi::Error::Success();
    return invalid(operation_, "bias2", "shape " + shape_text(bias2.dimensions()),
                   "shape " + shape_text(scale2.dimensions()) + " like argument 'scale2'");
  }

  ffi::Error same_element(const char* name, ffi::AnyBuffer buffer, ffi::AnyBuffer rows) const {
    if (buffer.element_type() == rows.element_type()) return ffi::Error::Success();
    return invalid(operation_, name, "dtype " + text(buffer.element_type()),
                   "dtype " + text(rows.element_type()) + " like argument 'rows'");
  }

  ffi::Error table(const char* name, ffi::AnyBuffer buffer, int64_t units, int64_t height,
                   int64_t width) const {
    if (auto e = dtype(name, buffer, ffi::S32); e.failure()) return e;
    return shape(name, buffer, {units, height, width});
  }

 private:
  ffi::Error patches(const char* name, ffi::AnyBuffer buffer, UnitPatches* patches) const {
    if (auto e = rank(name, buffer, 3, "(m, h, w)"); e.failure()) return e;
    if (auto e = dtype(name, buffer, ffi::S32); e.failure()) return e;
    const auto d = buffer.dimensions();
    *patches = {d[0], d[1], d[2], buffer.typed_data<int32_t>()};
    return ffi::Error::Success();
  }

  ffi::Error two_elements(const char* name, ffi::AnyBuffer buffer, Element* result) const {
    if (buffer.element_type() == ffi::F32) {
      *result = Element::kFloat32;
    } else if (buffer.element_type() == ffi::BF16) {
      *result = Element::kBFloat16;
    } else {
      return invalid(operation_, name, "dtype " + text(buffer.element_type()), "dtype F32 or BF16");
    }
    return ffi::Error::Success();
  }
};

}  // namespace

ffi::Error check_indexed_conv(const std::string& operation, const IndexedConvOperands& operands,
                              const IndexedConvAttributes& attributes, IndexedConvCall* call) {
  const IndexedChecker check(operation);
  if (auto e = check.input(operands.input, &call->input, &call->units); e.failure()) return e;
  if (auto e = check.window("kh", attributes.kh, "kw", attributes.kw, attributes.stride,
                            call->units, &call->window);
      e.failure()) {
    return e;
  }
  if (auto e = check.range("activation", attributes.activation, 0, 2); e.failure()) return e;
  call->activation = static_cast<Activation>(attributes.activation);

  if (auto e = check.rank("out", operands.out, 2, "(p, k)"); e.failure()) return e;
  call->features = operands.out.dimensions()[1];
  const int64_t channels = call->input.channels;
  const ffi::AnyBuffer rows = operands.input.rows;
  call->depthwise = attributes.groups != 1;
  if (call->depthwise && (attributes.groups != channels || call->features != channels)) {
    return invalid(operation, "groups",
                   std::to_string(attributes.groups) + " of " + std::to_string(channels) +
                       " input and " + std::to_string(call->features) + " output channels",
                   "1, or one channel a group, in and out");
  }
  if (auto e = check.winograd(attributes.winograd, call); e.failure()) return e;
  if (auto e = check.same_element("weights", operands.weights, rows); e.failure()) return e;
  const int64_t taps = call->taps();
  if (auto e = call->depthwise
                   ? check.shape("weights", operands.weights, {taps, channels})
                   : check.shape("weights", operands.weights,
                                 {call->panels(), taps * channels, IndexedConvCall::kPanel});
      e.failure()) {
    return e;
  }
  call->weights = operands.weights.untyped_data();
  const int64_t features = call->features;
  if (auto e = check.optional_vector("scale", operands.scale, features, &call->scale);
      e.failure()) {
    return e;
  }
  if (auto e = check.optional_vector("bias", operands.bias, features, &call->bias); e.failure()) {
    return e;
  }
  if (auto e = check.second_affine(operands.scale2, operands.bias2, features, &call->scale2,
                                   &call->bias2);
      e.failure()) {
    return e;
  }
  const int64_t outputs = max_output_rows(*call);
  void* residual = nullptr;
  if (auto e =
          check.optional_rows("residual", operands.residual, rows, outputs, features, &residual);
      e.failure()) {
    return e;
  }
  call->residual = residual;
  if (auto e = check.optional_rows("out", operands.out, rows, outputs, features, &call->out);
      e.failure()) {
    return e;
  }
  if (auto e = check.optional_rows("out2", operands.out2, rows, outputs, features, &call->out2);
      e.failure()) {
    return e;
  }
  if (outputs == 0 || features == 0) return ffi::Error::Success();
  if ((call->out2 == nullptr) != (call->scale2 == nullptr)) {
    return invalid(operation, "out2", "shape " + shape_text(operands.out2.dimensions()),
                   "rows where scale2 and bias2 are given, and none where they are not");
  }
  if (call->out != nullptr || call->out2 != nullptr) return ffi::Error::Success();
  return invalid(operation, "out", "shape " + shape_text(operands.out.dimensions()),
                 "rows in at least one of the results out and out2");
}

ffi::Error check_indexed_max_pool(const std::string& operation, const IndexedOperands& input,
                                  ffi::AnyBuffer out, int64_t window, int64_t stride,
                                  IndexedMaxPoolCall* call) {
  const IndexedChecker check(operation);
  if (auto e = check.input(input, &call->input, &call->units); e.failure()) return e;
  if (auto e = check.window("window", window, "window", window, stride, call->units, &call->window);
      e.failure()) {
    return e;
  }
  if (auto e = check.same_element("out", out, input.rows); e.failure()) return e;
  call->out = out.untyped_data();
  return check.shape("out", out, {max_output_rows(*call), call->input.channels});
}

ffi::Error check_indexed_upsample2(const std::string& operation,
                                   const IndexedUpsample2Operands& operands,
                                   IndexedUpsample2Call* call) {
  const IndexedChecker check(operation);
  if (auto e = check.input(operands.input, &call->input, &call->units); e.failure()) return e;
  if (auto e = check.at_least("high", call->units.high, 2, 2); e.failure()) return e;
  if (auto e = check.at_least("low", call->units.low, 2, 2); e.failure()) return e;
  const int64_t channels = call->input.channels;
  const int64_t outputs = max_output_rows(*call);
  const ffi::AnyBuffer rows = operands.input.rows;
  void* residual = nullptr;
  if (auto e =
          check.optional_rows("residual", operands.residual, rows, outputs, channels, &residual);
      e.failure()) {
    return e;
  }
  call->residual = residual;
  if (auto e = check.second_affine(operands.scale2, operands.bias2, channels, &call->scale2,
                                   &call->bias2);
      e.failure()) {
    return e;
  }
  if (auto e = check.same_element("out", operands.out, rows); e.failure()) return e;
  call->out = operands.out.untyped_data();
  return check.shape("out", operands.out, {outputs, channels});
}

ffi::Error check_index_tables(const std::string& operation, const IndexTablesOperands& operands,
                              const IndexTablesAttributes& attributes, IndexTablesCall* call) {
  const IndexedChecker check(operation);
  if (auto e = check.rank("high_cells", operands.high_cells, 1, "(n_high,)"); e.failure()) return e;
  if (auto e = check.dtype("high_cells", operands.high_cells, ffi::S32); e.failure()) return e;
  BlockLayout& blocks = call->layout.blocks;
  const int64_t num_high = operands.high_cells.dimensions()[0];
  if (auto e = check.grid(operands.slots, {num_high, attributes.low_factor}, &blocks);
      e.failure()) {
    return e;
  }
  if (auto e = check.dtype("mask", operands.mask, ffi::PRED); e.failure()) return e;
  if (auto e = check.shape("mask", operands.mask,
                           {blocks.images, blocks.grid_height, blocks.grid_width});
      e.failure()) {
    return e;
  }
  if (auto e = check.dtype("low_cells", operands.low_cells, ffi::S32); e.failure()) return e;
  if (auto e = check.shape("low_cells", operands.low_cells, {blocks.num_low()}); e.failure()) {
    return e;
  }
  if (auto e = check.range("block_size", attributes.block_size, 1, kMostSide); e.failure()) {
    return e;
  }
  if (attributes.block_size % attributes.low_factor != 0) {
    return invalid(operation, "block_size", std::to_string(attributes.block_size),
                   "a multiple of low_factor " + std::to_string(attributes.low_factor));
  }
  if (auto e = check.range("padding", attributes.padding, 0, kMostSide); e.failure()) return e;
  if (auto e = check.range("border", attributes.border, 0, 2); e.failure()) return e;
  blocks.block = attributes.block_size;
  blocks.channels = 1;
  call->layout.padding = attributes.padding;
  call->layout.border = static_cast<Border>(attributes.border);

  const int64_t high_side = call->layout.patch_side(true);
  const int64_t low_side = call->layout.patch_side(false);
  if (auto e = check.table("high", operands.high, num_high, high_side, high_side); e.failure()) {
    return e;
  }
  if (auto e = check.table("low", operands.low, blocks.num_low(), low_side, low_side);
      e.failure()) {
    return e;
  }
  const int64_t indices = blocks.num_pixels() + call->layout.num_ghosts();
  if (indices > std::numeric_limits<int32_t>::max()) {
    return invalid(
        operation, "block_size",
        std::to_string(attributes.block_size) + ", so " + std::to_string(indices) + " rows",
        "at most " + std::to_string(std::numeric_limits<int32_t>::max()));
  }
  if (auto e = check.dtype("means", operands.means, ffi::S32); e.failure()) return e;
  if (auto e = check.shape("means", operands.means,
                           {call->layout.num_ghosts(), blocks.factor * blocks.factor});
      e.failure()) {
    return e;
  }
  call->mask = operands.mask.typed_data<bool>();
  call->slots = operands.slots.typed_data<int32_t>();
  call->high_cells = operands.high_cells.typed_data<int32_t>();
  call->low_cells = operands.low_cells.typed_data<int32_t>();
  call->high = operands.high.typed_data<int32_t>();
  call->low = operands.low.typed_data<int32_t>();
  call->means = operands.means.typed_data<int32_t>();
  return ffi::Error::Success();
}

}  // namespace segblocks::bindings
