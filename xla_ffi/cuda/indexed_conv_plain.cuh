// Indexed convolutions without tensor cores: float32 tiles, and depthwise ones of both formats.

#ifndef SEGBLOCKS_CUDA_INDEXED_CONV_PLAIN_CUH_
#define SEGBLOCKS_CUDA_INDEXED_CONV_PLAIN_CUH_

#include <cstdint>

#include "cuda/epilogue.cuh"
#include "cuda/vectors.cuh"
#include "cuda/window_tables.h"

namespace segblocks::cuda {

template <typename T>
struct PlainConvolution {
  WindowTables tables;
  RowList<T> input;
  const T* weights;  // (panels, taps * channels, kPanel); depthwise (taps, channels).
  int32_t window_width;
  int32_t taps;
  Epilogue<T> epilogue;
};

template <typename T>
PlainConvolution<T> plain_convolution(const IndexedConvCall& call) {
  // Without channels nothing is summed; the loops want at least one.
  const bool empty = call.input.channels == 0;
  PlainConvolution<T> plain{window_tables(call),
                            row_list<T>(call.input),
                            static_cast<const T*>(call.weights),
                            static_cast<int32_t>(call.window.width),
                            empty ? 0 : static_cast<int32_t>(call.window.area()),
                            epilogue_of<T>(call)};
  if (empty) plain.input.channels = 1;
  return plain;
}

struct PlainTile {
  static constexpr int kRows = 64;
  static constexpr int kColumns = 64;
  static constexpr int kDepth = 16;
  static constexpr int kThreads = 256;
  static constexpr int kSide = 4;  // A thread sums up kSide x kSide elements.
  static constexpr int kAcross = kColumns / kSide;
  static constexpr int kPitch = kRows + kSide;  // Spreads stores over the banks.
  static constexpr int kSharedBytes = kDepth * (kPitch + kColumns) * sizeof(float);
};

// Loads kDepth terms of a tile, transposed: each thread kSide terms of a row and of a column.
template <class Machine>
__device__ void load_plain_stage(const PlainConvolution<float>& call, WindowOrigin origin,
                                 TapWalk walk, int32_t first_term, int32_t first_column, int thread,
                                 float* rows, float* weights) {
  using P = PlainTile;
  constexpr int kPanel = static_cast<int>(IndexedConvCall::kPanel);
  const int row = thread / P::kSide;
  for (int k = 0; k < P::kSide; ++k) {
    const int32_t index =
        walk.tap < call.taps ? call.tables.index(origin, walk.in_high, walk.in_low) : -1;
    rows[(thread % P::kSide * P::kSide + k) * P::kPitch + row] =
        call.input.has(index) ? call.input.row(index)[walk.channel] : 0.0f;
    walk.advance(1, call.input.channels, call.window_width, call.tables);
  }
  const int32_t terms = call.taps * call.input.channels;
  const int32_t term = first_term + thread / P::kAcross;
  const int32_t column = first_column + thread % P::kAcross * P::kSide;
  for (int k = 0; k < P::kSide; ++k) {
    const bool some = term < terms && column + k < call.epilogue.features;
    const int64_t panel = static_cast<int64_t>((column + k) / kPanel) * terms;
    weights[thread / P::kAcross * P::kColumns + thread % P::kAcross * P::kSide + k] =
        some ? call.weights[(panel + term) * kPanel + (column + k) % kPanel] : 0.0f;
  }
}

// What block `block` of `blocks` does. `shared`: PlainTile::kSharedBytes bytes.
template <class Machine>
__device__ void convolve_plain(const PlainConvolution<float>& call, float* shared, int thread,
                               int32_t block, int32_t blocks) {
  using P = PlainTile;
  float* rows = shared;
  float* weights = shared + P::kDepth * P::kPitch;
  const int32_t features = call.epilogue.features;
  const int32_t terms = call.taps * call.input.channels;
  const LiveRows live = call.tables.live();
  const int32_t across = (features + P::kColumns - 1) / P::kColumns;
  const int32_t tiles = (live.all + P::kRows - 1) / P::kRows * across;
  const int row = thread / P::kAcross * P::kSide;
  const int column = thread % P::kAcross * P::kSide;
  for (int32_t tile = block; tile < tiles; tile += blocks) {
    const int32_t first_row = tile / across * P::kRows;
    const int32_t first_column = tile % across * P::kColumns;
    const WindowOrigin origin =
        call.tables.origin(live, min_int32(first_row + thread / P::kSide, live.all - 1));
    TapWalk walk{};
    walk.advance(thread % P::kSide * P::kSide, call.input.channels, call.window_width, call.tables);
    float sums[P::kSide][P::kSide] = {};
    for (int32_t term = 0; term < terms; term += P::kDepth) {
      load_plain_stage<Machine>(call, origin, walk, term, first_column, thread, rows, weights);
      walk.advance(P::kDepth, call.input.channels, call.window_width, call.tables);
      Machine::sync();
#pragma unroll 4
      for (int k = 0; k < P::kDepth; ++k) {
        const auto a = load<float, P::kSide>(rows + k * P::kPitch + row);
        const auto b = load<float, P::kSide>(weights + k * P::kColumns + column);
#pragma unroll
        for (int i = 0; i < P::kSide; ++i) {
#pragma unroll
          for (int j = 0; j < P::kSide; ++j) sums[i][j] += a.values[i] * b.values[j];
        }
      }
      Machine::sync();
    }
#pragma unroll
    for (int j = 0; j < P::kSide; ++j) {
      if (first_column + column + j >= features) break;
      const Finish<float, 1> finish(call.epilogue, first_column + column + j);
#pragma unroll
      for (int i = 0; i < P::kSide; ++i) {
        if (first_row + row + i < live.all) finish.write(first_row + row + i, {sums[i][j]});
      }
    }
  }
}

// Output rows that share a thread's loads of depthwise weights.
constexpr int kDepthwiseRows = 4;

// Computes kWidth channels of the output rows row .. row + kDepthwiseRows-1.
template <typename T, int kWidth>
__device__ void convolve_depthwise(const PlainConvolution<T>& call, const LiveRows& live,
                                   int32_t row, int32_t channel) {
  WindowOrigin origins[kDepthwiseRows];
#pragma unroll
  for (int i = 0; i < kDepthwiseRows; ++i) {
    origins[i] = call.tables.origin(live, min_int32(row + i, live.all - 1));
  }
  float sums[kDepthwiseRows][kWidth] = {};
  TapWalk walk{};
  while (walk.tap < call.taps) {
    float weights[kWidth];
    load_floats_of(call.weights + static_cast<int64_t>(walk.tap) * call.input.channels + channel,
                   weights);
#pragma unroll
    for (int i = 0; i < kDepthwiseRows; ++i) {
      const int32_t index = call.tables.index(origins[i], walk.in_high, walk.in_low);
      if (!call.input.has(index)) continue;
      float values[kWidth];
      load_floats_of(call.input.at(index, channel), values);
#pragma unroll
      for (int k = 0; k < kWidth; ++k) sums[i][k] += values[k] * weights[k];
    }
    walk.advance(call.input.channels, call.input.channels, call.window_width, call.tables);
  }
  const Finish<T, kWidth> finish(call.epilogue, channel);
#pragma unroll
  for (int i = 0; i < kDepthwiseRows; ++i) {
    if (row + i < live.all) finish.write(row + i, sums[i]);
  }
}

}  // namespace segblocks::cuda

#endif  // SEGBLOCKS_CUDA_INDEXED_CONV_PLAIN_CUH_
