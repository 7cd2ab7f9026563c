// Runs the CUDA kernels' tiles of indexed convolutions on the host, thread by thread, and compares
// with plain loops. Exits with 0 where all is well.

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <cute/tensor.hpp>
#include <string>
#include <vector>

#include "cuda/indexed_conv_gemm.cuh"
#include "cuda/indexed_conv_plain.cuh"
#include "cuda/indexed_conv_plan.h"
#include "row_problem.h"
#include "thread_block.h"

namespace {

using segblocks::Activation;
using segblocks::test::HostMachine;
using segblocks::test::Problem;
using segblocks::test::ProblemSize;
using segblocks::test::ThreadBlock;

int failures = 0;

void expect(bool ok, const std::string& what) {
  if (ok) return;
  std::printf("failed: %s\n", what.c_str());
  ++failures;
}

// Shared memory in which whatever was not written is NaN.
struct Shared {
  alignas(128) char bytes[232448];
  Shared() { std::memset(bytes, 0xff, sizeof(bytes)); }
};

constexpr int kBlocks = 2;

// In kBlocks clusters of so many blocks.
template <class Tile>
void check_tile(const char* name, const ProblemSize& size, int parts = 1) {
  for (const bool late : {false, true}) {
    const Problem<__nv_bfloat16> problem(size);
    const auto call = segblocks::cuda::tile_convolution(problem.call, parts);
    for (int cluster = 0; cluster < kBlocks; ++cluster) {
      const std::unique_ptr<Shared[]> memory(new Shared[parts]);
      std::vector<char*> shared;
      for (int part = 0; part < parts; ++part) shared.push_back(memory[part].bytes);
      ThreadBlock threads(Tile::kThreads, late, cluster + 2 * late, shared);
      threads.run([&](int thread) {
        const int part = thread / Tile::kThreads;
        segblocks::cuda::convolve<Tile, HostMachine>(call, shared[part], thread % Tile::kThreads,
                                                     cluster * parts + part, kBlocks * parts);
      });
    }
    expect(problem.convolved(), std::string(name) + ", " + std::to_string(parts) + " parts, " +
                                    (late ? "late copies" : "early copies"));
  }
}

void check_plain(const char* name, const ProblemSize& size) {
  using segblocks::cuda::PlainTile;
  const Problem<float> problem(size);
  const auto call = segblocks::cuda::plain_convolution<float>(problem.call);
  for (int block = 0; block < kBlocks; ++block) {
    auto shared = std::make_unique<Shared>();
    ThreadBlock threads(PlainTile::kThreads, false, block);
    threads.run([&](int thread) {
      segblocks::cuda::convolve_plain<HostMachine>(call, reinterpret_cast<float*>(shared->bytes),
                                                   thread, block, kBlocks);
    });
  }
  expect(problem.convolved(), std::string("float32 ") + name);
}

// Every element of a stage has a place of its own, and the loads of all threads write each once.
template <class Tile>
void check_layouts(const char* name) {
  const auto covers = [&](auto layout, int width, int columns, bool terms_adjacent) {
    std::vector<int> written(cute::cosize(layout));
    const int chunks = (terms_adjacent ? Tile::kDepth : width) / Tile::kChunk;
    const int step = Tile::kThreads / chunks;
    for (int stage = 0; stage < Tile::kStages; ++stage) {
      for (int thread = 0; thread < Tile::kThreads; ++thread) {
        const int first = thread % chunks * Tile::kChunk;
        for (int line = thread / chunks; line < columns; line += step) {
          for (int i = 0; i < Tile::kChunk; ++i) {
            const int place =
                terms_adjacent ? layout(line, first + i, stage) : layout(first + i, line, stage);
            // A chunk is moved as one.
            const int begin =
                terms_adjacent ? layout(line, first, stage) : layout(first, line, stage);
            expect(place == begin + i && begin % Tile::kChunk == 0,
                   std::string(name) + ": chunks are contiguous");
            ++written[place];
          }
        }
      }
    }
    for (const int count : written) expect(count == 1, std::string(name) + ": written once");
  };
  covers(typename Tile::Rows{}, Tile::kRows, Tile::kRows, true);
  covers(typename Tile::Weights{}, Tile::kColumns, Tile::kDepth, false);
}

// Plans exist for all sizes; few tiles are shared, many are not.
void check_plans() {
  using segblocks::cuda::plan;
  const auto parts = [](const segblocks::cuda::Product& product, int32_t max_parts,
                        int32_t processors) { return plan(product, max_parts, processors).parts; };
  expect(parts({1024, 512, 512, 9 * 512}, 8, 132) > 1, "few tiles are shared");
  expect(parts({1024, 512, 512, 9 * 512}, 1, 132) == 1, "as far as may be");
  expect(parts({1024, 512, 512, 9 * 512}, 8, 1) == 1, "one processor shares nothing");
  expect(parts({100000, 20000, 512, 9 * 512}, 8, 132) == 1, "many tiles are not shared");
  expect(parts({64, 64, 64, 64}, 8, 132) == 1, "few terms are not shared");
  for (const int64_t rows : {int64_t{0}, int64_t{1}, int64_t{1} << 20, int64_t{1} << 31}) {
    for (const int64_t terms : {0, 8, 576, 1 << 20}) {
      const auto best = plan({rows, rows, 64, terms}, 8, 132);
      expect(best.kind >= 0 && best.kind < 2 && best.parts >= 1 && best.parts <= 8, "a plan");
    }
  }
}

// Those of warp groups have room for the halo tile.
void check_group_plans() {
  using segblocks::cuda::kGroupKinds;
  using segblocks::cuda::max_group_parts;
  const auto best = [](int64_t places) {
    return segblocks::cuda::plan(kGroupKinds, {100000, 0, 64, 9 * 64, places}, 8, 132);
  };
  expect(best(340).kind == 1, "tiles of 64 columns");
  expect(best(1024).kind == 0, "tiles with room for 1024 places");
  expect(best(5000).clocks > 1e30, "no tile has room");
  expect(max_group_parts(40, 8) == 2 && max_group_parts(512, 4) == 4, "a slice for each part");
}

// The places that tiles read, by going through all of them, are no more than said.
void check_places() {
  using segblocks::cuda::kTileRows;
  for (const int64_t side : {3, 4, 6, 10, 13, 18, 34, 70, 134, 300}) {
    for (const int64_t window : {1, 3, 7}) {
      for (const int64_t stride : {1, 2}) {
        for (const int64_t dilation : {1, 3}) {
          const segblocks::Window taps{window, window, stride, dilation};
          const segblocks::UnitPatches patches{40, side, side + side % 3, nullptr};
          const auto map = taps.outputs(patches);
          const int64_t rows = map.area() * patches.capacity;
          const auto position = [&](int64_t row) {
            const int64_t pixel = row % map.area();
            return row / map.area() * patches.area() +
                   (pixel / map.width * patches.width + pixel % map.width) * stride;
          };
          int64_t most = 0;
          for (int64_t first = 0; first < rows; first += kTileRows) {
            const int64_t last = std::min(first + kTileRows, rows) - 1;
            most = std::max(most, position(last) - position(first) +
                                      (taps.extent_y() - 1) * patches.width + taps.extent_x());
          }
          expect(segblocks::cuda::most_places(taps, patches) >= most,
                 "places of sides of " + std::to_string(side));
        }
      }
    }
  }
  const segblocks::UnitPatches stem{51, 134, 134, nullptr};
  expect(segblocks::cuda::most_places({7, 7, 2}, stem) == 1741, "places of a stem");
}

}  // namespace

