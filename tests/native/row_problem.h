// Small problems of indexed operations with known answers.
//
// Values are small integers and fractions, so that float32 sums are exact in any order and results
// compare bit by bit.

#ifndef SEGBLOCKS_TESTS_NATIVE_ROW_PROBLEM_H_
#define SEGBLOCKS_TESTS_NATIVE_ROW_PROBLEM_H_

#include <cuda_bf16.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <random>
#include <type_traits>
#include <vector>

#include "segblocks/calls.h"

namespace segblocks::test {

struct ProblemSize {
  int64_t channels;
  int64_t features;
  int64_t window;
  int64_t stride;
  int64_t capacity[2];
  int32_t counts[2];
  int64_t patch[2][2];  // Height and width of high and of low patches.
  Activation activation;
  bool affine;
  bool residual;
  bool second;  // The second output, and no first one where it is the only one.
  bool keep;
  int64_t dilation = 1;
};

inline float number(float value) { return value; }
inline float number(__nv_bfloat16 value) { return __bfloat162float(value); }
template <typename T>
T rounded(float value) {
  if constexpr (std::is_same_v<T, float>) {
    return value;
  } else {
    return __float2bfloat16_rn(value);
  }
}

// Buffers without a byte to spare, aligned as XLA's are: address sanitizers see what goes beyond.
template <typename T>
class Buffer {
 public:
  explicit Buffer(int64_t size) : size_(size), data_(allocate(size), &std::free) {}
  T* data() const { return size_ == 0 ? nullptr : data_.get(); }
  int64_t size() const { return size_; }
  T& operator[](int64_t i) const { return data_.get()[i]; }

 private:
  static T* allocate(int64_t size) {
    void* data = nullptr;
    const size_t bytes = std::max<size_t>(size * sizeof(T), 1);
    return posix_memalign(&data, 64, bytes) == 0 ? static_cast<T*>(data) : nullptr;
  }

  int64_t size_;
  std::unique_ptr<T, decltype(&std::free)> data_;
};

template <typename T>
class Problem {
 public:
  static constexpr int64_t kRows = 97;
  static constexpr int64_t kHalos = 11;
  static constexpr int64_t kReads = 4;
  static constexpr float kUnwritten = -12345.0f;

  explicit Problem(const ProblemSize& size, bool depthwise = false)
      : size_(size),
        rows_(kRows * size.channels),
        means_(kHalos * kReads),
        halos_(kHalos * size.channels),
        high_(size.capacity[0] * size.patch[0][0] * size.patch[0][1]),
        low_(size.capacity[1] * size.patch[1][0] * size.patch[1][1]),
        counts_(2),
        weights_(weight_count(size, depthwise)),
        scale_(size.features),
        bias_(size.features) {
    const auto range = [&](auto& buffer, int min, int max, float unit) {
      for (int64_t i = 0; i < buffer.size(); ++i) {
        using Value = std::remove_reference_t<decltype(buffer[i])>;
        const float value = static_cast<float>(integer(min, max)) * unit;
        if constexpr (std::is_same_v<Value, int32_t>) {
          buffer[i] = static_cast<int32_t>(value);
        } else {
          buffer[i] = rounded<Value>(value);
        }
      }
    };
    range(rows_, -4, 4, 1.0f);
    range(means_, 0, kRows - 1, 1.0f);
    means_[3 * kReads] = -1;  // An unused halo.
    for (int64_t i = 0; i < halos_.size(); ++i) {
      // Two bits behind the point: a mean of four.
      halos_[i] = rounded<T>(static_cast<float>(integer(-16, 16)) * 0.25f);
    }
    // -1 and indices out of range are there, too.
    range(high_, -2, kRows + kHalos, 1.0f);
    range(low_, -2, kRows + kHalos, 1.0f);
    counts_[0] = size.counts[0];
    counts_[1] = size.counts[1];
    range(weights_, -2, 2, 1.0f);
    range(scale_, -3, 3, 0.5f);
    range(bias_, -8, 8, 0.5f);

    call.input = {std::is_same_v<T, float> ? Element::kFloat32 : Element::kBFloat16,
                  kRows,
                  size.channels,
                  kHalos,
                  kReads,
                  rows_.data(),
                  means_.data(),
                  halos_.data()};
    call.units = {{size.capacity[0], size.patch[0][0], size.patch[0][1], high_.data()},
                  {size.capacity[1], size.patch[1][0], size.patch[1][1], low_.data()},
                  counts_.data()};
    call.window = {size.window, size.window, size.stride, size.dilation};
    call.features = size.features;
    call.depthwise = depthwise;
    call.activation = size.activation;
    call.weights = weights_.data();
    call.scale = size.affine ? scale_.data() : nullptr;
    call.bias = size.affine ? bias_.data() : nullptr;
    call.scale2 = size.second ? bias_.data() : nullptr;
    call.bias2 = size.second ? scale_.data() : nullptr;
    // Outputs for any of the operations: upsampling has the most.
    outputs_ = std::max(max_output_rows(call), max_output_rows(upsampling()));
    residual_ = std::make_unique<Buffer<T>>(outputs_ * size.features);
    out_ = std::make_unique<Buffer<T>>(outputs_ * size.features);
    out2_ = std::make_unique<Buffer<T>>(outputs_ * size.features);
    range(*residual_, -8, 8, 1.0f);
    for (int64_t i = 0; i < out_->size(); ++i) {
      (*out_)[i] = (*out2_)[i] = rounded<T>(kUnwritten);
    }
    call.residual = size.residual ? residual_->data() : nullptr;
    call.out = size.keep ? out_->data() : nullptr;
    call.out2 = size.second ? out2_->data() : nullptr;
  }

