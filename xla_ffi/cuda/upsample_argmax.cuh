// What a block of threads does: the labels of a tile of corners, each of which lies between four
// pixels of logits.

#ifndef SEGBLOCKS_CUDA_UPSAMPLE_ARGMAX_CUH_
#define SEGBLOCKS_CUDA_UPSAMPLE_ARGMAX_CUH_

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "cuda/vectors.cuh"
#include "segblocks/calls.h"

namespace segblocks::cuda {

// The tile of a block of threads: kAcross corners a row, and the pixels around them.
struct LabelTile {
  static constexpr int kAcross = 32;
  static constexpr int kPixels = kAcross + 1;  // In a row.
  static constexpr int kMaxDown = 8;
};

// Four pixels' logits.
template <typename T>
struct Corner {
  const T* above_before;
  const T* above_behind;
  const T* below_before;
  const T* below_behind;
};

// Output rows of a corner that a thread finds at once.
template <int kFactor>
constexpr int kLabelRows = kFactor == 8 ? 2 : kFactor;

template <int kFactor>
using LabelRow = Vector<uint8_t, kFactor>;

// Finds labels of phases first_phase .. first_phase+kLabelRows-1. kLarge: logits may be infinite,
// or so large that differences are.
template <typename T, int kFactor, bool kLarge>
__device__ void find_labels(const Corner<T>& corner, int32_t classes, int first_phase,
                            LabelRow<kFactor> (&labels)[kLabelRows<kFactor>]) {
  constexpr int kRows = kLabelRows<kFactor>;
  const auto mix = [](float a, float b, float weight) {
    return kLarge ? a * (1.0f - weight) + b * weight : a + weight * (b - a);
  };
  float best[kRows][kFactor];
  int32_t label[kRows][kFactor];
#pragma unroll
  for (int row = 0; row < kRows; ++row) {
#pragma unroll
    for (int p = 0; p < kFactor; ++p) {
      best[row][p] = -INFINITY;
      label[row][p] = 0;
    }
  }
#pragma unroll 2
  for (int32_t k = 0; k < classes; ++k) {
    const float above_before = to_float(corner.above_before[k]);
    const float above_behind = to_float(corner.above_behind[k]);
    const float below_before = to_float(corner.below_before[k]);
    const float below_behind = to_float(corner.below_behind[k]);
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      const float down = corner_weight(first_phase + row, kFactor);
      const float left = mix(above_before, below_before, down);
      const float right = mix(above_behind, below_behind, down);
#pragma unroll
      for (int p = 0; p < kFactor; ++p) {
        const float value = mix(left, right, corner_weight(p, kFactor));
        if (value > best[row][p]) {
          best[row][p] = value;
          label[row][p] = k;
        }
      }
    }
  }
#pragma unroll
  for (int row = 0; row < kRows; ++row) {
#pragma unroll
    for (int p = 0; p < kFactor; ++p) labels[row].values[p] = static_cast<uint8_t>(label[row][p]);
  }
}

// The lowest of a pixel's best classes.
template <typename T>
__device__ int32_t best_class(const T* logits, int32_t classes, float* best) {
  int32_t label = 0;
  *best = -INFINITY;
#pragma unroll 4
  for (int32_t k = 0; k < classes; ++k) {
    const float value = to_float(logits[k]);
    if (value > *best) {
      *best = value;
      label = k;
    }
  }
  return label;
}

// Whether a class that is the best one of all four pixels is so between them, too, in float32: its
// lead in 16-bit numbers is more than rounding takes away.
template <typename T>
constexpr bool kBestBetween = !std::is_same_v<T, float>;

// Where the labels of corner (y, x) of an image go: its two halves of the phases along each axis
// are next to different pixels, which the image may not have.
template <int kFactor>
class LabelPlace {
 public:
  static constexpr int kHalf = kFactor / 2;

  __device__ LabelPlace(const UpsampleArgmaxCall& call, int32_t image, int32_t y, int32_t x)
      : above_(y > 0), below_(y < call.height), before_(x > 0), behind_(x < call.width) {
    pitch_ = call.width * kFactor;
    const int64_t row = (image * call.height + y) * kFactor - kHalf;
    first_ = row * pitch_ + x * kFactor - kHalf;
    labels_ = call.labels;
  }

  __device__ void put(int phase, const LabelRow<kFactor>& labels) const {
    if (phase < kHalf ? !above_ : !below_) return;
    uint8_t* to = labels_ + (first_ + phase * pitch_);
    Vector<uint8_t, kHalf> halves[2];
#pragma unroll
    for (int p = 0; p < kHalf; ++p) {
      halves[0].values[p] = labels.values[p];
      halves[1].values[p] = labels.values[kHalf + p];
    }
    if (before_) store(to, halves[0]);
    if (behind_) store(to + kHalf, halves[1]);
  }

 private:
  uint8_t* labels_;
  int64_t first_;  // The place of phase 0, whether the image has it or not.
  int64_t pitch_;
  bool above_;
  bool below_;
  bool before_;
  bool behind_;
};

}  // namespace segblocks::cuda

#endif  // SEGBLOCKS_CUDA_UPSAMPLE_ARGMAX_CUH_
