// Runs the CUDA kernels' tiles of indexed convolutions on the host, thread by thread, and compares
// with plain loops. Exits with 0 where all is well.

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <cute/tensor.hpp>
#include <string>
#include <vector>

#include "cuda/indexed_conv_gemm.cuh"
#include "cuda/indexed_conv_plain.cuh"
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

template <class Tile>
void check_tile(const char* name, const ProblemSize& size) {
  for (const bool late : {false, true}) {
    const Problem<__nv_bfloat16> problem(size);
    const auto call = segblocks::cuda::tile_convolution(problem.call);
    for (int block = 0; block < kBlocks; ++block) {
      auto shared = std::make_unique<Shared>();
      ThreadBlock threads(Tile::kThreads, late, block + 2 * late);
      threads.run([&](int thread) {
        segblocks::cuda::convolve<Tile, HostMachine>(call, shared->bytes, thread, block, kBlocks);
      });
    }
    expect(problem.convolved(), std::string(name) + (late ? ", late copies" : ", early copies"));
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

  check_layouts<ConvTile<64, 8>>("64 x 8");
  check_layouts<ConvTile<128, 8>>("128 x 8");
  check_layouts<ConvTile<64, 1>>("64 x 1");
  check_tile<ConvTile<64, 8>>("3 x 3, 64 to 64", whole);
  check_tile<ConvTile<64, 8>>("partly live", partly);
  check_tile<ConvTile<64, 8>>("second output alone", second_only);
  check_tile<ConvTile<64, 8>>("1 x 1 by strides of 2", one_by_one);
  check_tile<ConvTile<64, 8>>("nothing live", nothing);
  check_tile<ConvTile<64, 8>>("no channels", no_channels);
  check_tile<ConvTile<128, 8>>("5 x 5, 128 columns", wide);
  check_tile<ConvTile<128, 8>>("128 columns, partly live", partly);
  check_tile<ConvTile<64, 4>>("channels by four", quads);
  check_tile<ConvTile<64, 1>>("channels by four, one by one", quads);
  check_tile<ConvTile<64, 1>>("stem", stem);
  check_tile<ConvTile<64, 1>>("odd channels", odd);
  check_tile<ConvTile<64, 8>>("dilated", dilated);
  check_tile<ConvTile<64, 1>>("dilated, odd channels", dilated_odd);
  for (const auto& [name, size] :
       {std::pair{"3 x 3", partly}, std::pair{"stem", stem}, std::pair{"odd channels", odd},
        std::pair{"wide", wide}, std::pair{"no channels", no_channels},
        std::pair{"dilated", dilated}, std::pair{"dilated, odd channels", dilated_odd},
        std::pair{"nothing live", nothing}}) {
    check_plain(name, size);
  }
  return failures == 0 ? 0 : 1;
}
