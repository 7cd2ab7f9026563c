// Sums of rows of channels in float32; in functions of each file's own, as in half.h.

#ifndef SEGBLOCKS_CPU_ROW_SUMS_H_
#define SEGBLOCKS_CPU_ROW_SUMS_H_

#include <cstdint>

#include "cpu/half.h"
#include "segblocks/element.h"

namespace segblocks::cpu {
namespace {

// A weighted sum of rows of channels, several rows in one pass over the sums.
template <typename T>
class RowSum {
 public:
  static constexpr int64_t kMaxChannels = 256;

  // Sums channels first .. first+count-1 of the rows to come; count is at most kMaxChannels.
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
    for (int64_t k = 0; k < count_; ++k) from_float(scale * sums_[k], result + first_ + k);
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
  float sums_[kMaxChannels];
};

// Writes the weighted sum of rows of channels, times scale. Needs no allocation.
//
// `walk(add)` must call add(row, weight) for every row that takes part, the same each time.
template <typename T, typename Walk>
void weighted_sum(int64_t channels, float scale, T* result, const Walk& walk) {
  constexpr int64_t kMax = RowSum<T>::kMaxChannels;
  for (int64_t first = 0; first < channels; first += kMax) {
    RowSum<T> sum(first, channels - first < kMax ? channels - first : kMax);
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

}  // namespace
}  // namespace segblocks::cpu

#endif  // SEGBLOCKS_CPU_ROW_SUMS_H_
