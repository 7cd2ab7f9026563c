// The threads' loads of an indexed convolution's tiles: rows found by index, and weights.

#ifndef SEGBLOCKS_CUDA_INDEXED_CONV_LOADS_CUH_
#define SEGBLOCKS_CUDA_INDEXED_CONV_LOADS_CUH_

#include <cstdint>

#include "cuda/indexed_conv_tile.cuh"

namespace segblocks::cuda {

// A thread's part in loading stages of input rows: one chunk of each kStep-th row. What a call has
// for all threads is kept in registers.
template <class Tile, class Machine>
class RowLoad {
  static constexpr int kChunks = Tile::kDepth / Tile::kChunk;
  static constexpr int kStep = Tile::kThreads / kChunks;
  static constexpr int kMine = Tile::kRows / kStep;
  static_assert(kStep % 8 == 0, "the swizzle of a thread's rows is the same");

 public:
  // From the sums' term `first_term` on. `origins`: where the windows of the tile's rows begin
  // among the indices.
  __device__ RowLoad(const TileConvolution& call, bool high, int32_t first_term,
                     typename Tile::Element* stages, const int32_t* origins, int thread)
      : input_(call.input),
        taps_(call.taps),
        window_width_(call.window_width.value()),
        dilation_(call.tables.dilation) {
    const WindowTables::Size& size = high ? call.tables.high : call.tables.low;
    next_row_ = dilation_ * (size.patch_width - window_width_);
    stage_taps_ = call.channels.divide(Tile::kDepth, &stage_rest_);
    const int row = thread / kChunks;
    const int depth = thread % kChunks * Tile::kChunk;
    to_ = stages + typename Tile::Rows{}(row, depth, 0);
    origins_ = origins + row;
    walk_.tap = call.channels.divide(first_term + depth, &walk_.channel);
    const int32_t y = call.window_width.divide(walk_.tap, &walk_.column);
    walk_.indices = size.indices + dilation_ * (y * size.patch_width + walk_.column);
    if constexpr (Tile::kVector == Tile::kChunk) find(walk_, indices_);
  }

  // Loads the next terms into a stage.
  __device__ void load(int stage) {
    typename Tile::Element* to = to_ + typename Tile::Rows{}(0, 0, stage);
    if constexpr (Tile::kVector == Tile::kChunk) {
      copy(to, walk_.channel, indices_);
      // The indices of the next stage arrive while this one is multiplied.
      if (advance(walk_, stage_taps_, stage_rest_)) find(walk_, indices_);
    } else {
      Walk walk = walk_;
      if constexpr (Tile::kVector == 1) {
        copy_scalars(to, walk);
      } else {
#pragma unroll
        for (int k = 0; k < Tile::kChunk; k += Tile::kVector) {
          int32_t indices[kMine];
          find(walk, indices);
          copy(to + k, walk.channel, indices);
          advance(walk, 0, Tile::kVector);
        }
      }
      advance(walk_, stage_taps_, stage_rest_);
    }
  }

 private:
  // Runs through the terms of the sums, ordered as (window row, window column, channel).
  struct Walk {
    const int32_t* indices;  // Those of the tap.
    int32_t channel;
    int32_t column;
    int32_t tap;
  };

  // By so many taps, and less than one. Whether that led to another tap.
  __device__ bool advance(Walk& walk, int32_t taps, int32_t channels) const {
    walk.channel += channels;
    if (walk.channel >= input_.channels) {
      walk.channel -= input_.channels;
      ++taps;
    }
    walk.tap += taps;
    walk.column += taps;
    walk.indices += taps * dilation_;
    while (walk.column >= window_width_) {
      walk.column -= window_width_;
      walk.indices += next_row_;
    }
    return taps > 0;
  }

  __device__ void find(const Walk& walk, int32_t (&indices)[kMine]) const {
    if (walk.tap < taps_) {
#pragma unroll
      for (int i = 0; i < kMine; ++i) indices[i] = walk.indices[origins_[i * kStep]];
    } else {
#pragma unroll
      for (int i = 0; i < kMine; ++i) indices[i] = -1;
    }
  }

