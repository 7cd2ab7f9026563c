// An indexed convolution by products of warp groups (wgmma, sm_90a): a persistent loop over tiles.
//
// Channels are taken in slices. All rows that a tile's windows cover, its halo tile, are copied to
// shared memory once for each slice, and every tap finds its rows there. These come through
// registers: how far apart a tap's rows lie changes from line to line and from unit to unit of a
// tile, where a descriptor of a matrix in shared memory knows one distance. Weights come by
// descriptors.

#ifndef SEGBLOCKS_CUDA_INDEXED_CONV_GROUPS_CUH_
#define SEGBLOCKS_CUDA_INDEXED_CONV_GROUPS_CUH_

#include <cstdint>
#include <cute/tensor.hpp>

#include "cuda/indexed_conv_gemm.cuh"
#include "cuda/indexed_conv_group_loads.cuh"

namespace segblocks::cuda {

// Sums up a tile's products of `slices` slices: sums += rows * weights.
template <class Tile, class Machine, class Sums>
__device__ void multiply(const TileConvolution& call, HaloTiles<Tile, Machine>& halo,
                         GroupWeights<Tile, Machine>& weight_load, typename Tile::Element* weights,
                         int32_t patch_width, int32_t slices, int thread, Sums& sums) {
  using namespace cute;
  constexpr int kTiles = Tile::kRows / (64 * Tile::kGroups);  // Of 64 rows, of a warp group.
  constexpr int kSteps = Tile::kDepth / 16;
  int32_t to_load = slices * call.taps;
  uint32_t free = 0;  // The stage of weights that is loaded next,
  uint32_t full = 0;  // and the one that is multiplied.
  const auto load_weights = [&] {
    if (--to_load < 0) return;
    weight_load.load(static_cast<int>(free));
    free = (free + 1) % Tile::kStages;
  };

  const typename Tile::Mma mma;
  const auto mine = mma.get_thread_slice(thread);
  const Tensor b = mine.partition_fragment_B(
      make_tensor(make_smem_ptr(weights), typename Tile::DescribedWeights{}));
  Tensor a =
      make_tensor<typename Tile::Element>(Shape<Shape<_2, _2, _2>, Int<kTiles>, Int<kSteps>>{});
  Tensor a_words = recast<uint32_t>(a);
  // As ldmatrix wants them: a lane for each row, and for each half of 16 terms.
  int32_t origins[kTiles];
  CUTE_UNROLL
  for (int i = 0; i < kTiles; ++i) {
    origins[i] =
        halo.origin((i * Tile::kGroups + thread / 128) * 64 + thread % 128 / 32 * 16 + thread % 16);
  }
  const int half = thread % 32 / 16;

  int loaded = 0;  // The slice's buffer that is loaded next,
  int read = 0;    // and the one that is multiplied.
  int32_t slices_to_load = slices;
  for (int i = 0; i < Tile::kStages - 2; ++i) {
    if (i < halo.ahead() && slices_to_load > 0) {
      halo.load(loaded);
      loaded = halo.behind(loaded);
      --slices_to_load;
    }
    load_weights();
    Machine::commit();
  }
  int32_t tap = 0;
  int32_t offset = 0;  // Of the tap's places behind the first one's.
  int column = 0;
  CUTE_NO_UNROLL
  for (int32_t k = slices * call.taps; k > 0; --k) {
    // This stage of weights is there, and the slice. All threads have read the slice before this
    // one, and all products of the stage before the last one are done.
    Machine::template wait<Tile::kStages - 3>();
    Machine::fence_copies();
    Machine::sync();
    load_weights();
    if (slices_to_load > 0) halo.load_part(loaded);
    Machine::commit();  // Empty ones, too: the waits count them.

    const char* const from = halo.buffer_of(read);
    CUTE_UNROLL
    for (int step = 0; step < kSteps; ++step) {
      // The products before the last ones are done, and their registers free.
      warpgroup_wait<1>();
      CUTE_UNROLL
      for (int i = 0; i < kTiles; ++i) {
        // Two chunks are 16 terms.
        const uint32_t at =
            halo.place_of(origins[i] + offset, half) ^ (2 * step * halo.kChunkBytes);
        Machine::LoadRows::copy(*reinterpret_cast<const uint128_t*>(from + at), a_words(0, i, step),
                                a_words(1, i, step), a_words(2, i, step), a_words(3, i, step));
      }
      warpgroup_arrive();
      gemm(mma, a(_, _, step), b(_, _, step, static_cast<int>(full)), sums);
      warpgroup_commit_batch();
    }
    full = (full + 1) % Tile::kStages;
    offset += call.tables.dilation;
    if (++column == call.window_width.value()) {
      column = 0;
      offset += call.tables.dilation * (patch_width - call.window_width.value());
    }
    if (++tap < call.taps) continue;
    tap = offset = column = 0;
    read = halo.behind(read);
    loaded = halo.behind(loaded);
    --slices_to_load;
    halo.advance();
  }
  warpgroup_wait<0>();
  warpgroup_fence_operand(sums);
  // Behind every read of the stages, whose memory is used again. All copies have been waited for.
  Machine::sync();
}

// What block `block` of `blocks` does; these are multiples of the parts. `shared`:
// Tile::kSharedBytes bytes, from a multiple of 1,024 on.
template <class Tile, class Machine>
__device__ void convolve_by_groups(const TileConvolution& call, char* shared, int thread,
                                   int32_t block, int32_t blocks) {
  auto* const weights = reinterpret_cast<typename Tile::Element*>(shared);
  char* const halos = shared + Tile::kWeightBytes;
  char* const table = halos + Tile::kRowBytes;
  auto* const sums = reinterpret_cast<float*>(shared);

  const int32_t across = (call.epilogue.features + Tile::kColumns - 1) / Tile::kColumns;
  const RowTiles<Tile> row_tiles(call.tables.live());
  const int32_t tiles = row_tiles.all * across;
  const int32_t slices = slices_of(call.input.channels);
  const int32_t part = block % call.parts;
  const int32_t first = slices * part / call.parts;
  const int32_t end = slices * (part + 1) / call.parts;
  for (int32_t tile = block / call.parts; tile < tiles; tile += blocks / call.parts) {
    const TileRows rows = row_tiles.rows(tile / across);
    const int32_t first_column = tile % across * Tile::kColumns;
    HaloTiles<Tile, Machine> halo(call, row_tiles.live, rows, first, halos, table, thread);
    GroupWeights<Tile, Machine> weight_load(call, first, weights, first_column, thread);
    const typename Tile::Mma mma;
    auto accumulators = cute::partition_fragment_C(
        mma, cute::Shape<cute::Int<Tile::kRows>, cute::Int<Tile::kColumns>>{});
    cute::clear(accumulators);
    const int32_t patch_width = (rows.high ? call.tables.high : call.tables.low).patch_width;
    multiply(call, halo, weight_load, weights, patch_width, end - first, thread, accumulators);

    const auto tile_sums = cute::make_tensor(cute::make_smem_ptr(sums), typename Tile::Sums{});
    auto my_sums = mma.get_thread_slice(thread).partition_C(tile_sums);
    cute::copy(cute::AutoVectorizingCopyWithAssumedAlignment<64>{}, accumulators, my_sums);
    finish_tile<Tile, Machine>(call, part, sums, rows, first_column, thread);
  }
}

}  // namespace segblocks::cuda

#endif  // SEGBLOCKS_CUDA_INDEXED_CONV_GROUPS_CUH_
