// What a thread does: the labels of one output row between four pixels of logits.

#ifndef SEGBLOCKS_CUDA_UPSAMPLE_ARGMAX_CUH_
#define SEGBLOCKS_CUDA_UPSAMPLE_ARGMAX_CUH_

#include <cmath>
#include <cstdint>

#include "cuda/vectors.cuh"
#include "segblocks/calls.h"

namespace segblocks::cuda {

// How many items a call has: phases of corners, phases running fastest, so that neighboring
// threads read the same logits.
SEGBLOCKS_HD int64_t label_items(const UpsampleArgmaxCall& call) {
  return call.images * (call.height + 1) * (call.width + 1) * call.factor;
}

template <typename T, int kFactor>
__device__ void find_labels(const UpsampleArgmaxCall& call, int64_t item) {
  const Corners rows = call.rows();
  const Corners columns = call.columns();
  const int64_t phase = item % kFactor;
  const int64_t x = item / kFactor % (call.width + 1);
  const int64_t y = item / kFactor / (call.width + 1) % (call.height + 1);
  const int64_t image = item / kFactor / (call.width + 1) / (call.height + 1);
  if (phase < rows.first_phase(y) || phase > rows.last_phase(y)) return;
  const auto pixel = [&](int64_t row, int64_t column) {
    return static_cast<const T*>(call.logits) +
           ((image * call.height + row) * call.width + column) * call.classes;
  };
  const T* above_before = pixel(rows.before(y), columns.before(x));
  const T* above_behind = pixel(rows.before(y), columns.behind(x));
  const T* below_before = pixel(rows.behind(y), columns.before(x));
  const T* below_behind = pixel(rows.behind(y), columns.behind(x));
  const float down = corner_weight(phase, kFactor);
  float best[kFactor];
  uint8_t label[kFactor];
#pragma unroll
  for (int p = 0; p < kFactor; ++p) {
    best[p] = -INFINITY;
    label[p] = 0;
  }
  for (int64_t k = 0; k < call.classes; ++k) {
    const float left = to_float(above_before[k]) * (1.0f - down) + to_float(below_before[k]) * down;
    const float right =
        to_float(above_behind[k]) * (1.0f - down) + to_float(below_behind[k]) * down;
#pragma unroll
    for (int p = 0; p < kFactor; ++p) {
      const float across = corner_weight(p, kFactor);
      const float value = left * (1.0f - across) + right * across;
      if (value > best[p]) {
        best[p] = value;
        label[p] = static_cast<uint8_t>(k);
      }
    }
  }
  uint8_t* labels =
      call.labels +
      ((image * call.height * kFactor + rows.first(y) + phase) * call.width * kFactor) +
      columns.first(x);
#pragma unroll
  for (int p = 0; p < kFactor; ++p) {
    if (p >= columns.first_phase(x) && p <= columns.last_phase(x)) labels[p] = label[p];
  }
}

}  // namespace segblocks::cuda

#endif  // SEGBLOCKS_CUDA_UPSAMPLE_ARGMAX_CUH_
