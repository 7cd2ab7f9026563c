// An indexed convolution on tensor cores: a persistent loop over tiles, each one an implicit matrix
// product with several stages of loads in flight.

#ifndef SEGBLOCKS_CUDA_INDEXED_CONV_GEMM_CUH_
#define SEGBLOCKS_CUDA_INDEXED_CONV_GEMM_CUH_

#include <cstdint>
#include <cute/tensor.hpp>

#include "cuda/epilogue.cuh"
#include "cuda/indexed_conv_loads.cuh"

namespace segblocks::cuda {

// Sums up a tile's products: sums += rows * weights.
template <class Tile, class Machine, class Sums>
__device__ void multiply(RowLoad<Tile, Machine>& row_load, WeightLoad<Tile, Machine>& weight_load,
                         typename Tile::Element* rows, typename Tile::Element* weights,
                         int32_t stages, int thread, Sums& sums) {
  using namespace cute;
  int32_t to_load = stages;
  int free = 0;  // The stage that is loaded next,
  int full = 0;  // and the one that is multiplied.
  const auto behind = [](int stage) { return stage == Tile::kStages - 1 ? 0 : stage + 1; };
  const auto load = [&] {
    if (--to_load >= 0) {
      row_load.load(free);
      weight_load.load(free);
      free = behind(free);
    }
    Machine::commit();  // Empty ones, too: the waits count them.
  };

  const Tensor shared_rows = make_tensor(make_smem_ptr(rows), typename Tile::Rows{});
  const Tensor shared_weights = make_tensor(make_smem_ptr(weights), typename Tile::Weights{});
  const typename Tile::template Mma<Machine> mma;
  const auto mine = mma.get_thread_slice(thread);
  Tensor a = mine.partition_fragment_A(shared_rows(_, _, 0));
  Tensor b = mine.partition_fragment_B(shared_weights(_, _, 0));
  const auto copy_a =
      make_tiled_copy_A(Copy_Atom<typename Machine::LoadRows, typename Tile::Element>{}, mma);
  const auto copy_b =
      make_tiled_copy_B(Copy_Atom<typename Machine::LoadWeights, typename Tile::Element>{}, mma);
  const auto thread_a = copy_a.get_thread_slice(thread);
  const auto thread_b = copy_b.get_thread_slice(thread);
  const Tensor from_a = thread_a.partition_S(shared_rows);
  const Tensor from_b = thread_b.partition_S(shared_weights);
  Tensor to_a = thread_a.retile_D(a);
  Tensor to_b = thread_b.retile_D(b);
  const auto fetch = [&](int32_t stage, int step) {
    copy(copy_a, from_a(_, _, step, stage), to_a(_, _, step));
    copy(copy_b, from_b(_, _, step, stage), to_b(_, _, step));
  };
  constexpr int kSteps = Tile::kDepth / 16;

  CUTE_NO_UNROLL
  for (int k = 0; k < Tile::kStages - 1; ++k) load();
  Machine::template wait<Tile::kStages - 2>();
  Machine::sync();
  fetch(0, 0);

  CUTE_NO_UNROLL
  for (int32_t k = 0; k < stages; ++k) {
    CUTE_UNROLL
    for (int step = 0; step < kSteps; ++step) {
      if (step == kSteps - 1) {
        // This stage is read; the next one has to be there.
        Machine::template wait<Tile::kStages - 2>();
        Machine::sync();
        full = behind(full);
      }
      // Behind the last stage this reads what is not used.
      fetch(full, (step + 1) % kSteps);
      // Behind the barrier that has freed the stage before.
      if (step == 0) load();
      gemm(mma, a(_, _, step), b(_, _, step), sums);
    }
  }
  // Behind every read of the stages, whose memory is used again. All copies have been waited for.
  Machine::sync();
}

// The sum of what the parts of a tile hold at `sums`, always in the same order.
template <class Machine, int kLoad>
__device__ Vector<float, kLoad> total(int32_t parts, const float* sums) {
  if (parts == 1) return load<float, kLoad>(sums);
  auto sum = Machine::template load_of<kLoad>(0, sums);
  for (int32_t part = 1; part < parts; ++part) {
    const auto more = Machine::template load_of<kLoad>(part, sums);
#pragma unroll
    for (int i = 0; i < kLoad; ++i) sum.values[i] += more.values[i];
  }
  return sum;
}

// The sums of kWidth columns of a row, from shared memory.
template <class Tile, class Machine, int kWidth>
__device__ void row_sums(int32_t parts, const float* sums, int row, int column,
                         float (&values)[kWidth]) {
  constexpr int kLoad = kWidth % 4 == 0 ? 4 : 1;
#pragma unroll
  for (int k = 0; k < kWidth; k += kLoad) {
    const auto sum = total<Machine, kLoad>(parts, sums + typename Tile::Sums{}(row, column + k));
#pragma unroll
    for (int i = 0; i < kLoad; ++i) values[k + i] = sum.values[i];
  }
}

// Writes the live rows of a tile, or this part's share of them, from sums in shared memory, kWidth
// channels at once.
template <class Tile, class Machine, int kWidth>
__device__ void write_tile(const TileConvolution& call, int32_t part, const float* sums,
                           const TileRows& rows, int32_t first_column, int thread) {
  constexpr int kChunks = Tile::kColumns / kWidth;
  constexpr int kStep = Tile::kThreads / kChunks;
  const int column = thread % kChunks * kWidth;
  if (first_column + column >= call.epilogue.features) return;
  const Finish<__nv_bfloat16, kWidth> finish(call.epilogue, first_column + column);
  const int share = Tile::kRows / call.parts;
  const int end = min_int32((part + 1) * share, rows.end - rows.first);
#pragma unroll 2
  for (int row = part * share + thread / kChunks; row < end; row += kStep) {
    float values[kWidth];
    row_sums<Tile, Machine>(call.parts, sums, row, column, values);
    finish.write(rows.first + row, values);
  }
}

// As write_tile for rows of high units, in cells of 2 x 2 outputs, whose means are lent.
template <class Tile, class Machine>
__device__ void write_cells(const TileConvolution& call, int32_t part, const float* sums,
                            const TileRows& rows, int32_t first_column, int thread) {
  using T = __nv_bfloat16;
  constexpr int kWidth = Tile::kChunk;
  constexpr int kChunks = Tile::kColumns / kWidth;
  constexpr int kStep = Tile::kThreads / kChunks;
  part = not_before(part);
  thread = not_before(thread);
  LentRing<T> lent = call.lent;
  lent.side = not_before(lent.side);
  lent.edge = not_before(lent.edge);
  const int column = thread % kChunks * kWidth;
  if (first_column + column >= call.epilogue.features) return;
  const Finish<T, kWidth> finish(call.epilogue, first_column + column);
  const int32_t width = 2 * lent.side;
  const int share = Tile::kRows / call.parts;
  const int end = min_int32((part + 1) * share, rows.end - rows.first) / 4;
  for (int number = part * share / 4 + thread / kChunks; number < end; number += kStep) {
    const OutputCell cell(call.tables.high, rows.first / 4 + number);
    VectorSum<T, kWidth> mean;
#pragma unroll 1  // Unrolled, the kernel spills registers.
    for (int k = 0; k < 4; ++k) {
      const int32_t row = cell.row + k / 2 * width + k % 2;
      float values[kWidth];
      row_sums<Tile, Machine>(call.parts, sums, row - rows.first, column, values);
      mean.add(finish.write(row, values, lent.second), 1.0f);
    }
    const int32_t halo = lent.number(cell.unit, cell.y, cell.x);
    if (halo < 0) continue;
    const int64_t place = int64_t{halo} * call.epilogue.features + first_column + column;
    mean.write(0.25f, lent.halos + place);
  }
}

// Finishes a tile whose sums the threads have written to shared memory.
template <class Tile, class Machine>
__device__ void finish_tile(const TileConvolution& call, int32_t part, const float* sums,
                            const TileRows& rows, int32_t first_column, int thread) {
  call.parts == 1 ? Machine::sync() : Machine::sync_cluster();
  if (rows.high && call.lent.any()) {
    write_cells<Tile, Machine>(call, part, sums, rows, first_column, thread);
  } else if (call.wide_output) {
    write_tile<Tile, Machine, Tile::kChunk>(call, part, sums, rows, first_column, thread);
  } else {
    write_tile<Tile, Machine, 1>(call, part, sums, rows, first_column, thread);
  }
  // The sums are read before others take their place.
  if (call.parts > 1) Machine::sync_cluster();
}

// What block `block` of `blocks` does; these are multiples of the parts. `shared`:
// Tile::kSharedBytes bytes.
template <class Tile, class Machine>
__device__ void convolve(const TileConvolution& call, char* shared, int thread, int32_t block,
                         int32_t blocks) {
  auto* rows = reinterpret_cast<typename Tile::Element*>(shared);
  auto* weights = reinterpret_cast<typename Tile::Element*>(shared + Tile::kRowBytes);
  char* const table = shared + Tile::kRowBytes + Tile::kWeightBytes;
  auto* sums = reinterpret_cast<float*>(shared);

  const int32_t across = (call.epilogue.features + Tile::kColumns - 1) / Tile::kColumns;
  const RowTiles<Tile> row_tiles(call.tables.live());
  const int32_t tiles = row_tiles.all * across;
  const int32_t stages = (call.terms + Tile::kDepth - 1) / Tile::kDepth;
  const int32_t part = block % call.parts;
  const int32_t first_stage = stages * part / call.parts;
  const int32_t end_stage = stages * (part + 1) / call.parts;
  for (int32_t tile = block / call.parts; tile < tiles; tile += blocks / call.parts) {
    const TileRows mine = row_tiles.rows(tile / across);
    const int32_t first_column = tile % across * Tile::kColumns;
    const int32_t first_term = first_stage * Tile::kDepth;
    RowLoad<Tile, Machine> row_load(call, row_tiles.live, mine, first_term, rows, table, thread);
    WeightLoad<Tile, Machine> weight_load(call, first_term, weights, first_column, thread);
    const typename Tile::template Mma<Machine> mma;
    auto accumulators = cute::partition_fragment_C(
        mma, cute::Shape<cute::Int<Tile::kRows>, cute::Int<Tile::kColumns>>{});
    cute::clear(accumulators);
    multiply(row_load, weight_load, rows, weights, end_stage - first_stage, thread, accumulators);

    const auto tile_sums = cute::make_tensor(cute::make_smem_ptr(sums), typename Tile::Sums{});
    auto my_sums = mma.get_thread_slice(thread).partition_C(tile_sums);
    cute::copy(cute::AutoVectorizingCopyWithAssumedAlignment<64>{}, accumulators, my_sums);
    // Found again, so that the products have their registers.
    const int32_t done = not_before(tile);
    const TileRows written = row_tiles.rows(done / across);
    const int32_t column = done % across * Tile::kColumns;
    finish_tile<Tile, Machine>(call, part, sums, written, column, thread);
  }
}

}  // namespace segblocks::cuda

#endif  // SEGBLOCKS_CUDA_INDEXED_CONV_GEMM_CUH_
