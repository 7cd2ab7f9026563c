// Loads of input rows that each thread finds by itself, where a table of places would be too large
// or rows have few channels.

#ifndef SEGBLOCKS_CUDA_INDEXED_CONV_FOUND_CUH_
#define SEGBLOCKS_CUDA_INDEXED_CONV_FOUND_CUH_

#include <cstdint>

#include "cuda/indexed_conv_walk.cuh"

namespace segblocks::cuda {

// A thread's part in loading stages of rows, as PlacedRows. What a call has for all threads is kept
// in registers.
template <class Tile, class Machine>
class FoundRows {
  using Share = RowShare<Tile>;
  static constexpr int kStep = Share::kStep;
  static constexpr int kMine = Share::kMine;

 public:
  __device__ FoundRows(const TileConvolution& call, const LiveRows& live, const TileRows& rows,
                       int32_t first_term, typename Tile::Element* stages, char* table, int thread)
      : input_(call.input),
        taps_(call.taps),
        table_((rows.high ? call.tables.high : call.tables.low).indices),
        walk_(call, rows.high, first_term + thread % Share::kChunks * Tile::kChunk, Tile::kDepth) {
    auto* const origins = reinterpret_cast<int32_t*>(table);
    for (int row = thread; row < Tile::kRows; row += Tile::kThreads) {
      origins[row] = call.tables.position(live, min_int32(rows.first + row, rows.end - 1));
    }
    const int row = thread / Share::kChunks;
    origins_ = origins + row;
    to_ = stages + typename Tile::Rows{}(row, thread % Share::kChunks * Tile::kChunk, 0);
    Machine::sync();
    if constexpr (Tile::kVector == Tile::kChunk) find(walk_, indices_);
  }

  __device__ void load(int stage) {
    typename Tile::Element* to = to_ + typename Tile::Rows{}(0, 0, stage);
    if constexpr (Tile::kVector == Tile::kChunk) {
      copy(to, walk_.channel(), indices_);
      // The indices of the next stage arrive while this one is multiplied.
      if (walk_.advance()) find(walk_, indices_);
    } else {
      TermWalk<> walk = walk_;
      if constexpr (Tile::kVector == 1) {
        copy_scalars(to, walk);
      } else {
#pragma unroll
        for (int k = 0; k < Tile::kChunk; k += Tile::kVector) {
          int32_t indices[kMine];
          find(walk, indices);
          copy(to + k, walk.channel(), indices);
          walk.advance(Tile::kVector);
        }
      }
      walk_.advance();
    }
  }

 private:
  __device__ void find(const TermWalk<>& walk, int32_t (&indices)[kMine]) const {
    const int32_t* const table = table_ + walk.offset();
    if (walk.tap() < taps_) {
#pragma unroll
      for (int i = 0; i < kMine; ++i) indices[i] = table[origins_[i * kStep]];
    } else {
#pragma unroll
      for (int i = 0; i < kMine; ++i) indices[i] = -1;
    }
  }

  __device__ void copy(typename Tile::Element* to, int32_t channel,
                       const int32_t (&indices)[kMine]) const {
#pragma unroll
    for (int i = 0; i < kMine; ++i) {
      Machine::template copy_row<Tile::kVector>(to + typename Tile::Rows{}(i * kStep, 0, 0),
                                                input_.at(indices[i], channel),
                                                input_.has(indices[i]));
    }
  }

  // Channels in pairs, which may belong to two taps.
  __device__ void copy_scalars(typename Tile::Element* to, TermWalk<> walk) const {
#pragma unroll
    for (int k = 0; k < Tile::kChunk; k += 2) {
      Vector<__nv_bfloat16, 2> pairs[kMine];
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        int32_t indices[kMine];
        find(walk, indices);
#pragma unroll
        for (int i = 0; i < kMine; ++i) {
          pairs[i].values[j] = input_.has(indices[i]) ? input_.row(indices[i])[walk.channel()]
                                                      : __float2bfloat16_rn(0.0f);
        }
        walk.advance(1);
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
  const int32_t* table_;  // The indices.
  TermWalk<> walk_;       // At this thread's part of the next stage.
  typename Tile::Element* to_;
  const int32_t* origins_;
  int32_t indices_[kMine]{};  // Of its tap.
};

}  // namespace segblocks::cuda

#endif  // SEGBLOCKS_CUDA_INDEXED_CONV_FOUND_CUH_
