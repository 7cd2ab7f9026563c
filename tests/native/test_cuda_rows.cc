// Runs what the threads of the CUDA kernels of halos, pooling, upsampling, depthwise convolutions
// and index tables do, item by item, and compares with plain loops. Exits with 0 where all is well.

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <string>
#include <vector>

#include "cuda/index_tables.cuh"
#include "cuda/indexed_conv_plain.cuh"
#include "cuda/max_pool.cuh"
#include "cuda/rows.cuh"
#include "cuda/upsample2.cuh"
#include "row_problem.h"

namespace {

using segblocks::Activation;
using segblocks::LiveRows;
using segblocks::UnitOutputs;
using segblocks::UnitPatches;
using segblocks::test::number;
using segblocks::test::Problem;
using segblocks::test::ProblemSize;
using segblocks::test::rounded;

int failures = 0;

void expect(bool ok, const std::string& what) {
  if (ok) return;
  std::printf("failed: %s\n", what.c_str());
  ++failures;
}

// Calls item(row, first channel) for all.
template <int kWidth, typename Item>
void for_all(int32_t rows, int64_t channels, const Item& item) {
  for (int32_t row = 0; row < rows; ++row) {
    for (int32_t channel = 0; channel < channels; channel += kWidth) item(row, channel);
  }
}

template <typename T, int kWidth>
void check_halos(const std::string& name, const ProblemSize& size) {
  const Problem<T> problem(size);
  const segblocks::IndexedRows& input = problem.call.input;
  const segblocks::cuda::HaloRows<T> call{
      segblocks::row_list<T>(input), input.means, static_cast<int32_t>(input.halo_reads),
      static_cast<int32_t>(input.num_halos), static_cast<T*>(input.halos)};
  std::vector<float> before;
  for_all<1>(call.count, size.channels,
             [&](int32_t g, int32_t c) { before.push_back(problem.halo(g, c)); });
  for_all<kWidth>(call.count, size.channels,
                  [&](int32_t g, int32_t c) { segblocks::cuda::average<T, kWidth>(call, g, c); });
  for_all<1>(call.count, size.channels, [&](int32_t g, int32_t c) {
    const bool used = input.means[g * input.halo_reads] >= 0;
    const float expected = used ? problem.mean(g, c) : before[g * size.channels + c];
    expect(problem.halo(g, c) == expected, name + ": halos");
  });
}

template <typename T, int kWidth>
void check_pool(const std::string& name, const ProblemSize& size) {
  const Problem<T> problem(size);
  const segblocks::MaxPoolCall pooling = problem.pooling();
  const segblocks::cuda::MaxPool<T> call{
      segblocks::window_tables(pooling), segblocks::row_list<T>(pooling.input),
      static_cast<int32_t>(size.window), static_cast<T*>(pooling.out)};
  const LiveRows live = call.tables.live();
  for_all<kWidth>(live.all, size.channels, [&](int32_t row, int32_t c) {
    if (size.window == 3) {
      segblocks::cuda::pool<T, kWidth, 3>(call, live, row, c);
    } else {
      segblocks::cuda::pool<T, kWidth>(call, live, row, c);
    }
  });
  const auto maps = [&](const UnitPatches& patches) { return pooling.outputs(patches); };
  const auto maximum = [&](int kind, int64_t unit, int64_t i, int64_t j, int64_t, int64_t c) {
    float value = -std::numeric_limits<float>::infinity();
    for (int64_t tap = 0; tap < size.window * size.window; ++tap) {
      value = std::max(value, problem.pixel(kind, unit, i * size.stride + tap / size.window,
                                            j * size.stride + tap % size.window, c));
    }
    return value;
  };
  expect(problem.holds(problem.out(), maps, maximum), name + ": max pool");
}

template <typename T, int kWidth>
void check_upsampling(const std::string& name, const ProblemSize& size) {
  const Problem<T> problem(size);
  const segblocks::Upsample2Call upsampling = problem.upsampling();
  const auto call = segblocks::cuda::upsample2<T>(upsampling);
  for_all<kWidth>(call.live_strips(), size.channels, [&](int32_t strip, int32_t c) {
    segblocks::cuda::upsample<T, kWidth>(call, call.live_high(), strip, c);
  });
  const auto maps = [&](const UnitPatches& patches) { return upsampling.outputs(patches); };
  const auto expected = [&](int kind, int64_t unit, int64_t i, int64_t j, int64_t row, int64_t c) {
    float sum = 0.0f;
    // Output 2 i reads source i (at i + 1 in the patch) and i - 1, output 2 i + 1 reads i and i
    // + 1.
    for (const int64_t dy : {0, 1}) {
      for (const int64_t dx : {0, 1}) {
        const int64_t y = i / 2 + 1 + (dy == 0 ? 0 : i % 2 == 0 ? -1 : 1);
        const int64_t x = j / 2 + 1 + (dx == 0 ? 0 : j % 2 == 0 ? -1 : 1);
        const float weight = (dy == 0 ? 0.75f : 0.25f) * (dx == 0 ? 0.75f : 0.25f);
        sum += weight * problem.pixel(kind, unit, y, x, c);
      }
    }
    const float y = sum + (size.residual ? problem.residual(row, c) : 0.0f);
    return size.second ? problem.second(y, c) : y;
  };
  expect(problem.holds(problem.out(), maps, expected), name + ": upsampling");
}

template <typename T, int kWidth>
void check_depthwise(const std::string& name, const ProblemSize& size) {
  const Problem<T> problem(size, true);
  const auto call = segblocks::cuda::plain_convolution<T>(problem.call);
  const LiveRows live = call.tables.live();
  constexpr int kRows = segblocks::cuda::kDepthwiseRows;
  for_all<kWidth>((live.all + kRows - 1) / kRows, size.channels, [&](int32_t group, int32_t c) {
    segblocks::cuda::convolve_depthwise<T, kWidth>(call, live, group * kRows, c);
  });
  expect(problem.convolved(), name + ": depthwise");
}

// What warps do for a unit of a layer's index tables.
void find_unit(const segblocks::LayerTablesCall& call, int number, bool high, int32_t unit) {
  namespace cuda = segblocks::cuda;
  const cuda::GridTables grid = cuda::grid_tables(call);
  const cuda::LayerTable& layer = grid.layers[number];
  const cuda::TablePatches& patches = high ? layer.high : layer.low;
  int32_t* table = patches.table + unit * patches.area;
  bool lends = false;
  if (layer.near) {
    const cuda::TableUnit own(grid, layer, high, unit);
    cuda::Neighbor neighbors[cuda::kNeighbors];
    for (int zone = 0; zone < cuda::kNeighbors; ++zone) {
      neighbors[zone] = own.neighbor(zone);
      lends = lends || neighbors[zone].borrows;
    }
    for (int32_t group = 0; group < own.num_groups(); ++group) {
      own.write_group(neighbors[cuda::kNeighbors / 2].first, group, table);
    }
    for (int32_t f = 0; f < own.frame(); ++f) {
      table[own.in_frame(f)] = own.find(neighbors, own.in_frame(f));
    }
  } else {
    for (int32_t i = 0; i < patches.area; ++i) {
      table[i] = cuda::find_far(grid, layer, high, unit, i);
    }
    lends = high && cuda::lends_far(grid, layer, unit);
  }
  for (int32_t g = 0; high && g < layer.ring; ++g) {
    cuda::write_means(grid, layer, unit, g, lends);
  }
}

void check_tables(int64_t block, int64_t factor, int64_t padding, segblocks::Border border) {
  segblocks::IndexTablesCall call{};
  call.layout = {{2, 2, 3, block, factor, 5, 1}, padding, border};
  const std::vector<int32_t> slots = {0, 5, 1, 6, 7, 2, 8, 3, 9, 10, 4, 11};
  std::vector<int32_t> cells(slots.size());
  for (size_t cell = 0; cell < slots.size(); ++cell)
    cells[slots[cell]] = static_cast<int32_t>(cell);
  const segblocks::IndexTableLayout& layout = call.layout;
  const int64_t reads = factor * factor;
  std::vector<int32_t> high(layout.blocks.num_high * layout.patch_area(true), -7);
  std::vector<int32_t> low(layout.blocks.num_low() * layout.patch_area(false), -7);
  std::vector<int32_t> means(layout.num_halos() * reads, -7);
  call.slots = slots.data();
  call.high_cells = cells.data();
  call.low_cells = cells.data() + layout.blocks.num_high;
  call.high = high.data();
  call.low = low.data();
  call.means = means.data();
  for (int32_t index = 0; index < layout.blocks.cells(); ++index) {
    const bool in_high = index < layout.blocks.num_high;
    const auto unit = static_cast<int32_t>(in_high ? index : index - layout.blocks.num_high);
    // The second of two alike, so that the first one's warps are counted.
    find_unit({2, {call, call}}, 1, in_high, unit);
  }

  for (int64_t slot = 0; slot < layout.blocks.cells(); ++slot) {
    const bool is_high = layout.blocks.is_high(slot);
    const segblocks::Cell cell = layout.blocks.cell(cells[slot]);
    const int64_t side = layout.patch_side(is_high);
    const int64_t unit = is_high ? slot : slot - layout.blocks.num_high;
    const std::vector<int32_t>& table = is_high ? high : low;
    for (int64_t i = 0; i < side * side; ++i) {
      expect(table[unit * side * side + i] == layout.index(slots.data(), cell, i / side, i % side),
             "index tables");
    }
    for (int64_t g = 0; is_high && g < layout.ring(); ++g) {
      const bool some = layout.has_halos(slots.data(), cell);
      for (int64_t k = 0; k < reads; ++k) {
        expect(means[(slot * layout.ring() + g) * reads + k] ==
                   (some ? layout.mean_row(slot, g, k) : -1),
               "rows of halos");
      }
    }
  }
}

void check_divisors() {
  constexpr int32_t kMost = std::numeric_limits<int32_t>::max();
  for (const int32_t divisor :
       {1, 2, 3, 5, 7, 19, 64, 641, 65535, 65536, 1 << 30, kMost - 1, kMost}) {
    const segblocks::Divisor divide(divisor);
    for (int64_t quotient = 0; quotient <= kMost / divisor; quotient += 1 + quotient / 3) {
      for (const int64_t number : {quotient * divisor - 1, quotient * divisor, int64_t{kMost}}) {
        if (number < 0) continue;
        const auto n = static_cast<int32_t>(number);
        int32_t rest = -1;
        expect(divide.divide(n, &rest) == n / divisor && rest == n % divisor, "division");
      }
    }
  }
}

void check_limits() {
  Problem<float> problem(
      {8, 8, 3, 1, {2, 2}, {2, 2}, {{6, 6}, {4, 4}}, Activation::kNone, false, false, false, true});
  segblocks::IndexedConvCall call = problem.call;
  expect(fits_int32(call), "a small call fits");
  call.units.high.capacity = int64_t{1} << 26;
  expect(!fits_int32(call), "2^26 patches of 36 do not fit");
  call = problem.call;
  call.input.channels = int64_t{1} << 28;
  expect(!fits_int32(call), "sums of 9 * 2^28 terms do not fit");
}

}  // namespace

