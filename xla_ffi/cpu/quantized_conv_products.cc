// The convolution of bytes on products of groups of inputs.

#include <cstdint>
#include <cstring>
#include <memory>

#include "cpu/product_conv.h"
#include "cpu/quantized_conv.h"

namespace segblocks::cpu {
namespace {

constexpr int64_t kGroupWeights = kPanel * kByteGroup;  // Of a panel, for a group of channels.

ProductLayout layout_of(const QuantizedConvCall& call) {
  const ProductLayout apart{call.window.area(), call.input.channels, false};
  const ProductLayout merged{call.window.height, call.window.width * call.input.channels, true};
  return merged.panel_bytes() < apart.panel_bytes() ? merged : apart;
}

// The weights as products read them: in whole steps, and without the zeros between merged taps.
std::unique_ptr<int8_t[]> packed(const QuantizedConvCall& call, const ProductLayout& layout) {
  const int64_t channels = call.input.channels;
  const int64_t groups = call.groups();
  const int64_t merged = layout.merged ? call.window.width : 1;
  const int64_t tap_bytes = layout.steps() * kStepWeightBytes;
  const int64_t rows = call.panels() * layout.taps;
  auto result = std::make_unique<int8_t[]>(rows * tap_bytes);
  for (int64_t row = 0; row < rows; ++row) {
    const int8_t* from = call.weights + row * merged * groups * kGroupWeights;
    int8_t* to = result.get() + row * tap_bytes;
    if (channels % kByteGroup == 0 || merged == 1) {
      std::memcpy(to, from, merged * groups * kGroupWeights);
      continue;
    }
    for (int64_t d = 0; d < layout.depth; ++d) {
      const int64_t group = d / channels * groups + d % channels / kByteGroup;
      const int8_t* weights = from + group * kGroupWeights + d % channels % kByteGroup;
      int8_t* place = to + d / kByteGroup * kGroupWeights + d % kByteGroup;
      for (int k = 0; k < kPanel; ++k) place[k * kByteGroup] = weights[k * kByteGroup];
    }
  }
  return result;
}

}  // namespace

void byte_conv(Workers& workers, const TileKernels& kernels, const QuantizedConvCall& call) {
  const ProductLayout layout = layout_of(call);
  const bool ready = layout.depth % kStepBytes == 0 && !layout.merged;
  std::unique_ptr<int8_t[]> weights;
  if (!ready) weights = packed(call, layout);
  ProductConvolution<QuantizedConvCall, ByteOutputs, ByteAffine>(
      workers, *kernels.bytes->products, kernels.bytes->write, call, layout,
      ready ? call.weights : weights.get())
      .run();
}

}  // namespace segblocks::cpu
