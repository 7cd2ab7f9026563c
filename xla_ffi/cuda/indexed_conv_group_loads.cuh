// A tile of products of warp groups, and what its threads load of it: rows and weights.

#ifndef SEGBLOCKS_CUDA_INDEXED_CONV_GROUP_LOADS_CUH_
#define SEGBLOCKS_CUDA_INDEXED_CONV_GROUP_LOADS_CUH_

#include <cstdint>
#include <cute/atom/mma_traits_sm90_gmma.hpp>
#include <cute/tensor.hpp>
#include <limits>
#include <type_traits>

#include "cuda/indexed_conv_plan.h"
#include "cuda/indexed_conv_tile.cuh"

namespace segblocks::cuda {

// Tiles of 256 rows; each warp group has 128 x 128 of their sums, or 256 x 64.
template <int kColumns_>
struct GroupTile {
  using Element = cute::bfloat16_t;

  static constexpr int kRows = kTileRows;
  static constexpr int kColumns = kColumns_;
  static constexpr TileKind kKind = kGroupKinds[kColumns == 128 ? 0 : 1];
  static constexpr int kDepth = kSliceChannels;  // Terms of the sums in a stage: a slice of a tap.
  static constexpr int kStages = 4;              // Of weights.
  static constexpr int kGroups = kColumns / 64;
  static constexpr int kThreads = 128 * kGroups;
  static constexpr int kResident = kKind.resident;
  static constexpr int kChunk = 8;  // Elements in 16 bytes.
  static constexpr int kPlaces = kKind.places;

  // Columns are adjacent, 64 of them in the 128 bytes that are swizzled. The first layout counts
  // elements; the second one, the same, is what descriptors are made of.
  using WeightShape = cute::Shape<cute::Int<kColumns>, cute::Int<kDepth>, cute::Int<kStages>>;
  using WeightAtom = decltype(cute::composition(
      cute::Swizzle<3, 3, 3>{},
      cute::Layout<cute::Shape<cute::_64, cute::_8>, cute::Stride<cute::_1, cute::_64>>{}));
  using Weights = decltype(cute::tile_to_shape(WeightAtom{}, WeightShape{}));
  using DescribedWeights = decltype(cute::tile_to_shape(
      cute::SM90::GMMA::Layout_MN_SW128_Atom<Element>{}, WeightShape{}));
  // As ConvTile has it.
  using Sums = cute::Layout<cute::Shape<cute::Int<kRows>, cute::Int<kColumns>>,
                            cute::Stride<cute::Int<kColumns + 8>, cute::_1>>;

  static constexpr int kPlaceBytes = kDepth * sizeof(Element);
  static constexpr int kRowBytes = 2 * kPlaces * kPlaceBytes;
  static constexpr int kWeightBytes = kColumns * kDepth * kStages * sizeof(Element);
  static constexpr int kSumBytes = cute::cosize_v<Sums> * sizeof(float);
  static_assert(kSumBytes <= kRowBytes + kWeightBytes, "the sums reuse the stages' memory");
  static_assert(3 * kRows <= 2 * kPlaces, "three slices of windows of one tap");
  static constexpr int kTableBytes = kPlaces * sizeof(int64_t) + kRows * sizeof(int32_t);
  static constexpr int kSharedBytes = kWeightBytes + kRowBytes + kTableBytes;

  using Multiply = std::conditional_t<kColumns == 128,
                                      cute::SM90::GMMA::MMA_64x128x16_F32BF16BF16_RS<
                                          cute::SM90::GMMA::Major::K, cute::SM90::GMMA::Major::MN>,
                                      cute::SM90::GMMA::MMA_64x64x16_F32BF16BF16_RS<
                                          cute::SM90::GMMA::Major::K, cute::SM90::GMMA::Major::MN>>;
  using Mma = cute::TiledMMA<cute::MMA_Atom<Multiply>,
                             cute::Layout<cute::Shape<cute::Int<kGroups>, cute::_1, cute::_1>>>;
};

// The halo tiles in shared memory, one for each slice of channels: a place for each index from that
// of the tile's first window to that of its last one; of windows of one tap, for each row. The four
// chunks of a place change places, so that those of eight neighbors lie in different banks.
template <class Tile, class Machine>
class HaloTiles {
  static constexpr int kChunks = Tile::kDepth / Tile::kChunk;
  static constexpr int kStep = Tile::kThreads / kChunks;
  static_assert(kStep % 8 == 0, "the swizzle of a thread's places is the same");

 public:
  // From slice `slice` on. `table`: Tile::kTableBytes bytes. All threads meet.
  __device__ HaloTiles(const TileConvolution& call, const LiveRows& live, const TileRows& rows,
                       int32_t slice, char* memory, char* table, int thread)
      : memory_(memory),
        single_(call.taps == 1),
        to_(place_of(thread / kChunks, thread % kChunks)),
        left_(call.input.channels - slice * Tile::kDepth - thread % kChunks * Tile::kChunk),
        channel_(slice * Tile::kDepth + thread % kChunks * Tile::kChunk) {
    auto* const places = reinterpret_cast<int64_t*>(table);
    auto* const origins = reinterpret_cast<int32_t*>(places + Tile::kPlaces);
    const WindowTables::Size& size = rows.high ? call.tables.high : call.tables.low;
    // Rows behind the last one are computed from it, and not written.
    const auto position = [&](int row) {
      return call.tables.position(live, min_int32(rows.first + row, rows.end - 1));
    };
    const int32_t first = position(0);
    const int32_t reach = position(Tile::kRows - 1) + call.reach(size) - first;
    const int32_t count = single_ ? Tile::kRows : reach + 1;
    for (int32_t i = thread; i < count; i += Tile::kThreads) {
      const int32_t index = size.indices[single_ ? position(i) : first + i];
      const auto place = reinterpret_cast<int64_t>(call.input.row(index));
      places[i] = call.input.has(index) ? place : place | kNothing;
    }
    for (int row = thread; row < Tile::kRows; row += Tile::kThreads) {
      origins[row] = single_ ? row : position(row) - first;
    }
    places_ = places + thread / kChunks;
    origins_ = origins;
    mine_ = (count - thread / kChunks + kStep - 1) / kStep;
    // All taps of a window but the last one load a part of the next slice.
    const int32_t parts = call.taps > 2 ? call.taps - 1 : 1;
    part_ = (count + kStep * parts - 1) / (kStep * parts);
    Machine::sync();
  }

