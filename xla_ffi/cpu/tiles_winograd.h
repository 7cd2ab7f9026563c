// The transforms of Winograd's minimal filtering of 3 x 3 windows (Lavin and Gray, 2016); see
// tiles_body.h and kWinograd in tiles.h, whose entries `kKind` is one of.
//
// Of 4 x 4 outputs, the points are 0, 1, -1, infinity, 2 and -2. Weights at the first four are
// those of 2 x 2 outputs, hence the divisions by 4 of inputs and by 3 of sums.

#ifndef SEGBLOCKS_CPU_TILES_WINOGRAD_H_
#define SEGBLOCKS_CPU_TILES_WINOGRAD_H_

#include <stdint.h>

#include "cpu/tiles.h"
#include "cpu/tiles_rows.h"
#include "cpu/tiles_vectors.h"

namespace segblocks::cpu {
namespace {

// What the transformed taps of a line of inputs are multiplied with. In squares of 2 x 2, an
// output's sum takes no input from outside of its window, so that NaN spreads as it does in the
// plain convolution; in larger ones it spreads over the square.
template <int kKind, typename V, int kInputs>
SEGBLOCKS_INLINE void filter_line(V (&d)[kInputs]) {
  if constexpr (kKind == 0) {
    const V middle = d[1];
    d[0] = d[0] - d[2];
    d[1] = middle + d[2];
    d[2] = d[2] - middle;
    d[3] = middle - d[3];
  } else if constexpr (kKind == 1) {
    d[0] = d[0] - d[2];
    d[4] = d[4] - d[2];
  } else {
    const V even1 = d[4] - d[2] * 4.0f;
    const V even2 = d[4] - d[2];
    const V odd1 = d[3] - d[1] * 4.0f;
    const V odd2 = d[3] - d[1];
    const V last = (d[5] - d[3] * 5.0f) + d[1] * 4.0f;
    d[0] = (d[4] * 0.25f - d[2] * 1.25f) + d[0];
    d[1] = even1 + odd1;
    d[2] = even1 - odd1;
    d[3] = last;
    d[4] = even2 + odd2 * 2.0f;
    d[5] = even2 - odd2 * 2.0f;
  }
}

// The tap of row r and column s among those of all points.
template <int kKind>
constexpr int winograd_tap(int r, int s) {
  const WinogradAxis& axis = kWinograd[kKind];
  int a = 0;
  int b = 0;
  while (r >= axis.first[a] + axis.taps[a]) ++a;
  while (s >= axis.first[b] + axis.taps[b]) ++b;
  return axis.first[a] * axis.inputs + axis.taps[a] * axis.first[b] +
         (r - axis.first[a]) * axis.taps[b] + s - axis.first[b];
}

template <int kKind, typename V, typename T>
SEGBLOCKS_INLINE void filter_lanes(const WinogradInput& in, int64_t k) {
  constexpr int kInputs = kWinograd[kKind].inputs;
  V lines[kInputs][kInputs];
#pragma GCC unroll 6
  for (int s = 0; s < kInputs; ++s) {
    V column[kInputs];
#pragma GCC unroll 6
    for (int r = 0; r < kInputs; ++r) {
      column[r] = get_at<V>(static_cast<const T*>(in.rows[r * kInputs + s]) + k);
    }
    filter_line<kKind>(column);
#pragma GCC unroll 6
    for (int r = 0; r < kInputs; ++r) lines[r][s] = column[r];
  }
#pragma GCC unroll 6
  for (int r = 0; r < kInputs; ++r) {
    filter_line<kKind>(lines[r]);
#pragma GCC unroll 6
    for (int s = 0; s < kInputs; ++s) {
      put_at(lines[r][s], in.out + winograd_tap<kKind>(r, s) * in.pitch + k);
    }
  }
}

template <int kKind, typename T>
void winograd_input(const WinogradInput& in) {
  for_channels(
      in.channels, [&](int64_t k) { filter_lanes<kKind, Vector, T>(in, k); },
      [&](int64_t k) { filter_lanes<kKind, float, T>(in, k); });
}

// The outputs of a line of points.
template <int kKind, typename V, int kPoints, int kOutputs>
SEGBLOCKS_INLINE void join_line(const V (&m)[kPoints], V (&y)[kOutputs]) {
  if constexpr (kKind == 0) {
    y[0] = m[0] + (m[1] + m[2]);
    y[1] = (m[1] - m[2]) - m[3];
  } else if constexpr (kKind == 1) {
    y[0] = m[0] + m[1];
    y[1] = m[1] + m[2];
  } else {
    constexpr float kThird = 1.0f / 3.0f;
    const V even1 = m[1] + m[2];
    const V odd1 = m[1] - m[2];
    const V even2 = m[4] + m[5];
    const V odd2 = m[4] - m[5];
    y[0] = (even2 - even1) * kThird + m[0];
    y[1] = (odd2 * 2.0f - odd1) * kThird;
    y[2] = (even2 * 4.0f - even1) * kThird;
    y[3] = (odd2 * 8.0f - odd1) * kThird + m[3];
  }
}

template <int kKind, typename V, typename T>
SEGBLOCKS_INLINE void join_lanes(const WinogradOutput& out, const float* sums,
                                 const int64_t* corners, int64_t k) {
  constexpr int kPoints = kWinograd[kKind].points;
  constexpr int kOutputs = kWinograd[kKind].outputs;
  V rows[kPoints][kOutputs];
#pragma GCC unroll 6
  for (int r = 0; r < kPoints; ++r) {
    V line[kPoints];
#pragma GCC unroll 6
    for (int s = 0; s < kPoints; ++s) {
      line[s] = get_at<V>(sums + (r * kPoints + s) * out.point_pitch + k);
    }
    join_line<kKind>(line, rows[r]);
  }
#pragma GCC unroll 4
  for (int j = 0; j < kOutputs; ++j) {
    V column[kPoints];
    V y[kOutputs];
#pragma GCC unroll 6
    for (int r = 0; r < kPoints; ++r) column[r] = rows[r][j];
    join_line<kKind>(column, y);
#pragma GCC unroll 4
    for (int i = 0; i < kOutputs; ++i) {
      const int64_t row = corners[kOutputs * i + j];
      if (row >= 0) write_lanes<V, T>(out.outputs, y[i], row * out.outputs.pitch, k);
    }
  }
}

template <int kKind, typename T>
void winograd_output(const WinogradOutput& given) {
  constexpr int kPixels = kWinograd[kKind].outputs * kWinograd[kKind].outputs;
  const WinogradOutput out = given;  // A copy that no write through a pointer can change.
  for (int64_t square = 0; square < out.squares; ++square) {
    const float* sums = out.outputs.sums + square * out.outputs.sums_pitch;
    const int64_t* corners = out.corners + square * kPixels;
    for_channels(
        out.outputs.channels,
        [&](int64_t k) { join_lanes<kKind, Vector, T>(out, sums, corners, k); },
        [&](int64_t k) { join_lanes<kKind, float, T>(out, sums, corners, k); });
  }
}

}  // namespace
}  // namespace segblocks::cpu

#endif  // SEGBLOCKS_CPU_TILES_WINOGRAD_H_
