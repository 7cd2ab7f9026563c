// Bilinear upsampling by 2 of units that see one row around them, with residual and activation.

#include <cstddef>

#include "cpu/kernels.h"
#include "cpu/units.h"

namespace segblocks::cpu {
namespace {

// Rows of source pixels, of units of one size, are the items of work.
struct SourceRows {
  const UnitPatches* patches;
  int64_t count;
  int64_t first_output;

  int64_t height() const { return patches->height - 2; }
  int64_t width() const { return patches->width - 2; }
};

class Upsample2 {
 public:
  Upsample2(const TileKernels& kernels, const Upsample2Call& call)
      : call_(call),
        loops_(row_loops(kernels, call.input.element)),
        addresses_(call.input),
        row_bytes_(call.input.channels * element_bytes(call.input.element)) {}

  void row(const SourceRows& rows, int64_t index) const {
    const int64_t unit = index / rows.height();
    const int64_t y = index % rows.height();
    const int64_t wide = 2 * rows.width();
    const int64_t first = rows.first_output + unit * rows.height() * 2 * wide + 2 * y * wide;
    const int32_t* indices =
        rows.patches->indices + (unit * rows.patches->height + y) * rows.patches->width;
    for (int64_t x = 0; x < rows.width(); ++x) {
      UpsampledSquare square{};
      for (int64_t k = 0; k < 9; ++k) {
        square.sources[k] = addresses_(indices[k / 3 * rows.patches->width + x + k % 3]);
      }
      square.channels = call_.input.channels;
      square.scale2 = call_.scale2;
      square.bias2 = call_.bias2;
      for (int64_t k = 0; k < 4; ++k) {
        const int64_t offset = (first + k / 2 * wide + 2 * x + k % 2) * row_bytes_;
        square.outs[k] = static_cast<std::byte*>(call_.out) + offset;
        if (call_.residual == nullptr) continue;
        square.residuals[k] = static_cast<const std::byte*>(call_.residual) + offset;
      }
      loops_.upsample(square);
    }
  }

 private:
  const Upsample2Call& call_;
  const RowLoops& loops_;
  const RowAddresses addresses_;
  const int64_t row_bytes_;
};

}  // namespace

Problem run(Workers& workers, const TileKernels& kernels, const Upsample2Call& call) {
  if (Problem p = check_indices(workers, call.input, call.units); p.found()) return p;
  fill_halos(workers, kernels, call.input);
  const Upsample2 upsample(kernels, call);
  const SourceRows high{&call.units.high, call.units.counts[0], 0};
  const SourceRows low{&call.units.low, call.units.counts[1],
                       high.count * call.outputs(call.units.high).area()};
  // Units without pixels have no rows, whatever the height of their patches.
  const auto num_rows = [](const SourceRows& rows) {
    return rows.count == 0 || rows.width() == 0 ? 0 : rows.count * rows.height();
  };
  const int64_t high_rows = num_rows(high);
  const int64_t bytes = (high_rows * high.width() + num_rows(low) * low.width()) * 9 *
                        call.input.channels * element_bytes(call.input.element);
  parallel_for(workers, high_rows + num_rows(low), bytes, [&](int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end; ++index) {
      if (index < high_rows) {
        upsample.row(high, index);
      } else {
        upsample.row(low, index - high_rows);
      }
    }
  });
  return {};
}

}  // namespace segblocks::cpu
