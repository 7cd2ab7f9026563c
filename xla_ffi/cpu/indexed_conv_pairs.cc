// The indexed convolution in bfloat16 on products of pairs of inputs.

#include <cstdint>
#include <memory>

#include "cpu/product_conv.h"

namespace segblocks::cpu {
namespace {

static_assert(kStepBytes == PairLayout::kStep * sizeof(uint16_t));
static_assert(kStepWeightBytes == PairLayout::kStep * kPanel * sizeof(uint16_t));

// Weights that are not in pairs yet.
std::unique_ptr<char[]> packed(Workers& workers, const IndexedConvCall& call,
                               const PairLayout& layout, int64_t panel_bytes) {
  auto result = std::make_unique_for_overwrite<char[]>(call.panels() * panel_bytes);
  const int64_t depth = layout.depth;
  const int64_t full_depth = layout.steps() * PairLayout::kStep;
  const auto* weights = static_cast<const uint16_t*>(call.weights);
  auto* pairs = reinterpret_cast<uint16_t*>(result.get());
  const int64_t rows = call.panels() * layout.taps;
  parallel_for(workers, rows, call.panels() * panel_bytes, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t d = 0; d < full_depth; ++d) {
        const uint16_t* from = weights + (row * depth + d) * kPanel;
        uint16_t* to = pairs + (row * full_depth + d / 2 * 2) * kPanel + d % 2;
        for (int k = 0; k < kPanel; ++k) to[2 * k] = d < depth ? from[k] : 0;
      }
    }
  });
  return result;
}

}  // namespace

void pair_conv(Workers& workers, const TileKernels& kernels, const IndexedConvCall& call) {
  if (call.empty()) return;
  const PairLayout pairs = call.pair_layout();
  const ProductLayout layout{pairs.taps, pairs.depth * static_cast<int64_t>(sizeof(uint16_t)),
                             pairs.taps != call.window.area()};
  std::unique_ptr<char[]> weights;
  if (!call.pairs) weights = packed(workers, call, pairs, layout.panel_bytes());
  ProductConvolution<IndexedConvCall, Outputs, Affine>(workers, *kernels.pairs,
                                                       kernels.bfloat16.write, call, layout,
                                                       call.pairs ? call.weights : weights.get())
      .run();
}

}  // namespace segblocks::cpu
