// Writes pending rows between products; see cpu/pairs.h. Each file that includes this has functions
// of its own.

#ifndef SEGBLOCKS_CPU_PAIRS_PENDING_H_
#define SEGBLOCKS_CPU_PAIRS_PENDING_H_

#include <stdint.h>

#include "cpu/half.h"
#include "cpu/pairs.h"

namespace segblocks::cpu {
namespace {

// The rows first .. first+count-1 of outputs of bfloat16.
SEGBLOCKS_INLINE Outputs rows_of(const Outputs& all, int64_t first, int64_t count) {
  Outputs rows = all;
  const int64_t bytes = first * all.pitch * static_cast<int64_t>(sizeof(BFloat16));
  rows.pixels = count;
  rows.sums += first * all.sums_pitch;
  if (rows.residual != nullptr) rows.residual = static_cast<const char*>(rows.residual) + bytes;
  if (rows.out != nullptr) rows.out = static_cast<char*>(rows.out) + bytes;
  if (rows.out2 != nullptr) rows.out2 = static_cast<char*>(rows.out2) + bytes;
  return rows;
}

SEGBLOCKS_INLINE int64_t rows_left(const PendingRows& pending) {
  return pending.tiles * kTilePixels - pending.done;
}

// Writes up to `count` rows, of one tile.
SEGBLOCKS_INLINE void write_rows(PendingRows* pending, int64_t count) {
  const Outputs& outputs = pending->outputs[pending->done / kTilePixels];
  const int64_t first = pending->done % kTilePixels;
  if (count > kTilePixels - first) count = kTilePixels - first;
  pending->done += count;
  const int64_t live = outputs.pixels - first;
  if (live > 0) pending->write(rows_of(outputs, first, live < count ? live : count));
}

SEGBLOCKS_INLINE void write_all(PendingRows* pending) {
  while (rows_left(*pending) > 0) write_rows(pending, kTilePixels);
}

// Of pending rows, a few at a time; what tile units have that need no faster one.
class PlainRows {
 public:
  explicit PlainRows(PendingRows* pending) : pending_(pending) {}
  void write(int64_t count) {
    while (count > 0 && rows_left(*pending_) > 0) {
      const int64_t before = pending_->done;
      write_rows(pending_, count);
      count -= pending_->done - before;
    }
  }

 private:
  PendingRows* pending_;
};

}  // namespace
}  // namespace segblocks::cpu

#endif  // SEGBLOCKS_CPU_PAIRS_PENDING_H_
