// The transforms of Winograd's minimal filtering of 3 x 3 windows (Lavin and Gray, 2016), for
// squares of 2 x 2 outputs; see tiles_body.h and Winograd in tiles.h.

#ifndef SEGBLOCKS_CPU_TILES_WINOGRAD_H_
#define SEGBLOCKS_CPU_TILES_WINOGRAD_H_

#include <stdint.h>

#include "cpu/tiles.h"
#include "cpu/tiles_rows.h"
#include "cpu/tiles_vectors.h"

namespace segblocks::cpu {
namespace {

// What the transformed taps of a line of inputs are multiplied with. An output's sum takes no input
// from outside of its window, so that NaN spreads as it does in the plain convolution.
template <int kStride, typename V, int kInputs>
SEGBLOCKS_INLINE void filter_line(V (&d)[kInputs]) {
  if constexpr (kStride == 1) {
    const V middle = d[1];
    d[0] = d[0] - d[2];
    d[1] = middle + d[2];
    d[2] = d[2] - middle;
    d[3] = middle - d[3];
  } else {
    d[0] = d[0] - d[2];
    d[4] = d[4] - d[2];
  }
}

// The tap of row r and column s among those of all points.
template <int kStride>
constexpr int winograd_tap(int r, int s) {
  const WinogradAxis& axis = kWinograd[kStride - 1];
  int a = 0;
  int b = 0;
  while (r >= axis.first[a] + axis.taps[a]) ++a;
  while (s >= axis.first[b] + axis.taps[b]) ++b;
  return axis.first[a] * axis.inputs + axis.taps[a] * axis.first[b] +
         (r - axis.first[a]) * axis.taps[b] + s - axis.first[b];
}

template <int kStride, typename V, typename T>
SEGBLOCKS_INLINE void filter_lanes(const WinogradInput& in, int64_t k) {
  constexpr int kInputs = kWinograd[kStride - 1].inputs;
  V lines[kInputs][kInputs];
#pragma GCC unroll 5
  for (int s = 0; s < kInputs; ++s) {
    V column[kInputs];
#pragma GCC unroll 5
    for (int r = 0; r < kInputs; ++r) {
      column[r] = get_at<V>(static_cast<const T*>(in.rows[r * kInputs + s]) + k);
    }
    filter_line<kStride>(column);
#pragma GCC unroll 5
    for (int r = 0; r < kInputs; ++r) lines[r][s] = column[r];
  }
#pragma GCC unroll 5
  for (int r = 0; r < kInputs; ++r) {
    filter_line<kStride>(lines[r]);
#pragma GCC unroll 5
    for (int s = 0; s < kInputs; ++s) {
      put_at(lines[r][s], in.out + winograd_tap<kStride>(r, s) * in.pitch + k);
    }
  }
}

template <int kStride, typename T>
void winograd_input(const WinogradInput& in) {
  for_channels(
      in.channels, [&](int64_t k) { filter_lanes<kStride, Vector, T>(in, k); },
      [&](int64_t k) { filter_lanes<kStride, float, T>(in, k); });
}

// Two outputs of a line of points.
template <int kStride, typename V, int kPoints>
SEGBLOCKS_INLINE void join_line(const V (&m)[kPoints], V (&y)[2]) {
  if constexpr (kStride == 1) {
    y[0] = m[0] + (m[1] + m[2]);
    y[1] = (m[1] - m[2]) - m[3];
  } else {
    y[0] = m[0] + m[1];
    y[1] = m[1] + m[2];
  }
}

template <int kStride, typename V, typename T>
SEGBLOCKS_INLINE void join_lanes(const WinogradOutput& out, const float* sums,
                                 const int64_t* corners, int64_t k) {
  constexpr int kPoints = kWinograd[kStride - 1].points;
  V rows[kPoints][2];
#pragma GCC unroll 4
  for (int r = 0; r < kPoints; ++r) {
    V line[kPoints];
#pragma GCC unroll 4
    for (int s = 0; s < kPoints; ++s) {
      line[s] = get_at<V>(sums + (r * kPoints + s) * out.point_pitch + k);
    }
    join_line<kStride>(line, rows[r]);
  }
#pragma GCC unroll 2
  for (int j = 0; j < 2; ++j) {
    V column[kPoints];
    V y[2];
#pragma GCC unroll 4
    for (int r = 0; r < kPoints; ++r) column[r] = rows[r][j];
    join_line<kStride>(column, y);
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      const int64_t row = corners[2 * i + j];
      if (row >= 0) write_lanes<V, T>(out.outputs, y[i], row * out.outputs.pitch, k);
    }
  }
}

template <int kStride, typename T>
void winograd_output(const WinogradOutput& given) {
  const WinogradOutput out = given;  // A copy that no write through a pointer can change.
  for (int64_t square = 0; square < out.squares; ++square) {
    const float* sums = out.outputs.sums + square * out.outputs.sums_pitch;
    const int64_t* corners = out.corners + square * 4;
    for_channels(
        out.outputs.channels,
        [&](int64_t k) { join_lanes<kStride, Vector, T>(out, sums, corners, k); },
        [&](int64_t k) { join_lanes<kStride, float, T>(out, sums, corners, k); });
  }
}

}  // namespace
}  // namespace segblocks::cpu

#endif  // SEGBLOCKS_CPU_TILES_WINOGRAD_H_
