// Writes pending rows between products; see cpu/products.h. Each file that includes this has
// functions of its own.

#ifndef SEGBLOCKS_CPU_PRODUCTS_PENDING_H_
#define SEGBLOCKS_CPU_PRODUCTS_PENDING_H_

#include <stdint.h>

#include "cpu/half.h"
#include "cpu/products.h"

namespace segblocks::cpu {
namespace {

template <typename Bytes>
SEGBLOCKS_INLINE void advance(Bytes** rows, int64_t bytes) {
  if (*rows != nullptr) *rows = static_cast<const char*>(*rows) + bytes;
}
SEGBLOCKS_INLINE void advance(void** rows, int64_t bytes) {
  if (*rows != nullptr) *rows = static_cast<char*>(*rows) + bytes;
}

// The rows first .. first+count-1 of outputs of bfloat16.
SEGBLOCKS_INLINE Outputs rows_of(const Outputs& all, int64_t first, int64_t count) {
  Outputs rows = all;
  const int64_t bytes = first * all.pitch * static_cast<int64_t>(sizeof(BFloat16));
  rows.pixels = count;
  rows.sums += first * all.sums_pitch;
  advance(&rows.residual, bytes);
  advance(&rows.out, bytes);
  advance(&rows.out2, bytes);
  return rows;
}

SEGBLOCKS_INLINE ByteOutputs rows_of(const ByteOutputs& all, int64_t first, int64_t count) {
  ByteOutputs rows = all;
  const int64_t values = first * all.pitch;
  rows.pixels = count;
  advance(&rows.sums, first * all.sums_pitch * static_cast<int64_t>(sizeof(int32_t)));
  advance(&rows.residual, all.residual_bytes ? values : 4 * values);
  advance(&rows.out, all.out_bytes ? values : 4 * values);
  advance(&rows.out2, all.out2_bytes ? values : 4 * values);
  return rows;
}

template <typename T>
SEGBLOCKS_INLINE int64_t rows_left(const Pending<T>& pending) {
  return pending.tiles * kTilePixels - pending.done;
}

// Writes up to `count` rows, of one tile.
template <typename T>
SEGBLOCKS_INLINE void write_rows(Pending<T>* pending, int64_t count) {
  const T& outputs = pending->outputs[pending->done / kTilePixels];
  const int64_t first = pending->done % kTilePixels;
  if (count > kTilePixels - first) count = kTilePixels - first;
  pending->done += count;
  const int64_t live = outputs.pixels - first;
  if (live > 0) pending->write(rows_of(outputs, first, live < count ? live : count));
}

template <typename T>
SEGBLOCKS_INLINE void write_all(Pending<T>* pending) {
  while (rows_left(*pending) > 0) write_rows(pending, kTilePixels);
}

// Of pending rows, a few at a time; what tile units have that need no faster one.
template <typename T>
class PlainRows {
 public:
  explicit PlainRows(Pending<T>* pending) : pending_(pending) {}
  void write(int64_t count) {
    while (count > 0 && rows_left(*pending_) > 0) {
      const int64_t before = pending_->done;
      write_rows(pending_, count);
      count -= pending_->done - before;
    }
  }

 private:
  Pending<T>* pending_;
};

}  // namespace
}  // namespace segblocks::cpu

#endif  // SEGBLOCKS_CPU_PRODUCTS_PENDING_H_
