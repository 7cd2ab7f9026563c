// The threads' loads of an indexed convolution's tiles: rows by a table of their places, and
// weights.

#ifndef SEGBLOCKS_CUDA_INDEXED_CONV_LOADS_CUH_
#define SEGBLOCKS_CUDA_INDEXED_CONV_LOADS_CUH_

#include <cstdint>
#include <limits>
#include <type_traits>

#include "cuda/indexed_conv_found.cuh"
#include "cuda/indexed_conv_walk.cuh"

namespace segblocks::cuda {

// A thread's part in loading stages of input rows whose places lie in a table: one for each index
// from that of the tile's first window to that of its last one. Where fewer than kChunk channels
// are copied at once, rows have no more.
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
      const int32_t at = call.tables.position(live, min_int32(rows.first + row, rows.end - 1));
      origins[row] = (at - first) * static_cast<int>(sizeof(int64_t));
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
    auto walk = walk_;
#pragma unroll
    for (int k = 0; k < Tile::kChunk; k += Tile::kVector) {
      const bool some = walk.tap() < taps_;
      const int32_t offset = some ? walk.offset() : 0;
      const auto* const places = reinterpret_cast<const char*>(places_ + offset);
      const int64_t channel =
          kOneCopy ? 0 : int64_t{walk.channel()} * static_cast<int>(sizeof(*to));
      // On sm_90 each change from reading shared memory to copies takes instructions of its own.
#pragma unroll
      for (int first = 0; first < Share::kMine; first += kAtOnce) {
        int64_t mine[kAtOnce];
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) {
          const int32_t origin = origins_[(first + i) * Share::kStep];
          mine[i] = *reinterpret_cast<const int64_t*>(places + origin);
        }
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) {
          // An address that is not read may be any.
          Machine::template copy_row<Tile::kVector>(
              to + typename Tile::Rows{}((first + i) * Share::kStep, 0, 0) + k,
              reinterpret_cast<const void*>(mine[i] + channel),
              some && static_cast<int32_t>(mine[i] >> 32) >= 0);
        }
      }
      if constexpr (kOneCopy) walk.advance(Tile::kVector);
    }
    walk_.advance();
  }

 private:
  static constexpr int64_t kNothing = std::numeric_limits<int64_t>::min();
  static constexpr bool kOneCopy = Tile::kVector < Tile::kChunk;  // Is a row.
  static constexpr int kAtOnce = 4;

  int32_t taps_;
  TermWalk<kOneCopy ? Tile::kVector : 0> walk_;  // At this thread's part of the next stage.
  typename Tile::Element* to_;
  const int64_t* places_;
  const int32_t* origins_;  // In bytes of the table.
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
