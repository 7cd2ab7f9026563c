// Copies rows of bfloat16 by index, as products of pairs read them.

#ifndef SEGBLOCKS_CPU_ROW_COPIER_H_
#define SEGBLOCKS_CPU_ROW_COPIER_H_

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "cpu/pairs.h"
#include "cpu/units.h"
#include "segblocks/calls.h"

namespace segblocks::cpu {

// Copies of a pixel's channels, or, where taps are merged, of those that a kernel row
// reads. Zeros up to a whole step must be there already.
class RowCopier {
 public:
  RowCopier(const PairKernels& pairs, const IndexedConvCall& call, const RowAddresses& addresses,
            bool merged)
      : pairs_(pairs),
        addresses_(addresses),
        channels_(call.input.channels),
        num_rows_(call.input.num_rows),
        taps_(merged ? call.window.width : 1),
        dilation_(call.window.dilation),
        depth_(taps_ * channels_),
        pitch_(ceil_div(depth_, PairLayout::kStep) * PairLayout::kStep) {}

  // Makes `count` copies of what lies `step` indices apart.
  void copy(const int32_t* indices, int64_t count, int64_t step, char* copies) const {
    auto* to = reinterpret_cast<Bits*>(copies);
    if (depth_ == 0) return;
    for (int64_t k = 0; k < count;) {
      const int64_t run = run_of_rows(indices, count - k, step);
      if (run > 0 && depth_ == pitch_ && step == 1 && taps_ == 1) {
        std::memcpy(to, row(indices[0]), run * depth_ * sizeof(Bits));
      } else if (run > 0) {
        pairs_.copy({row(indices[0]), step * channels_, run, depth_, to, pitch_});
      } else {
        for (int64_t t = 0; t < taps_; ++t) {
          std::memcpy(to + t * channels_, row(indices[t * dilation_]), channels_ * sizeof(Bits));
        }
      }
      const int64_t done = std::max<int64_t>(run, 1);
      k += done;
      indices += done * step;
      to += done * pitch_;
    }
  }

 private:
  using Bits = uint16_t;  // Of a bfloat16.

  const Bits* row(int64_t index) const { return static_cast<const Bits*>(addresses_(index)); }

  // How many copies, from the first on, read nothing but a run of rows.
  int64_t run_of_rows(const int32_t* indices, int64_t count, int64_t step) const {
    if (taps_ > 1 && dilation_ > 1) return 0;
    const int64_t first = indices[0];
    if (first < 0) return 0;
    const int64_t reads = std::min((count - 1) * step + taps_, num_rows_ - first);
    int64_t rows = 0;
    while (rows < reads && indices[rows] == first + rows) ++rows;
    return rows < taps_ ? 0 : (rows - taps_) / step + 1;
  }

  const PairKernels& pairs_;
  const RowAddresses& addresses_;
  const int64_t channels_;
  const int64_t num_rows_;
  const int64_t taps_;  // That a copy merges.
  const int64_t dilation_;
  const int64_t depth_;  // Values of a copy.
  const int64_t pitch_;  // Values from copy to copy.
};

}  // namespace segblocks::cpu

#endif  // SEGBLOCKS_CPU_ROW_COPIER_H_