int main() {
  using segblocks::cuda::ConvTile;
  constexpr auto kNone = Activation::kNone;
  constexpr auto kRelu = Activation::kRelu;
  constexpr auto kRelu6 = Activation::kRelu6;
  const ProblemSize whole = {64,    64,   3,    1,     {3, 4}, {3, 4}, {{10, 10}, {6, 6}},
                             kRelu, true, true, false, true};
  const ProblemSize partly = {24,    72,   3,     1,    {4, 5}, {2, 3}, {{10, 9}, {6, 5}},
                              kNone, true, false, true, true};
  const ProblemSize second_only = {8,     130,   1,    1,    {1, 60}, {1, 55}, {{3, 5}, {2, 2}},
                                   kNone, false, true, true, false};
  const ProblemSize one_by_one = {72,     19,   1,     2,     {3, 2}, {3, 9}, {{9, 9}, {4, 4}},
                                  kRelu6, true, false, false, true};
  const ProblemSize wide = {16,    128,  5,    1,    {2, 1}, {2, 1}, {{12, 12}, {8, 8}},
                            kRelu, true, true, true, true};
  const ProblemSize stem = {3,     64,   7,     2,     {2, 2}, {2, 2}, {{21, 21}, {13, 13}},
                            kRelu, true, false, false, true};
  const ProblemSize padded_stem = {4,     64,   7,     2,     {2, 2}, {2, 2}, {{21, 21}, {13, 13}},
                                   kRelu, true, false, false, true};
  const ProblemSize odd = {19,    42,    3,    1,     {3, 0}, {2, 7}, {{9, 9}, {1, 1}},
                           kNone, false, true, false, true};
  const ProblemSize quads = {12,    40,   3,    2,    {0, 9}, {-1, 9}, {{0, 0}, {9, 9}},
                             kRelu, true, true, true, true};
  const ProblemSize nothing = {8,     16,   3,     1,     {2, 2}, {0, -3}, {{5, 5}, {5, 5}},
                               kRelu, true, false, false, true};
  const ProblemSize no_channels = {0,     16,   3,     1,     {2, 2}, {2, 2}, {{5, 5}, {5, 5}},
                                   kRelu, true, false, false, true};

  const ProblemSize dilated = {24,    72,   3,     1,    {4, 5}, {2, 3}, {{17, 15}, {16, 15}},
                               kNone, true, false, true, true,   7};
  const ProblemSize dilated_odd = {19,    42,    3,    2,     {3, 2}, {2, 2}, {{9, 9}, {7, 8}},
                                   kNone, false, true, false, true,   2};

  using Narrow = ConvTile<256, 64, 8, true>;
  using Wide = ConvTile<256, 128, 8, true>;
  using Quads = ConvTile<256, 64, 4, true>;
  using Scalar = ConvTile<256, 64, 1, false>;
  using FoundNarrow = ConvTile<256, 64, 8, false>;
  using FoundQuads = ConvTile<256, 64, 4, false>;
  check_layouts<Narrow>("256 x 64");
  check_layouts<Wide>("256 x 128");
  check_tile<Narrow>("3 x 3, 64 to 64", whole);
  check_tile<Narrow>("partly live", partly);
  check_tile<Narrow>("second output alone", second_only);
  check_tile<Narrow>("1 x 1 by strides of 2", one_by_one);
  check_tile<Narrow>("nothing live", nothing);
  check_tile<Narrow>("no channels", no_channels);
  check_tile<Narrow>("dilated", dilated);
  check_tile<Wide>("5 x 5, 128 columns", wide);
  check_tile<Wide>("128 columns, partly live", partly);
  for (const int parts : {2, 4, 8}) {
    check_tile<Narrow>("3 x 3, 64 to 64", whole, parts);
    check_tile<Narrow>("partly live", partly, parts);
    check_tile<Narrow>("nothing live", nothing, parts);
    check_tile<Narrow>("1 x 1 by strides of 2", one_by_one, parts);
    check_tile<Wide>("128 columns, partly live", partly, parts);
  }
  check_tile<FoundNarrow>("partly live, found", partly);
  check_tile<FoundNarrow>("dilated, found", dilated);
  check_tile<Quads>("stem of four channels", padded_stem);
  check_tile<FoundQuads>("channels by four, found", quads);
  check_tile<Scalar>("channels by four, one by one", quads);
  check_tile<Scalar>("stem", stem);
  check_tile<Scalar>("odd channels", odd);
  check_tile<Scalar>("dilated, odd channels", dilated_odd);
  check_places();
  check_plans();
  check_group_plans();
  for (const auto& [name, size] :
       {std::pair{"3 x 3", partly}, std::pair{"stem", stem}, std::pair{"odd channels", odd},
        std::pair{"wide", wide}, std::pair{"no channels", no_channels},
        std::pair{"dilated", dilated}, std::pair{"dilated, odd channels", dilated_odd},
        std::pair{"nothing live", nothing}}) {
    check_plain(name, size);
  }
  return failures == 0 ? 0 : 1;
}
