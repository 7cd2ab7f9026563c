// A tile of an indexed convolution as a matrix product on tensor cores: its shape, and where its
// parts lie in shared memory.
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
#include "cuda/indexed_conv_plan.h"
#include "cuda/lent_halos.cuh"
#include "cuda/window_tables.h"

namespace segblocks::cuda {

// A value that isn't computed ahead, to be kept in registers while a loop before it needs them.
template <typename T>
__device__ inline T not_before(T value) {
#ifdef __CUDA_ARCH__
  asm volatile("" : "+r"(value));
#endif
  return value;
}

struct TileConvolution {
  WindowTables tables;
  RowList<__nv_bfloat16> input;
  const __nv_bfloat16* weights;  // (panels, terms, kPanel)
  Divisor channels;
  Divisor window_width;
  int32_t taps;
  int32_t terms;     // Of each sum: taps * channels.
  int32_t parts;     // Blocks of threads that share a tile's terms, neighbors in a cluster.
  bool wide_output;  // 16-byte accesses are possible behind the sums.
  Epilogue<__nv_bfloat16> epilogue;
  LentRing<__nv_bfloat16> lent;  // Only where a part's rows are whole cells of 2 x 2.

  // From a window's first index to its last one.
  __device__ int32_t reach(const WindowTables::Size& size) const {
    const int32_t height = window_width.divide(taps);
    return tables.dilation * ((height - 1) * size.patch_width + window_width.value() - 1);
  }
};

inline bool aligned(std::initializer_list<const void*> pointers, uintptr_t bytes) {
  for (const void* pointer : pointers) {
    if (reinterpret_cast<uintptr_t>(pointer) % bytes != 0) return false;
  }
  return true;
}

// Whether the rows that a part of a tile writes are whole lines of cells of 2 x 2 outputs.
inline bool parts_have_cells(const IndexedConvCall& call, int32_t parts) {
  return call.lent.any() && kTileRows / parts % (4 * call.lent.side) == 0;
}

inline TileConvolution tile_convolution(const IndexedConvCall& call, int32_t parts = 1) {
  constexpr int64_t kWide = 8;
  // Without channels nothing is summed; the loops want at least one.
  const bool empty = call.input.channels == 0;
  const int32_t taps = empty ? 0 : static_cast<int32_t>(call.window.area());
  TileConvolution tiles{
      window_tables(call),
      row_list<__nv_bfloat16>(call.input),
      static_cast<const __nv_bfloat16*>(call.weights),
      Divisor(call.input.channels),
      Divisor(call.window.width),
      taps,
      taps * static_cast<int32_t>(call.input.channels),
      parts,
      call.features % kWide == 0 && aligned({call.residual, call.out, call.out2, call.scale,
                                             call.bias, call.scale2, call.bias2},
                                            2 * kWide),
      epilogue_of<__nv_bfloat16>(call),
      {}};
  if (tiles.wide_output && aligned({call.lent.halos}, 2 * kWide) && parts_have_cells(call, parts)) {
    tiles.lent = lent_ring<__nv_bfloat16>(call.lent);
  }
  if (empty) tiles.input.channels = 1;
  return tiles;
}

// kVector: adjacent channels of a row that are copied at once, 8, 4 or 1. kPlaced: whether the
// places of rows are kept in a table. Each warp multiplies 64 rows by 64 columns; by 32 where
// finding rows takes registers.
template <int kRows_, int kColumns_, int kVector_, bool kPlaced_>
struct ConvTile {
  using Element = cute::bfloat16_t;

  static constexpr int kRows = kRows_;
  static constexpr int kColumns = kColumns_;
  static constexpr int kVector = kVector_;
  static constexpr bool kPlaced = kPlaced_;
  static constexpr int kDepth = kColumns == 64 ? 32 : 64;  // Terms of the sums in a stage.
  static constexpr int kStages = kColumns == 64 ? 4 : 3;
  static constexpr int kWarpsDown = kRows / 64;
  static constexpr int kWarpsAcross = kColumns / (kPlaced ? 64 : 32);
  static constexpr int kThreads = 32 * kWarpsDown * kWarpsAcross;
  static constexpr int kResident = 256 / kThreads;  // As many as the registers allow.
  static constexpr int kChunk = 8;                  // Elements in 16 bytes.

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
  static constexpr int kPlaces = kPlaced ? 10 * kRows : 0;
  static constexpr int kTableBytes = kPlaces * sizeof(int64_t) + kRows * sizeof(int32_t);
  static constexpr int kSharedBytes = kRowBytes + kWeightBytes + kTableBytes;

  template <class Machine>
  using Mma = cute::TiledMMA<
      cute::MMA_Atom<typename Machine::Multiply>,
      cute::Layout<cute::Shape<cute::Int<kWarpsDown>, cute::Int<kWarpsAcross>, cute::_1>>,
      cute::Tile<cute::Int<16 * kWarpsDown>, cute::Int<16 * kWarpsAcross>, cute::_16>>;
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

}  // namespace segblocks::cuda

#endif  // SEGBLOCKS_CUDA_INDEXED_CONV_TILE_CUH_