int main() {
  constexpr auto kNone = Activation::kNone;
  const ProblemSize sizes[] = {
      {16, 16, 3, 1, {3, 4}, {3, 4}, {{10, 9}, {6, 5}}, kNone, true, true, false, true},
      {8, 8, 3, 2, {4, 3}, {2, 9}, {{9, 9}, {5, 5}}, Activation::kRelu, true, true, true, true},
      {24, 24, 5, 1, {0, 3}, {-4, 2}, {{0, 0}, {6, 7}}, kNone, false, false, true, true},
      {8, 8, 2, 2, {2, 0}, {1, 5}, {{8, 6}, {3, 3}}, Activation::kRelu6, false, true, false, true}};
  for (const ProblemSize& size : sizes) {
    const std::string name = std::to_string(size.window) + " x " + std::to_string(size.window);
    check_halos<float, 4>(name, size);
    check_halos<__nv_bfloat16, 8>(name, size);
    check_halos<__nv_bfloat16, 1>(name, size);
    check_pool<float, 4>(name, size);
    check_pool<__nv_bfloat16, 8>(name, size);
    check_pool<__nv_bfloat16, 1>(name, size);
    check_upsampling<float, 4>(name, size);
    check_upsampling<__nv_bfloat16, 8>(name, size);
    check_upsampling<__nv_bfloat16, 1>(name, size);
    check_depthwise<float, 4>(name, size);
    check_depthwise<__nv_bfloat16, 8>(name, size);
    check_depthwise<__nv_bfloat16, 1>(name, size);
  }
  using segblocks::Border;
  for (const Border border : {Border::kZeros, Border::kImage, Border::kBlock}) {
    for (const int64_t padding : {0, 1, 2, 3}) {
      check_tables(4, 2, padding, border);
      check_tables(8, 4, padding, border);
      check_tables(2, 1, padding, border);
    }
  }
  check_divisors();
  check_limits();
  return failures == 0 ? 0 : 1;
}
