// What the executions of the indexed convolution share.

#ifndef SEGBLOCKS_CPU_INDEXED_CONV_H_
#define SEGBLOCKS_CPU_INDEXED_CONV_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <vector>

#include "cpu/tiles.h"
#include "cpu/units.h"
#include "cpu/workers.h"
#include "segblocks/calls.h"

namespace segblocks::cpu {

// From so many groups of panels on, threads share the weights, not the pixels.
constexpr int64_t kGroupsApart = 3;
constexpr int64_t kItemsPerThread = 6;

// Along one axis of a chunk: the positions of a unit's patch that its windows read, in a table's
// order. Taps that lie apart have a run of positions each, whatever lies between.
struct Axis {
  int64_t pixels;
  int64_t taps;
  int64_t stride;
  int64_t dilation;

  int64_t size() const { return dilation == 1 ? (pixels - 1) * stride + taps : pixels * taps; }
  // The patch's position at `i` of the table.
  int64_t source(int64_t i) const {
    return dilation == 1 ? i : i % pixels * stride + i / pixels * dilation;
  }
  // Where a pixel's window begins in the table, and how far on its tap `t` is.
  int64_t pixel(int64_t p) const { return dilation == 1 ? p * stride : p; }
  int64_t tap(int64_t t) const { return dilation == 1 ? t : t * pixels; }
};

inline Axis rows_of(const Chunk& chunk, const Window& window) {
  return {chunk.height, window.height, window.stride, window.dilation};
}

inline Axis columns_of(const Chunk& chunk, const Window& window) {
  return {chunk.width, window.width, window.stride, window.dilation};
}

// Whether kRowPixels entries are runs of `run` neighbors in rows. Entries grow along a chunk, from
// row to row by more than a stride, so the ends of a run tell.
inline bool are_neighbors(const TableEntry* entries, int run, int64_t stride) {
  for (int k = 0; k < kRowPixels; k += run) {
    if (entries[k + run - 1] - entries[k] != (run - 1) * stride) return false;
  }
  return true;
}

// The depthwise loops for the next pixels, where these are neighbors in rows; else null.
inline void (*row_kernel(const DepthwiseLoops& loops, const Window& window,
                         const TableEntry* entries, int64_t pixels))(const Tile&, int) {
  if (window.width != 3 && window.width != 5) return nullptr;
  if (window.stride > 2 || window.dilation > 1 || pixels < kRowPixels) return nullptr;
  for (size_t run = 0; run < std::size(kRuns); ++run) {
    if (!are_neighbors(entries, kRuns[run], window.stride)) continue;
    return loops.row[window.width == 5][window.stride - 1][run];
  }
  return nullptr;
}

// Panels first .. first+count-1.
struct Group {
  int64_t first;
  int64_t count;
};

// Of groups of as equal a number of panels as can be, the one at g.
inline Group equal_group(int64_t panels, int64_t g) {
  const int64_t groups = ceil_div(panels, kMaxPanels);
  const int64_t first = g * panels / groups;
  return {first, (g + 1) * panels / groups - first};
}

// Scale and bias of whole panels, whether they are given or not.
class Affine {
 public:
  explicit Affine(const IndexedConvCall& call)
      : scale_(filled(call.scale, 1.0f, call)), bias_(filled(call.bias, 0.0f, call)) {}

  // Where a group's channels of an output row go, and how; `sums` are those of its panels.
  Outputs outputs(const IndexedConvCall& call, int64_t row, const Group& group,
                  const float* sums) const {
    const int64_t channel = group.first * kPanel;
    const int64_t offset = (row * call.features + channel) * element_bytes(call.input.element);
    const auto at = [offset](auto* rows) { return rows == nullptr ? nullptr : rows + offset; };
    Outputs outputs{};
    outputs.channels = std::min(group.count * kPanel, call.features - channel);
    outputs.sums = sums;
    outputs.sums_pitch = group.count * kPanel;
    outputs.scale = scale_.data() + channel;
    outputs.bias = bias_.data() + channel;
    outputs.scale2 = call.scale2 == nullptr ? nullptr : call.scale2 + channel;
    outputs.bias2 = call.bias2 == nullptr ? nullptr : call.bias2 + channel;
    outputs.residual = at(static_cast<const std::byte*>(call.residual));
    outputs.out = at(static_cast<std::byte*>(call.out));
    outputs.out2 = at(static_cast<std::byte*>(call.out2));
    outputs.pitch = call.features;
    outputs.activation = static_cast<int>(call.activation);
    return outputs;
  }

 private:
  static std::vector<float> filled(const float* values, float missing,
                                   const IndexedConvCall& call) {
    std::vector<float> result(call.panels() * kPanel, missing);
    if (values != nullptr) std::copy(values, values + call.features, result.begin());
    return result;
  }

  std::vector<float> scale_;
  std::vector<float> bias_;
};

// The convolution by Winograd's transform. Indices must have been checked, halos filled.
void winograd_conv(Workers& workers, const TileKernels& kernels, const IndexedConvCall& call);

// The convolution in bfloat16 on products of pairs, which the kernels must have; likewise.
void pair_conv(Workers& workers, const TileKernels& kernels, const IndexedConvCall& call);

}  // namespace segblocks::cpu

#endif  // SEGBLOCKS_CPU_INDEXED_CONV_H_
