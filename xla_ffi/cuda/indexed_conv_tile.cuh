// A tile of an indexed convolution as a matrix product on tensor cores: its shape, where its parts
// lie in shared memory, and the threads' loads.
//
// What depends on the GPU's instructions is asked of a `Machine`, so that a host program can run
// the same code (tests/native/test_cuda_indexed_conv.cc).

#ifndef SEGBLOCKS_CUDA_INDEXED_CONV_TILE_CUH_
#define SEGBLOCKS_CUDA_INDEXED_CONV_TILE_CUH_

#include <cstdint>
#include <cute/tensor.hpp>
#include <initializer_list>
#include <type_traits>

#include "cuda/epilogue.cuh"
#include "cuda/window_tables.h"

namespace segblocks::cuda {

struct TileConvolution {
  WindowTables tables;
  RowList<__nv_bfloat16> input;
  const __nv_bfloat16* weights;  // (panels, terms, kPanel)
  int32_t window_width;
  int32_t taps;
  int32_t terms;     // Of each sum: taps * channels.
  bool wide_output;  // 16-byte accesses are possible behind the sums.
  Epilogue<__nv_bfloat16> epilogue;
};

inline bool aligned(std::initializer_list<const void*> pointers, uintptr_t bytes) {
  for (const void* pointer : pointers) {
    if (reinterpret_cast<uintptr_t>(pointer) % bytes != 0) return false;
  }
  return true;
}

inline TileConvolution tile_convolution(const IndexedConvCall& call) {
  constexpr int64_t kWide = 8;
  // Without channels nothing is summed; the loops want at least one.
  const bool empty = call.input.channels == 0;
  const int32_t taps = empty ? 0 : static_cast<int32_t>(call.window.area());
  TileConvolution tiles{
      window_tables(call),
      row_list<__nv_bfloat16>(call.input),
      static_cast<const __nv_bfloat16*>(call.weights),
      static_cast<int32_t>(call.window.width),
      taps,
      taps * static_cast<int32_t>(call.input.channels),
      call.features % kWide == 0 && aligned({call.residual, call.out, call.out2, call.scale,
                                             call.bias, call.scale2, call.bias2},
                                            2 * kWide),
      epilogue_of<__nv_bfloat16>(call)};
  if (empty) tiles.input.channels = 1;
  return tiles;
}

// kVector: adjacent channels of a row that are copied at once, 8, 4 or 1.
template <int kColumns_, int kVector_>
struct ConvTile {
  using Element = cute::bfloat16_t;

  static constexpr int kRows = 128;
  static constexpr int kColumns = kColumns_;
  static constexpr int kVector = kVector_;
  static constexpr int kDepth = kVector == 8 ? 64 : 32;  // Terms of the sums in a stage.
  static constexpr int kStages = kVector == 8 ? 3 : 4;
  static constexpr int kThreads = 128;
  static constexpr int kChunk = 8;  // Elements in 16 bytes.
  static_assert(kRows == kThreads, "each thread finds the origin of one row");

  // Terms are adjacent. Eight rows of 16 bytes, as ldmatrix reads them, lie in different banks.
  using RowAtom = std::conditional_t<
      kDepth == 64,
      decltype(cute::composition(
          cute::Swizzle<3, 3, 3>{},
          cute::Layout<cute::Shape<cute::_8, cute::_64>, cute::Stride<cute::_64, cute::_1>>{})),
      decltype(cute::composition(
          cute::Swizzle<2, 3, 3>{},
          cute::Layout<cute::Shape<cute::_8, cute::_32>, cute::Stride<cute::_32, cute::_1>>{}))>;
  using Rows = decltype(cute::tile_to_shape(
      RowAtom{}, cute::Shape<cute::Int<kRows>, cute::Int<kDepth>, cute::Int<kStages>>{}));

  // Columns are adjacent.
  using WeightAtom = decltype(cute::composition(
      cute::Swizzle<3, 3, 3>{},
      cute::Layout<cute::Shape<cute::_64, cute::_8>, cute::Stride<cute::_1, cute::_64>>{}));
  using Weights = decltype(cute::tile_to_shape(
      WeightAtom{}, cute::Shape<cute::Int<kColumns>, cute::Int<kDepth>, cute::Int<kStages>>{}));

  // The padding spreads the eight rows that a warp writes at once over the banks.
  using Sums = cute::Layout<cute::Shape<cute::Int<kRows>, cute::Int<kColumns>>,
                            cute::Stride<cute::Int<kColumns + 8>, cute::_1>>;