  MaxPoolCall pooling() const { return {call.input, call.units, call.window, call.out}; }
  Upsample2Call upsampling() const {
    return {call.input, call.units, call.residual, call.scale2, call.bias2, call.out};
  }

  int64_t live(int kind) const {
    return std::clamp<int64_t>(size_.counts[kind], 0, size_.capacity[kind]);
  }

  float residual(int64_t row, int64_t k) const {
    return number((*residual_)[row * size_.features + k]);
  }

  // What position (y, x) of a patch reads, in channel c.
  float pixel(int kind, int64_t unit, int64_t y, int64_t x, int64_t c) const {
    const UnitPatches& patches = kind == 0 ? call.units.high : call.units.low;
    const int64_t index = patches.indices[(unit * patches.height + y) * patches.width + x];
    if (index < 0 || index >= kRows + kHalos) return 0.0f;
    return index < kRows ? number(rows_[index * size_.channels + c])
                         : number(halos_[(index - kRows) * size_.channels + c]);
  }

  float halo(int64_t g, int64_t c) const { return number(halos_[g * size_.channels + c]); }
  float mean(int64_t g, int64_t c) const {
    float sum = 0.0f;
    for (int64_t q = 0; q < kReads; ++q) {
      sum += number(rows_[means_[g * kReads + q] * size_.channels + c]);
    }
    return number(rounded<T>(sum / kReads));
  }

  float weight(int64_t tap, int64_t c, int64_t k) const {
    if (call.depthwise) return c == k ? number(weights_[tap * size_.channels + c]) : 0.0f;
    const int64_t terms = call.window.area() * size_.channels;
    return number(weights_[(k / 16 * terms + tap * size_.channels + c) * 16 + k % 16]);
  }

  float convolution(int kind, int64_t unit, int64_t y, int64_t x, int64_t k) const {
    float sum = 0.0f;
    const int64_t first = call.depthwise ? k : 0;
    const int64_t last = call.depthwise ? k + 1 : size_.channels;
    for (int64_t tap = 0; tap < call.window.area(); ++tap) {
      const int64_t row = y * size_.stride + tap / size_.window * size_.dilation;
      const int64_t column = x * size_.stride + tap % size_.window * size_.dilation;
      for (int64_t c = first; c < last; ++c) {
        sum += pixel(kind, unit, row, column, c) * weight(tap, c, k);
      }
    }
    return sum;
  }

  float finished(float sum, int64_t row, int64_t k) const {
    float y = size_.affine ? sum * scale_[k] + bias_[k] : sum;
    if (size_.residual) y += residual(row, k);
    if (size_.activation != Activation::kNone) y = std::max(y, 0.0f);
    return size_.activation == Activation::kRelu6 ? std::min(y, 6.0f) : y;
  }
  float second(float y, int64_t k) const { return std::max(y * bias_[k] + scale_[k], 0.0f); }

  // Whether the outputs are expected(kind, unit, y, x, row, channel) in all live rows, and
  // unwritten behind.
  template <typename Outputs, typename Expected>
  bool holds(const Buffer<T>& buffer, const Outputs& outputs, const Expected& expected) const {
    int64_t row = 0;
    for (int kind = 0; kind < 2; ++kind) {
      const UnitOutputs map = outputs(kind == 0 ? call.units.high : call.units.low);
      for (int64_t unit = 0; unit < live(kind); ++unit) {
        for (int64_t pixel = 0; pixel < map.area(); ++pixel, ++row) {
          for (int64_t k = 0; k < size_.features; ++k) {
            const float value = expected(kind, unit, pixel / map.width, pixel % map.width, row, k);
            if (number(buffer[row * size_.features + k]) != number(rounded<T>(value))) {
              return false;
            }
          }
        }
      }
    }
    for (int64_t i = row * size_.features; i < buffer.size(); ++i) {
      if (number(buffer[i]) != number(rounded<T>(kUnwritten))) return false;
    }
    return true;
  }

  // Whether out and out2 hold what the convolution asks for.
  bool convolved() const {
    const auto maps = [&](const UnitPatches& patches) { return call.outputs(patches); };
    const auto y = [&](int kind, int64_t unit, int64_t i, int64_t j, int64_t row, int64_t k) {
      return finished(convolution(kind, unit, i, j, k), row, k);
    };
    const auto z = [&](int kind, int64_t unit, int64_t i, int64_t j, int64_t row, int64_t k) {
      return second(y(kind, unit, i, j, row, k), k);
    };
    return (!size_.keep || holds(*out_, maps, y)) && (!size_.second || holds(*out2_, maps, z));
  }

  const Buffer<T>& out() const { return *out_; }

  IndexedConvCall call{};

 private:
  static int64_t weight_count(const ProblemSize& size, bool depthwise) {
    const int64_t taps = size.window * size.window;
    if (depthwise) return taps * size.channels;
    return (size.features + 15) / 16 * 16 * taps * size.channels;
  }

  int64_t integer(int64_t min, int64_t max) {
    return min + static_cast<int64_t>(random_() % (max - min + 1));
  }

  ProblemSize size_;
  std::mt19937 random_{1};
  Buffer<T> rows_;
  Buffer<int32_t> means_;
  Buffer<T> halos_;
  Buffer<int32_t> high_;
  Buffer<int32_t> low_;
  Buffer<int32_t> counts_;
  Buffer<T> weights_;
  Buffer<float> scale_;
  Buffer<float> bias_;
  int64_t outputs_ = 0;
  std::unique_ptr<Buffer<T>> residual_;
  std::unique_ptr<Buffer<T>> out_;
  std::unique_ptr<Buffer<T>> out2_;
};

}  // namespace segblocks::test

#endif  // SEGBLOCKS_TESTS_NATIVE_ROW_PROBLEM_H_
