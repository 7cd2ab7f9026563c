// Sums of rows of channels in float32, and their weights; in functions of each file's own, as in
// half.h.

#ifndef SEGBLOCKS_CPU_ROW_SUMS_H_
#define SEGBLOCKS_CPU_ROW_SUMS_H_

#include <cstdint>
#include <vector>

#include "cpu/half.h"
#include "segblocks/element.h"
#include "segblocks/layout.h"
#include "segblocks/resampling.h"

namespace segblocks::cpu {
namespace {

// A weighted sum of rows of channels, several rows in one pass. Few rows are summed up as they are
// written.
template <typename T>
class RowSum {
 public:
  static constexpr int64_t kMaxChannels = 256;

  // Sums channels first .. first+count-1 of the rows to come; count is at most kMaxChannels.
  RowSum(int64_t first, int64_t count) : first_(first), count_(count) {}

  void add(const T* row, float weight) {
    if (pending_ == kBatch) {
      pass<kBatch>([this](int64_t k, float sum) { sums_[k] = sum; });
      begun_ = true;
      pending_ = 0;
    }
    rows_[pending_] = row + first_;
    weights_[pending_] = weight;
    ++pending_;
  }

  void write(float scale, T* __restrict result) {
    const auto put = [&](int64_t k, float sum) { from_float(scale * sum, result + first_ + k); };
    if (pending_ == 0) pass<0>(put);
    if (pending_ == 1) pass<1>(put);
    if (pending_ == 2) pass<2>(put);
    if (pending_ == 3) pass<3>(put);
    if (pending_ == 4) pass<4>(put);
  }

 private:
  static constexpr int kBatch = 4;

  // Calls put(k, sum) for every channel, with the kRows pending rows.
  template <int kRows, typename Put>
  void pass(const Put& put) const {
    begun_ ? pass<kRows, true>(put) : pass<kRows, false>(put);
  }

  template <int kRows, bool kBegun, typename Put>
  void pass(const Put& put) const {
    const T* rows[kBatch];
    float weights[kBatch];
    for (int row = 0; row < kRows; ++row) {
      rows[row] = rows_[row];
      weights[row] = weights_[row];
    }
    for (int64_t k = 0; k < count_; ++k) {
      float sum = kBegun ? sums_[k] : 0.0f;
      for (int row = 0; row < kRows; ++row) sum += weights[row] * to_float(rows[row][k]);
      put(k, sum);
    }
  }

  int64_t first_;
  int64_t count_;
  int pending_ = 0;
  bool begun_ = false;  // Whether there are sums.
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

// The taps of every position in a high block, which are found by divisions.
inline std::vector<Taps> taps_of(const Resampling& resampling, const BlockLayout& layout) {
  std::vector<Taps> taps;
  for (int64_t position = 0; position < layout.block; ++position) {
    taps.push_back(resampling.taps(position, layout.factor, layout.low_block()));
  }
  return taps;
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
    case Element::kUint8:
      return;  // No operation on blocks has bytes.
  }
}

}  // namespace
}  // namespace segblocks::cpu

#endif  // SEGBLOCKS_CPU_ROW_SUMS_H_
