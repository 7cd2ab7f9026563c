// Pending rows of two whole panels in AVX-512, one at a time: a processor looks only so far ahead
// that more of them at once would leave its tile unit without work. See cpu/pairs.h.

#ifndef SEGBLOCKS_CPU_PAIRS_ROWS_H_
#define SEGBLOCKS_CPU_PAIRS_ROWS_H_

#include <stdint.h>

#define SEGBLOCKS_LANES 16

#include "cpu/pairs.h"
#include "cpu/pairs_pending.h"
#include "cpu/tiles_pair_writer.h"

namespace segblocks::cpu {
namespace {

static_assert(kBlockPanels * kPanel == 2 * kLanes);

class Avx512Rows {
 public:
  SEGBLOCKS_INLINE explicit Avx512Rows(PendingRows* pending)
      : pending_(pending),
        rest_(pending),
        fits_(pending->tiles > 0 && pending->outputs[0].channels == kBlockPanels * kPanel) {
    if (fits_) writer_ = PairWriter<BFloat16>(pending->outputs[0], 0);
  }

  SEGBLOCKS_INLINE void write(int64_t count) {
    if (!fits_) return rest_.write(count);
    for (; count > 0 && rows_left(*pending_) > 0; --count, ++pending_->done) {
      const Outputs& outputs = pending_->outputs[pending_->done / kTilePixels];
      const int64_t pixel = pending_->done % kTilePixels;
      if (pixel < outputs.pixels) writer_.write(outputs, pixel);
    }
  }

 private:
  PendingRows* pending_;
  PlainRows rest_;  // Writes what does not fit.
  bool fits_;
  PairWriter<BFloat16> writer_;
};

}  // namespace
}  // namespace segblocks::cpu

#endif  // SEGBLOCKS_CPU_PAIRS_ROWS_H_
