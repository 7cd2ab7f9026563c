// Copies rows by index, as products read them (cpu/products.h).

#ifndef SEGBLOCKS_CPU_ROW_COPIER_H_
#define SEGBLOCKS_CPU_ROW_COPIER_H_

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "cpu/products.h"
#include "cpu/units.h"
#include "segblocks/calls.h"

namespace segblocks::cpu {

// Copies of a pixel's channels, or, where taps are merged, of those that a kernel row
// reads. Zeros up to a whole step must be there already.
class RowCopier {
 public:
  template <typename Call>
  RowCopier(void (*make)(const Copies&), const Call& call, const RowAddresses& addresses,
            bool merged)
      : make_(make),
        addresses_(addresses),
        row_bytes_(call.input.channels * element_bytes(call.input.element)),
        num_rows_(call.input.num_rows),
        taps_(merged ? call.window.width : 1),
        dilation_(call.window.dilation),
        depth_(taps_ * row_bytes_),
        pitch_(ceil_div(depth_, kStepBytes) * kStepBytes) {}

  // Makes `count` copies of what lies `step` indices apart.
  void copy(const int32_t* indices, int64_t count, int64_t step, char* to) const {
    if (depth_ == 0) return;
    for (int64_t k = 0; k < count;) {
      const int64_t run = run_of_rows(indices, count - k, step);
      if (run > 0 && depth_ == pitch_ && step == 1 && taps_ == 1) {
        std::memcpy(to, addresses_(indices[0]), run * depth_);
      } else if (run > 0) {
        const auto* from = static_cast<const char*>(addresses_(indices[0]));
        make_({from, step * row_bytes_, run, depth_, to, pitch_});
      } else {
        for (int64_t t = 0; t < taps_; ++t) {
          std::memcpy(to + t * row_bytes_, addresses_(indices[t * dilation_]), row_bytes_);
        }
      }
      const int64_t done = std::max<int64_t>(run, 1);
      k += done;
      indices += done * step;
      to += done * pitch_;
    }
  }

 private:
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

  void (*make_)(const Copies&);
  const RowAddresses& addresses_;
  const int64_t row_bytes_;
  const int64_t num_rows_;
  const int64_t taps_;  // That a copy merges.
  const int64_t dilation_;
  const int64_t depth_;  // Bytes of a copy.
  const int64_t pitch_;  // Bytes from copy to copy.
};

}  // namespace segblocks::cpu

#endif  // SEGBLOCKS_CPU_ROW_COPIER_H_
