// Number formats, and sums of rows of channels in float32.

#ifndef SEGBLOCKS_CPU_NUMBERS_H_
#define SEGBLOCKS_CPU_NUMBERS_H_

#include <bit>
#include <cstdint>

#include "segblocks/calls.h"

namespace segblocks::cpu {

struct BFloat16 {
  uint16_t bits;
};

struct Float16 {
  uint16_t bits;
};

inline float to_float(float value) { return value; }

inline float to_float(BFloat16 value) {
  return std::bit_cast<float>(static_cast<uint32_t>(value.bits) << 16);
}

// Subnormals pass through normal floats only: XLA's threads may flush subnormal floats to zero.
inline float to_float(Float16 value) {
  constexpr uint32_t kExponent = 0x7c00u << 13;
  constexpr uint32_t kRebias = (127u - 15u) << 23;
  uint32_t bits = (value.bits & 0x7fffu) << 13;
  const uint32_t exponent = bits & kExponent;
  bits += kRebias;
  if (exponent == kExponent) {
    bits += kRebias;
  } else if (exponent == 0) {
    constexpr uint32_t kSmallestNormal = 113u << 23;
    const float shifted = std::bit_cast<float>(bits + (1u << 23));
    bits = std::bit_cast<uint32_t>(shifted - std::bit_cast<float>(kSmallestNormal));
  }
  return std::bit_cast<float>(bits | (value.bits & 0x8000u) << 16);
}

// Rounds to nearest, ties to even.
template <typename T>
T from_float(float value);

template <>
inline float from_float<float>(float value) {
  return value;
}

template <>
inline BFloat16 from_float<BFloat16>(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return {static_cast<uint16_t>(value == value ? rounded : (bits >> 16) | 0x40u)};
}

template <>
inline Float16 from_float<Float16>(float value) {
  constexpr uint32_t kInfinity = 255u << 23;
  constexpr uint32_t kOverflow = (127u + 16u) << 23;
  constexpr uint32_t kSmallestNormal = 113u << 23;
  // Adding this number leaves the bits of a subnormal, rounded, at the end of the mantissa.
  constexpr uint32_t kAlign = ((127u - 15u) + (23u - 10u) + 1u) << 23;
  uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = bits & 0x80000000u;
  bits ^= sign;
  uint32_t half;
  if (bits >= kOverflow) {
    half = bits > kInfinity ? 0x7e00u : 0x7c00u;
  } else if (bits < kSmallestNormal) {
    half = std::bit_cast<uint32_t>(std::bit_cast<float>(bits) + std::bit_cast<float>(kAlign));
    half -= kAlign;
  } else {
    half = (bits - ((127u - 15u) << 23) + 0xfffu + ((bits >> 13) & 1u)) >> 13;
  }
  return {static_cast<uint16_t>(half | sign >> 16)};
}

// A weighted sum of rows of channels, several rows in one pass over the sums.
template <typename T>
class RowSum {
 public:
  static constexpr int64_t kMostChannels = 256;

  // Sums channels first .. first+count-1 of the rows to come; count is at most kMostChannels.
  RowSum(int64_t first, int64_t count) : first_(first), count_(count) {
    for (int64_t k = 0; k < count_; ++k) sums_[k] = 0.0f;
  }

  void add(const T* row, float weight) {
    rows_[pending_] = row + first_;
    weights_[pending_] = weight;
    if (++pending_ == kBatch) add_pending<kBatch>();
  }

  void write(float scale, T* __restrict result) {
    if (pending_ >= 2) add_pending<2>();
    if (pending_ == 1) add_pending<1>();
    for (int64_t k = 0; k < count_; ++k) result[first_ + k] = from_float<T>(scale * sums_[k]);
  }

 private:
  static constexpr int kBatch = 4;

  // Adds the last kRows pending rows.
  template <int kRows>
  void add_pending() {
    pending_ -= kRows;
    const T* const* rows = rows_ + pending_;
    const float* weights = weights_ + pending_;
    for (int64_t k = 0; k < count_; ++k) {
      float sum = sums_[k];
      for (int row = 0; row < kRows; ++row) sum += weights[row] * to_float(rows[row][k]);
      sums_[k] = sum;
    }
  }

  int64_t first_;
  int64_t count_;
  int pending_ = 0;
  const T* rows_[kBatch];
  float weights_[kBatch];
  float sums_[kMostChannels];
};

// Writes the weighted sum of rows of channels, times scale. Needs no allocation.
//
// `walk(add)` must call add(row, weight) for every row that takes part, the same each time.
template <typename T, typename Walk>
void weighted_sum(int64_t channels, float scale, T* result, const Walk& walk) {
  constexpr int64_t kMost = RowSum<T>::kMostChannels;
  for (int64_t first = 0; first < channels; first += kMost) {
    RowSum<T> sum(first, channels - first < kMost ? channels - first : kMost);
    walk([&](const T* row, float weight) { sum.add(row, weight); });
    sum.write(scale, result);
  }
}

// Calls run(T{}) with the C++ type of an element.
template <typename Run>
void with_element(Element element, const Run& run) {
  switch (element) {
    case Element::kFloat32:
      return run(float{});
    case Element::kBFloat16:
      return run(BFloat16{});
    case Element::kFloat16:
      return run(Float16{});
  }
}

}  // namespace segblocks::cpu

#endif  // SEGBLOCKS_CPU_NUMBERS_H_
