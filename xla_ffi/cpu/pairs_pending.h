// Writes pending rows between products; see cpu/pairs.h. Each file that includes this has functions
// of its own.

#ifndef SEGBLOCKS_CPU_PAIRS_PENDING_H_
#define SEGBLOCKS_CPU_PAIRS_PENDING_H_

#include <stdint.h>

#include "cpu/half.h"
#include "cpu/pairs.h"

namespace segblocks::cpu {
namespace {

constexpr int64_t kPieceRows = 8;

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

SEGBLOCKS_INLINE int64_t pieces_left(const PendingRows& pending) {
  return (pending.tiles * kTilePixels - pending.done) / kPieceRows;
}

// Writes a few rows.
SEGBLOCKS_INLINE void write_piece(PendingRows* pending) {
  const Outputs& outputs = pending->outputs[pending->done / kTilePixels];
  const int64_t first = pending->done % kTilePixels;
  const int64_t left = outputs.pixels - first;
  pending->done += kPieceRows;
  if (left > 0) pending->write(rows_of(outputs, first, left < kPieceRows ? left : kPieceRows));
}

SEGBLOCKS_INLINE void write_all(PendingRows* pending) {
  while (pieces_left(*pending) > 0) write_piece(pending);
}

}  // namespace
}  // namespace segblocks::cpu

#endif  // SEGBLOCKS_CPU_PAIRS_PENDING_H_
