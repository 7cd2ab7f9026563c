// Pending rows of two whole panels, one at a time: a processor looks only so far ahead that more of
// them at once would leave its tile unit without work. See cpu/products.h.

#ifndef SEGBLOCKS_CPU_PRODUCTS_ROWS_H_
#define SEGBLOCKS_CPU_PRODUCTS_ROWS_H_

#include <stdint.h>

#include "cpu/products.h"
#include "cpu/products_pending.h"

namespace segblocks::cpu {
namespace {

// Writer(outputs) knows what the outputs of all pixels have in common; write(outputs, pixel) writes
// two panels of one.
template <typename T, typename Writer>
class WholeRows {
 public:
  SEGBLOCKS_INLINE explicit WholeRows(Pending<T>* pending)
      : pending_(pending),
        rest_(pending),
        fits_(pending->tiles > 0 && pending->outputs[0].channels == kBlockPanels * kPanel) {
    if (fits_) writer_ = Writer(pending->outputs[0]);
  }

  SEGBLOCKS_INLINE void write(int64_t count) {
    if (!fits_) return rest_.write(count);
    for (; count > 0 && rows_left(*pending_) > 0; --count, ++pending_->done) {
      const T& outputs = pending_->outputs[pending_->done / kTilePixels];
      const int64_t pixel = pending_->done % kTilePixels;
      if (pixel < outputs.pixels) writer_.write(outputs, pixel);
    }
  }

 private:
  Pending<T>* pending_;
  PlainRows<T> rest_;  // Writes what does not fit.
  bool fits_;
  Writer writer_;
};

}  // namespace
}  // namespace segblocks::cpu

#endif  // SEGBLOCKS_CPU_PRODUCTS_ROWS_H_