  static constexpr int kRowBytes = cute::cosize_v<Rows> * sizeof(Element);
  static constexpr int kWeightBytes = cute::cosize_v<Weights> * sizeof(Element);
  static constexpr int kSumBytes = cute::cosize_v<Sums> * sizeof(float);
  static_assert(kSumBytes <= kRowBytes + kWeightBytes, "the sums reuse the stages' memory");
  static constexpr int kOriginBytes = kRows * sizeof(int32_t);
  static constexpr int kSharedBytes = kRowBytes + kWeightBytes + kOriginBytes;

  // Four warps, two by two.
  template <class Machine>
  using Mma = cute::TiledMMA<cute::MMA_Atom<typename Machine::Multiply>,
                             cute::Layout<cute::Shape<cute::_2, cute::_2, cute::_1>>,
                             cute::Tile<cute::_32, cute::_32, cute::_16>>;
};

// The rows of a tile, all of units of one size.
struct TileRows {
  int32_t first;
  int32_t end;  // Of the live rows of that size; the tile may reach farther.
  bool high;
};

// Tiles of rows that cover the live rows, those of high units first.
template <class Tile>
struct RowTiles {
  LiveRows live;
  int32_t high;
  int32_t all;

  __device__ explicit RowTiles(const LiveRows& rows)
      : live(rows),
        high((rows.high + Tile::kRows - 1) / Tile::kRows),
        all(high + (rows.all - rows.high + Tile::kRows - 1) / Tile::kRows) {}

  __device__ TileRows rows(int32_t tile) const {
    if (tile < high) return {tile * Tile::kRows, live.high, true};
    return {live.high + (tile - high) * Tile::kRows, live.all, false};
  }
};

// A thread's part in loading stages of input rows: one chunk of each kStep-th row. What a call has
// for all threads is kept in registers.
template <class Tile, class Machine>
class RowLoad {
  static constexpr int kChunks = Tile::kDepth / Tile::kChunk;
  static constexpr int kStep = Tile::kThreads / kChunks;
  static constexpr int kMine = Tile::kRows / kStep;
  static_assert(kStep % 8 == 0, "the swizzle of a thread's rows is the same");

 public:
  // `origins`: where the windows of the tile's rows begin among the indices.
  __device__ RowLoad(const TileConvolution& call, bool high, typename Tile::Element* stages,
                     const int32_t* origins, int thread)
      : input_(call.input),
        taps_(call.taps),
        window_width_(call.window_width),
        dilation_(call.tables.dilation) {
    const WindowTables::Size& size = high ? call.tables.high : call.tables.low;
    next_row_ = dilation_ * (size.patch_width - window_width_);
    const int row = thread / kChunks;
    const int depth = thread % kChunks * Tile::kChunk;
    to_ = stages + typename Tile::Rows{}(row, depth, 0);
    origins_ = origins + row;
    walk_.indices = size.indices;
    advance(walk_, depth);
    if constexpr (Tile::kVector == Tile::kChunk) find(walk_, indices_);
  }

  // Loads the next terms into a stage.
  __device__ void load(int stage) {
    typename Tile::Element* to = to_ + typename Tile::Rows{}(0, 0, stage);
    if constexpr (Tile::kVector == Tile::kChunk) {
      copy(to, walk_.channel, indices_);
      // The indices of the next stage arrive while this one is multiplied.
      if (advance(walk_, Tile::kDepth)) find(walk_, indices_);
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
          advance(walk, Tile::kVector);
        }
      }
      advance(walk_, Tile::kDepth);
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

  // Whether that led to another tap.
  __device__ bool advance(Walk& walk, int terms) const {
    const int32_t before = walk.tap;
    walk.channel += terms;
    while (walk.channel >= input_.channels) {
      walk.channel -= input_.channels;
      ++walk.tap;
      walk.indices += dilation_;
      if (++walk.column == window_width_) {
        walk.column = 0;
        walk.indices += next_row_;
      }
    }
    return walk.tap != before;
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
        advance(walk, 1);
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
  int32_t next_row_;  // From a window row's end to the next one's begin.
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
  __device__ WeightLoad(const TileConvolution& call, typename Tile::Element* stages,
                        int32_t first_column, int thread) {
    const int term = thread / kChunks;
    const int32_t column = first_column + thread % kChunks * Tile::kChunk;
    to_ = stages + typename Tile::Weights{}(column - first_column, term, 0);
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

#endif  // SEGBLOCKS_CUDA_INDEXED_CONV_TILE_CUH_