  __device__ void copy(typename Tile::Element* to, int32_t channel,
                       const int32_t (&indices)[kMine]) const {
#pragma unroll
    for (int i = 0; i < kMine; ++i) {
      // An address that is not read may be any.
      Machine::template copy_row<Tile::kVector>(to + typename Tile::Rows{}(i * kStep, 0, 0),
                                                input_.at(indices[i], channel),
                                                input_.has(indices[i]));
    }
  }

  // Channels in pairs, which may belong to two taps.
  __device__ void copy_scalars(typename Tile::Element* to, Walk walk) const {
#pragma unroll
    for (int k = 0; k < Tile::kChunk; k += 2) {
      Vector<__nv_bfloat16, 2> pairs[kMine];
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        int32_t indices[kMine];
        find(walk, indices);
#pragma unroll
        for (int i = 0; i < kMine; ++i) {
          pairs[i].values[j] = input_.has(indices[i]) ? input_.row(indices[i])[walk.channel]
                                                      : __float2bfloat16_rn(0.0f);
        }
        advance(walk, 0, 1);
      }
#pragma unroll
      for (int i = 0; i < kMine; ++i) {
        typename Tile::Element* pair = to + typename Tile::Rows{}(i * kStep, 0, 0) + k;
        store(reinterpret_cast<__nv_bfloat16*>(pair), pairs[i]);
      }
    }
  }

  RowList<__nv_bfloat16> input_;
  int32_t taps_;
  int32_t window_width_;
  int32_t dilation_;
  int32_t next_row_;    // From a window row's end to the next one's begin.
  int32_t stage_taps_;  // A stage's depth: whole taps,
  int32_t stage_rest_;  // and channels.
  typename Tile::Element* to_;
  const int32_t* origins_;
  Walk walk_{};               // At this thread's part of the next stage.
  int32_t indices_[kMine]{};  // Of its tap.
};

// A thread's part in loading stages of weights: one chunk of each kStep-th term.
template <class Tile, class Machine>
class WeightLoad {
  static constexpr int kPanel = static_cast<int>(IndexedConvCall::kPanel);
  static constexpr int kChunks = Tile::kColumns / Tile::kChunk;
  static constexpr int kStep = Tile::kThreads / kChunks;
  static constexpr int kMine = Tile::kDepth / kStep;
  static_assert(kStep % 8 == 0, "the swizzle of a thread's terms is the same");

 public:
  __device__ WeightLoad(const TileConvolution& call, int32_t first_term,
                        typename Tile::Element* stages, int32_t first_column, int thread) {
    const int row = thread / kChunks;
    const int32_t term = first_term + row;
    const int32_t column = first_column + thread % kChunks * Tile::kChunk;
    to_ = stages + typename Tile::Weights{}(column - first_column, row, 0);
    from_ = call.weights + (static_cast<int64_t>(column / kPanel) * call.terms + term) * kPanel +
            column % kPanel;
    // The last panel ends with zeros; behind it there is nothing.
    left_ = column < call.epilogue.features ? call.terms - term : 0;
  }

  __device__ void load(int stage) {
    typename Tile::Element* to = to_ + typename Tile::Weights{}(0, 0, stage);
#pragma unroll
    for (int i = 0; i < kMine; ++i) {
      Machine::copy_weights(to + typename Tile::Weights{}(0, i * kStep, 0),
                            from_ + i * kStep * kPanel, left_ > i * kStep);
    }
    left_ -= Tile::kDepth;
    from_ += Tile::kDepth * kPanel;
  }

 private:
  typename Tile::Element* to_;
  const __nv_bfloat16* from_;
  int32_t left_;  // Terms from this thread's first one of the stage on.
};

}  // namespace segblocks::cuda

#endif  // SEGBLOCKS_CUDA_INDEXED_CONV_LOADS_CUH_
