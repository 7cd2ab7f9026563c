// The threads' loads of an indexed convolution's tiles: rows found by index, and weights.

#ifndef SEGBLOCKS_CUDA_INDEXED_CONV_LOADS_CUH_
#define SEGBLOCKS_CUDA_INDEXED_CONV_LOADS_CUH_

#include <cstdint>
#include <limits>
#include <type_traits>

#include "cuda/indexed_conv_tile.cuh"

namespace segblocks::cuda {

// Runs through the terms of a convolution's sums, ordered as (window row, window column, channel).
class TermWalk {
 public:
  __device__ TermWalk(const TileConvolution& call, bool high, int32_t first_term, int32_t step)
      : channels_(call.channels.value()),
        window_width_(call.window_width.value()),
        dilation_(call.tables.dilation) {
    const int32_t patch_width = (high ? call.tables.high : call.tables.low).patch_width;
    next_row_ = dilation_ * (patch_width - window_width_);
    step_taps_ = call.channels.divide(step, &step_rest_);
    tap_ = call.channels.divide(first_term, &channel_);
    const int32_t y = call.window_width.divide(tap_, &column_);
    offset_ = dilation_ * (y * patch_width + column_);
  }

  __device__ int32_t channel() const { return channel_; }
  __device__ int32_t tap() const { return tap_; }
  // The tap's index behind the window's first one.
  __device__ int32_t offset() const { return offset_; }

  // By `step` terms, or by fewer than there are channels. Whether that led to another tap.
  __device__ bool advance() { return advance(step_taps_, step_rest_); }
  __device__ void advance(int32_t channels) { advance(0, channels); }

 private:
  __device__ bool advance(int32_t taps, int32_t channels) {
    channel_ += channels;
    if (channel_ >= channels_) {
      channel_ -= channels_;
      ++taps;
    }
    tap_ += taps;
    column_ += taps;
    offset_ += taps * dilation_;
    while (column_ >= window_width_) {
      column_ -= window_width_;
      offset_ += next_row_;
    }
    return taps > 0;
  }

  int32_t channels_;
  int32_t window_width_;
  int32_t dilation_;
  int32_t next_row_;   // From a window row's end to the next one's begin.
  int32_t step_taps_;  // A step: whole taps,
  int32_t step_rest_;  // and channels.
  int32_t tap_;
  int32_t channel_;
  int32_t column_;
  int32_t offset_;
};

// What loads of rows have in common: each thread has one chunk of each kStep-th row.
template <class Tile>
struct RowShare {
  static constexpr int kChunks = Tile::kDepth / Tile::kChunk;
  static constexpr int kStep = Tile::kThreads / kChunks;
  static constexpr int kMine = Tile::kRows / kStep;
  static_assert(kStep % 8 == 0, "the swizzle of a thread's rows is the same");
};

// A thread's part in loading stages of input rows whose places lie in a table: one for each index
// from that of the tile's first window to that of its last one.
template <class Tile, class Machine>
class PlacedRows {
  using Share = RowShare<Tile>;

 public:
  // From the sums' term `first_term` on. `table`: Tile::kTableBytes bytes. All threads meet.
  __device__ PlacedRows(const TileConvolution& call, const LiveRows& live, const TileRows& rows,
                        int32_t first_term, typename Tile::Element* stages, char* table, int thread)
      : taps_(call.taps),
        walk_(call, rows.high, first_term + thread % Share::kChunks * Tile::kChunk, Tile::kDepth) {
    auto* const places = reinterpret_cast<int64_t*>(table);
    auto* const origins = reinterpret_cast<int32_t*>(places + Tile::kPlaces);
    const WindowTables::Size& size = rows.high ? call.tables.high : call.tables.low;
    const int32_t first = call.tables.position(live, rows.first);
    const int32_t last =
        call.tables.position(live, min_int32(rows.first + Tile::kRows, rows.end) - 1) +
        call.reach(size);
    for (int32_t i = thread; i <= last - first; i += Tile::kThreads) {
      const int32_t index = size.indices[first + i];
      const auto place = reinterpret_cast<int64_t>(call.input.row(index));
      places[i] = call.input.has(index) ? place : place | kNothing;
    }
    for (int row = thread; row < Tile::kRows; row += Tile::kThreads) {
      // Rows behind the last one are computed from it, and not written.
      origins[row] =
          call.tables.position(live, min_int32(rows.first + row, rows.end - 1)) - first;
    }
    const int row = thread / Share::kChunks;
    places_ = places;
    origins_ = origins + row;
    to_ = stages + typename Tile::Rows{}(row, thread % Share::kChunks * Tile::kChunk, 0);
    Machine::sync();
  }

  // Loads the next terms into a stage.
  __device__ void load(int stage) {
    typename Tile::Element* to = to_ + typename Tile::Rows{}(0, 0, stage);
    int32_t origins[Share::kMine];
#pragma unroll
    for (int i = 0; i < Share::kMine; ++i) origins[i] = origins_[i * Share::kStep];
    TermWalk walk = walk_;
#pragma unroll
    for (int k = 0; k < Tile::kChunk; k += Tile::kVector) {
      const bool some = walk.tap() < taps_;
      const int64_t* const places = places_ + (some ? walk.offset() : 0);
      const int64_t channel = int64_t{walk.channel()} * static_cast<int>(sizeof(*to));
#pragma unroll
      for (int i = 0; i < Share::kMine; ++i) {
        const int64_t place = places[origins[i]];
        // An address that is not read may be any.
        Machine::template copy_row<Tile::kVector>(
            to + typename Tile::Rows{}(i * Share::kStep, 0, 0) + k,
            reinterpret_cast<const void*>(place + channel), some && place >= 0);
      }
      if constexpr (Tile::kVector < Tile::kChunk) walk.advance(Tile::kVector);
    }
    walk_.advance();
  }

 private:
  static constexpr int64_t kNothing = std::numeric_limits<int64_t>::min();

  int32_t taps_;
  TermWalk walk_;  // At this thread's part of the next stage.
  typename Tile::Element* to_;
  const int64_t* places_;
  const int32_t* origins_;
};

// The same of rows that each thread finds by itself, as a table would be too large. What a call has
// for all threads is kept in registers.
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
      TermWalk walk = walk_;
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
  __device__ void find(const TermWalk& walk, int32_t (&indices)[kMine]) const {
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
  __device__ void copy_scalars(typename Tile::Element* to, TermWalk walk) const {
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
  TermWalk walk_;         // At this thread's part of the next stage.
  typename Tile::Element* to_;
  const int32_t* origins_;
  int32_t indices_[kMine]{};  // Of its tap.
};

template <class Tile, class Machine>
using RowLoad =
    std::conditional_t<Tile::kPlaced, PlacedRows<Tile, Machine>, FoundRows<Tile, Machine>>;

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