  // How many slices are loaded ahead of the one that is multiplied. Windows of one tap leave no
  // time to load one meanwhile, and have room for a third.
  __device__ int ahead() const { return single_ ? 2 : 1; }
  __device__ int behind(int buffer) const { return buffer == ahead() ? 0 : buffer + 1; }
  // Of a row's window.
  __device__ int32_t origin(int row) const { return origins_[row]; }

  // Loads a part of a slice; behind the last part nothing. Then advance() leads to the next slice.
  __device__ void load_part(int buffer) {
    char* const to = buffer_of(buffer) + to_;
#pragma unroll 1
    for (const int32_t end = min_int32(next_ + part_, mine_); next_ < end; ++next_) {
      const int32_t place = next_ * kStep;
      const int64_t from = places_[place];
      // An address that is not read may be any.
      Machine::template copy_row<Tile::kChunk>(
          to + place * Tile::kPlaceBytes,
          reinterpret_cast<const void*>(from + int64_t{channel_} * kElementBytes),
          left_ > 0 && from >= 0);
    }
  }
  __device__ void advance() {
    next_ = 0;
    left_ -= Tile::kDepth;
    channel_ += Tile::kDepth;
  }
  __device__ void load(int buffer) {
    while (next_ < mine_) load_part(buffer);
    advance();
  }

  // Where a chunk of a place lies in a slice: exclusive or of the place's bits and of the chunk's.
  __device__ static uint32_t place_of(uint32_t place, uint32_t chunk) {
    constexpr uint32_t kMask = (kChunks - 1) * kChunkBytes;
    return place * Tile::kPlaceBytes + ((place * (kChunkBytes / 2) & kMask) ^ chunk * kChunkBytes);
  }
  static constexpr uint32_t kChunkBytes = 16;
  __device__ char* buffer_of(int buffer) const {
    return memory_ + buffer * (single_ ? Tile::kRows : Tile::kPlaces) * Tile::kPlaceBytes;
  }

 private:
  static constexpr int64_t kNothing = std::numeric_limits<int64_t>::min();
  static constexpr int kElementBytes = sizeof(__nv_bfloat16);

  char* memory_;
  bool single_;  // Windows of one tap.
  int32_t to_;
  int32_t left_;  // Channels, from this thread's first one of the slice on.
  int32_t channel_;
  const int64_t* places_;  // From this thread's first one on.
  const int32_t* origins_;
  int32_t mine_;  // This thread's places: each kStep-th one.
  int32_t part_;  // How many of them are loaded at once.
  int32_t next_ = 0;
};

// A thread's part in loading stages of weights: 8 columns of each kStep-th channel.
template <class Tile, class Machine>
class GroupWeights {
  static constexpr int kPanel = static_cast<int>(IndexedConvCall::kPanel);
  static constexpr int kChunks = Tile::kColumns / Tile::kChunk;
  static constexpr int kStep = Tile::kThreads / kChunks;
  static_assert(kStep % 8 == 0, "the swizzle of a thread's channels is the same");

 public:
  __device__ GroupWeights(const TileConvolution& call, int32_t slice,
                          typename Tile::Element* stages, int32_t first_column, int thread)
      : taps_(call.taps), channels_(call.input.channels) {
    const int row = thread / kChunks;
    const int32_t column = first_column + thread % kChunks * Tile::kChunk;
    const int32_t channel = slice * Tile::kDepth + row;
    to_ = stages + typename Tile::Weights{}(column - first_column, row, 0);
    from_ = call.weights + (static_cast<int64_t>(column / kPanel) * call.terms + channel) * kPanel +
            column % kPanel;
    // The last panel ends with zeros; behind it there is nothing.
    left_ = column < call.epilogue.features ? channels_ - channel : 0;
  }

  // The next tap's; behind the last one the next slice's.
  __device__ void load(int stage) {
    typename Tile::Element* const to = to_ + typename Tile::Weights{}(0, 0, stage);
#pragma unroll
    for (int row = 0; row < Tile::kDepth; row += kStep) {
      Machine::copy_weights(to + typename Tile::Weights{}(0, row, 0), from_ + row * kPanel,
                            left_ > row);
    }
    int32_t step = channels_;
    if (++tap_ == taps_) {
      tap_ = 0;
      left_ -= Tile::kDepth;
      step = Tile::kDepth - (taps_ - 1) * channels_;
    }
    from_ += step * kPanel;
  }

 private:
  int32_t taps_;
  int32_t channels_;
  typename Tile::Element* to_;
  const __nv_bfloat16* from_;
  int32_t left_;  // Channels, from this thread's first one of the slice on.
  int32_t tap_ = 0;
};

}  // namespace segblocks::cuda

#endif  // SEGBLOCKS_CUDA_INDEXED_CONV_GROUP_LOADS_CUH_
