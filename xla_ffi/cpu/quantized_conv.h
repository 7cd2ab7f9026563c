// What the executions of the convolution of bytes share.

#ifndef SEGBLOCKS_CPU_QUANTIZED_CONV_H_
#define SEGBLOCKS_CPU_QUANTIZED_CONV_H_

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "cpu/indexed_conv.h"
#include "cpu/tiles_bytes.h"

namespace segblocks::cpu {

// Scale and bias of whole panels.
class ByteAffine {
 public:
  explicit ByteAffine(const QuantizedConvCall& call)
      : scale_(padded(call.scale, call.features, call.panels() * kPanel)),
        bias_(padded(call.bias, call.features, call.panels() * kPanel)) {}

  // Where a group's channels of an output row go, and how.
  ByteOutputs outputs(const QuantizedConvCall& call, int64_t row, const Group& group,
                      const void* sums) const {
    const int64_t channel = group.first * kPanel;
    const int64_t offset = row * call.features + channel;
    const auto at = [offset](auto* rows, bool bytes) {
      using Byte = std::conditional_t<std::is_const_v<std::remove_pointer_t<decltype(rows)>>,
                                      const uint8_t, uint8_t>;
      return rows == nullptr ? nullptr : static_cast<Byte*>(rows) + offset * (bytes ? 1 : 4);
    };
    ByteOutputs outputs{};
    outputs.channels = std::min(group.count * kPanel, call.features - channel);
    outputs.sums = sums;
    outputs.sums_pitch = group.count * kPanel;
    outputs.scale = scale_.data() + channel;
    outputs.bias = bias_.data() + channel;
    outputs.scale2 = call.scale2 == nullptr ? nullptr : call.scale2 + channel;
    outputs.bias2 = call.bias2 == nullptr ? nullptr : call.bias2 + channel;
    outputs.residual_scale = call.residual_scale;
    outputs.low = call.low;
    outputs.high = call.high;
    outputs.residual = at(call.residual, call.residual_bytes);
    outputs.residual_bytes = call.residual_bytes;
    outputs.out = at(call.out, call.out_bytes);
    outputs.out_bytes = call.out_bytes;
    outputs.out2 = at(call.out2, call.out2_bytes);
    outputs.out2_bytes = call.out2_bytes;
    outputs.pitch = call.features;
    return outputs;
  }

 private:
  static std::vector<float> padded(const float* values, int64_t count, int64_t size) {
    std::vector<float> result(size);
    std::copy(values, values + count, result.begin());
    return result;
  }

  std::vector<float> scale_;
  std::vector<float> bias_;
};

// The convolution of one group on products, which the kernels must have. Indices must have been
// checked, halos filled.
void byte_conv(Workers& workers, const TileKernels& kernels, const QuantizedConvCall& call);

}  // namespace segblocks::cpu

#endif  // SEGBLOCKS_CPU_QUANTIZED_CONV_H_
