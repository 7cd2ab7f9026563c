// Small problems of upsample_argmax with known answers: logits are small integers, so that weighted
// sums are exact and equal classes occur.

#ifndef SEGBLOCKS_TESTS_NATIVE_UPSAMPLE_ARGMAX_PROBLEM_H_
#define SEGBLOCKS_TESTS_NATIVE_UPSAMPLE_ARGMAX_PROBLEM_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <random>

#include "segblocks/calls.h"

namespace segblocks::test {

template <typename T>
class UpsampleArgmaxProblem {
 public:
  static constexpr uint8_t kUnwritten = 255;

  // `convert` makes a T of a float.
  template <typename Convert>
  UpsampleArgmaxProblem(int64_t images, int64_t height, int64_t width, int64_t classes,
                        int64_t factor, Element element, const Convert& convert)
      : labels_size_(images * height * width * factor * factor),
        values_(new float[images * height * width * classes]),
        logits_(new T[images * height * width * classes]),
        labels_(new uint8_t[labels_size_]),
        call{element, images, height, width, classes, factor, logits_.get(), labels_.get()} {
    std::mt19937 random(static_cast<unsigned>(height * 31 + width * 7 + classes + factor));
    for (int64_t i = 0; i < images * height * width * classes; ++i) {
      const unsigned draw = random() % 40;
      values_[i] = draw == 39 ? NAN : draw == 38 ? -INFINITY : static_cast<float>(draw % 9) - 4.0f;
      logits_[i] = convert(values_[i]);
    }
    std::fill_n(labels_.get(), labels_size_, kUnwritten);
  }

  // Whether every label is what plain loops find.
  bool solved() const {
    for (int64_t i = 0; i < labels_size_; ++i) {
      const int64_t width = call.width * call.factor;
      const int64_t height = call.height * call.factor;
      const int expected = label(i / width / height, i / width % height, i % width);
      if (labels_[i] == expected) continue;
      std::printf("label %d is %d, not %d\n", static_cast<int>(i), labels_[i], expected);
      return false;
    }
    return true;
  }

 private:
  int label(int64_t image, int64_t y, int64_t x) const {
    // Half-pixel centers, clamped.
    const auto source = [this](int64_t at, int64_t side) {
      const float place = (static_cast<float>(at) + 0.5f) / static_cast<float>(call.factor) - 0.5f;
      return std::clamp(place, 0.0f, static_cast<float>(side - 1));
    };
    const float row = source(y, call.height);
    const float column = source(x, call.width);
    const auto y0 = static_cast<int64_t>(row);
    const auto x0 = static_cast<int64_t>(column);
    const int64_t y1 = std::min(y0 + 1, call.height - 1);
    const int64_t x1 = std::min(x0 + 1, call.width - 1);
    const float down = row - static_cast<float>(y0);
    const float across = column - static_cast<float>(x0);
    float best = -INFINITY;
    int found = 0;
    for (int64_t k = 0; k < call.classes; ++k) {
      const auto at = [&](int64_t i, int64_t j) {
        return values_[((image * call.height + i) * call.width + j) * call.classes + k];
      };
      // An outer pixel repeats the border's, which is read twice; a NaN stays one, infinity too.
      const float left = mix(at(y0, x0), at(y1, x0), down);
      const float right = mix(at(y0, x1), at(y1, x1), down);
      const float value = mix(left, right, across);
      if (value > best) {
        best = value;
        found = static_cast<int>(k);
      }
    }
    return found;
  }

  static float mix(float before, float behind, float weight) {
    return weight == 0.0f ? before : before * (1.0f - weight) + behind * weight;
  }

  int64_t labels_size_;
  std::unique_ptr<float[]> values_;
  std::unique_ptr<T[]> logits_;
  std::unique_ptr<uint8_t[]> labels_;

 public:
  UpsampleArgmaxCall call;
};

// Calls check(images, height, width, classes, factor) for sizes that leave every kind of rest.
template <typename Check>
void for_upsample_argmax_sizes(const Check& check) {
  for (const int64_t factor : {2, 4, 8}) {
    for (const int64_t classes : {1, 2, 19, 256}) {
      check(2, 5, 7, classes, factor);
      check(1, 1, 1, classes, factor);
      check(1, 3, 33, classes, factor);
      check(1, 17, 16, classes, factor);
      check(3, 1, 15, classes, factor);
    }
  }
}

}  // namespace segblocks::test

#endif  // SEGBLOCKS_TESTS_NATIVE_UPSAMPLE_ARGMAX_PROBLEM_H_
