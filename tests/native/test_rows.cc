// Runs the CPU's indexed operations with every set of inner loops that this machine has, on
// threads, against plain loops in double. Exits with 0 where all is well.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "cpu/half.h"
#include "cpu/kernels.h"
#include "cpu/tiles.h"
#include "threads.h"

namespace {

using segblocks::Activation;
using segblocks::Element;
using segblocks::IndexedConvCall;
using segblocks::IndexedRows;
using segblocks::MaxPoolCall;
using segblocks::UnitPatches;
using segblocks::Units;
using segblocks::Upsample2Call;
using segblocks::cpu::BFloat16;
using segblocks::cpu::from_float;
using segblocks::cpu::TileKernels;
using segblocks::cpu::to_float;
using segblocks::test::Threads;

int failures = 0;

void expect(bool ok, const std::string& what) {
  if (ok) return;
  if (failures < 20) std::printf("failed: %s\n", what.c_str());
  ++failures;
}

std::mt19937 generator(0);

int64_t pick(int64_t first, int64_t last) {
  return std::uniform_int_distribution<int64_t>(first, last)(generator);
}

// Numbers that bfloat16 holds, so that one expectation serves both element types.
float number() { return static_cast<float>(pick(-64, 64)) / 32.0f; }

template <typename T>
T rounded(float value) {
  T result;
  from_float(value, &result);
  return result;
}

// Memory of its exact size, so that a sanitizer sees every read and write behind its end.
template <typename T>
std::vector<T> numbers(int64_t count) {
  std::vector<T> result(count);
  for (T& value : result) value = rounded<T>(number());
  result.shrink_to_fit();
  return result;
}

// Rows, means of two of them, and patches of random indices: the input of an operation.
template <typename T>
struct Input {
  std::vector<T> rows;
  std::vector<int32_t> means;
  std::vector<T> halos;
  std::vector<int32_t> indices[2];
  int32_t counts[2];
  IndexedRows input;
  Units units;

  Input(int64_t channels, const UnitPatches& high, const UnitPatches& low) {
    const int64_t num_rows = 40;
    const int64_t num_halos = 6;
    rows = numbers<T>(num_rows * channels);
    halos.resize(num_halos * channels);
    for (int64_t g = 0; g < 2 * num_halos; ++g) {
      means.push_back(static_cast<int32_t>(pick(0, num_rows - 1)));
    }
    means[2 * (num_halos - 1)] = -1;
    units = {high, low, counts};
    UnitPatches* patches[2] = {&units.high, &units.low};
    for (int k = 0; k < 2; ++k) {
      const int64_t count = patches[k]->capacity * patches[k]->area();
      for (int64_t i = 0; i < count; ++i) {
        const bool follows = i > 0 && pick(0, 2) > 0 && indices[k][i - 1] < num_rows - 1;
        const int64_t index = follows ? indices[k][i - 1] + 1 : pick(-1, num_rows + num_halos - 2);
        indices[k].push_back(static_cast<int32_t>(index));
      }
      patches[k]->indices = indices[k].data();
      counts[k] = static_cast<int32_t>(patches[k]->capacity - (patches[k]->capacity > 2 ? 1 : 0));
    }
    const Element element = sizeof(T) == 4 ? Element::kFloat32 : Element::kBFloat16;
    input = {element, num_rows, channels, num_halos, 2, rows.data(), means.data(), halos.data()};
  }
  Input(const Input&) = delete;

  double value(int32_t index, int64_t channel) const {
    const int64_t channels = input.channels;
    if (index < 0) return 0.0;
    if (index < input.num_rows) return to_float(rows[index * channels + channel]);
    const int32_t* mean = &means[2 * (index - input.num_rows)];
    const double sum = static_cast<double>(to_float(rows[mean[0] * channels + channel])) +
                       to_float(rows[mean[1] * channels + channel]);
    return to_float(rounded<T>(static_cast<float>(sum / 2)));
  }
};

// Calls visit(patch, output row, y, x) for every output pixel of the live units.
template <typename Call, typename Visit>
int64_t for_each_output(const Call& call, const Visit& visit) {
  int64_t row = 0;
  int size = 0;
  for (const UnitPatches* patches : {&call.units.high, &call.units.low}) {
    const auto outputs = call.outputs(*patches);
    for (int64_t unit = 0; unit < call.units.counts[size]; ++unit) {
      for (int64_t y = 0; y < outputs.height; ++y) {
        for (int64_t x = 0; x < outputs.width; ++x, ++row) {
          visit(*patches, patches->indices + unit * patches->area(), row, y, x);
        }
      }
    }
    ++size;
  }
  return row;
}

template <typename T>
void expect_close(T got, double expected, double scale, const std::string& what) {
  const double error = std::abs(to_float(got) - expected);
  const double rounding = sizeof(T) == 4 ? 0.0 : std::ldexp(std::abs(expected), -8);
  expect(error <= rounding + 1e-5 * scale, what);
}

// The sum of products, and of their magnitudes.
__attribute__((no_sanitize("address", "undefined"))) std::pair<double, double> products(
    const double* values, int64_t step, const double* weights, int64_t count) {
  double sum = 0.0;
  double scale = 0.0;
  for (int64_t i = 0; i < count; ++i) {
    const double product = values[i * step] * weights[i];
    sum += product;
    scale += std::abs(product);
  }
  return {sum, scale};
}

struct ConvCase {
  int64_t channels;
  int64_t features;
  int64_t kh;
  int64_t kw;
  int64_t stride;
  bool depthwise;
  UnitPatches high;
  UnitPatches low;
  bool winograd = false;
  int64_t dilation = 1;
};

// Packed weights of 3 x 3 taps -> those of Winograd's transform.
std::vector<float> transformed(const std::vector<float>& weights, const IndexedConvCall& call) {
  const bool one = call.window.stride == 1;
  const std::vector<std::vector<float>> axis =
      one ? std::vector<std::vector<float>>{{1, 0, 0}, {.5, .5, .5},    {.5, -.5, .5},
                                            {0, 0, 1}, {.125, .25, .5}, {.125, -.25, .5}}
          : std::vector<std::vector<float>>{{1, 0, 0}, {0, 1, 0}, {1, 0, 1}, {0, 1, 0}, {0, 0, 1}};
  const std::vector<std::vector<int>> points =
      one ? std::vector<std::vector<int>>{{0}, {1}, {2}, {3}, {4}, {5}}
          : std::vector<std::vector<int>>{{0, 1}, {2}, {3, 4}};
  const int64_t terms = call.input.channels * IndexedConvCall::kPanel;
  std::vector<float> result;
  for (int64_t panel = 0; panel < call.panels(); ++panel) {
    for (const auto& rows : points) {
      for (const auto& columns : points) {
        for (const int r : rows) {
          for (const int s : columns) {
            for (int64_t i = 0; i < terms; ++i) {
              float sum = 0.0f;
              for (int t = 0; t < 9; ++t) {
                sum += axis[r][t / 3] * axis[s][t % 3] * weights[(panel * 9 + t) * terms + i];
              }
              result.push_back(sum);
            }
          }
        }
      }
    }
  }
  result.shrink_to_fit();
  return result;
}

// Packed weights -> the same in pairs of inputs.
template <typename T>
std::vector<T> in_pairs(const std::vector<T>& weights, const IndexedConvCall& call) {
  constexpr int64_t kPanel = IndexedConvCall::kPanel;
  const segblocks::PairLayout layout = call.pair_layout();
  std::vector<T> result(call.panels() * layout.rows() * kPanel * 2);
  for (int64_t row = 0; row < call.panels() * layout.taps; ++row) {
    for (int64_t d = 0; d < layout.depth; ++d) {
      const int64_t pair = row * layout.steps() * segblocks::PairLayout::kStep / 2 + d / 2;
      for (int64_t k = 0; k < kPanel; ++k) {
        result[(pair * kPanel + k) * 2 + d % 2] = weights[(row * layout.depth + d) * kPanel + k];
      }
    }
  }
  result.shrink_to_fit();
  return result;
}

template <typename T>
void check_conv(const TileKernels& kernels, const ConvCase& c, int variant) {
  const std::string what = std::string(kernels.name) + " convolution of " +
                           std::to_string(c.channels) + " by " + std::to_string(c.features) +
                           ", variant " + std::to_string(variant);
  Input<T> in(c.channels, c.high, c.low);
  IndexedConvCall call{};
  call.input = in.input;
  call.units = in.units;
  call.window = {c.kh, c.kw, c.stride, c.dilation};
  call.features = c.features;
  call.depthwise = c.depthwise;
  call.activation = static_cast<Activation>(variant % 3);
  const int64_t taps = call.window.area();
  const int64_t outputs = max_output_rows(call);
  const auto weights =
      numbers<T>(c.depthwise ? taps * c.channels
                             : call.panels() * taps * c.channels * IndexedConvCall::kPanel);
  std::vector<float> taps_of_squares;
  if (c.winograd) {
    std::vector<float> floats;
    for (const T weight : weights) floats.push_back(to_float(weight));
    taps_of_squares = transformed(floats, call);
  }
  std::vector<T> pairs;
  const auto vectors = numbers<float>(4 * c.features);
  const auto residual = numbers<T>(outputs * c.features);
  std::vector<T> out(outputs * c.features);
  std::vector<T> out2(outputs * c.features);
  call.winograd = c.winograd;
  call.weights = weights.data();
  if (c.winograd) call.weights = taps_of_squares.data();
  if (sizeof(T) == 2 && !c.winograd && !c.depthwise && (variant & 2)) {
    pairs = in_pairs(weights, call);
    call.pairs = true;
    call.weights = pairs.data();
  }
  if (variant & 1) call.scale = vectors.data();
  if (variant & 2) call.bias = vectors.data() + c.features;
  if (variant & 4) call.residual = residual.data();
  if (variant & 8) {
    call.scale2 = vectors.data() + 2 * c.features;
    call.bias2 = vectors.data() + 3 * c.features;
    call.out2 = out2.data();
  }
  if (!(variant & 8) || variant & 1) call.out = out.data();
  {
    Threads threads;
    expect(!run(threads, kernels, call).found(), what + " has no problem");
  }
  // In double, each weight and each value of a window once: the sums below are most of this
  // program's time.
  const int64_t depth = c.depthwise ? 1 : c.channels;
  std::vector<double> terms(c.features * taps * depth);
  for (int64_t k = 0; k < c.features; ++k) {
    for (int64_t i = 0; i < taps * depth; ++i) {
      const int64_t panel = k / IndexedConvCall::kPanel;
      const int64_t at = c.depthwise ? i * c.channels + k
                                     : (panel * taps * depth + i) * IndexedConvCall::kPanel +
                                           k % IndexedConvCall::kPanel;
      terms[k * taps * depth + i] = to_float(weights[at]);
    }
  }
  std::vector<double> values(taps * c.channels);
  const std::string what_second = what + ", second output";
  for_each_output(call, [&](const UnitPatches& patches, const int32_t* patch, int64_t row,
                            int64_t y, int64_t x) {
    for (int64_t t = 0; t < taps; ++t) {
      const int32_t index = patch[(y * c.stride + t / c.kw * c.dilation) * patches.width +
                                  x * c.stride + t % c.kw * c.dilation];
      for (int64_t d = 0; d < c.channels; ++d) values[t * c.channels + d] = in.value(index, d);
    }
    for (int64_t k = 0; k < c.features; ++k) {
      const double* weight = terms.data() + k * taps * depth;
      const double* value = values.data() + (c.depthwise ? k : 0);
      auto [sum, scale] = products(value, c.depthwise ? c.channels : 1, weight, taps * depth);
      scale += 1.0;
      if (call.scale != nullptr) sum *= call.scale[k];
      if (call.bias != nullptr) sum += call.bias[k];
      if (call.residual != nullptr) sum += to_float(residual[row * c.features + k]);
      if (call.activation != Activation::kNone) sum = std::max(sum, 0.0);
      if (call.activation == Activation::kRelu6) sum = std::min(sum, 6.0);
      if (call.out != nullptr) expect_close(out[row * c.features + k], sum, scale, what);
      if (call.out2 == nullptr) continue;
      const double second = std::max(sum * call.scale2[k] + call.bias2[k], 0.0);
      expect_close(out2[row * c.features + k], second, 2 * scale, what_second);
    }
  });
}

template <typename T>
void check_max_pool(const TileKernels& kernels, int64_t channels) {
  Input<T> in(channels, {4, 7, 6, nullptr}, {3, 3, 5, nullptr});
  MaxPoolCall call{in.input, in.units, {3, 3, 2}, nullptr};
  std::vector<T> out(max_output_rows(call) * channels);
  call.out = out.data();
  const std::string what = std::string(kernels.name) + " max pool";
  {
    Threads threads;
    expect(!run(threads, kernels, call).found(), "max pool has no problem");
  }
  for_each_output(call, [&](const UnitPatches& patches, const int32_t* patch, int64_t row,
                            int64_t y, int64_t x) {
    for (int64_t k = 0; k < channels; ++k) {
      double best = -std::numeric_limits<double>::infinity();
      for (int64_t t = 0; t < 9; ++t) {
        best = std::max(best, in.value(patch[(2 * y + t / 3) * patches.width + 2 * x + t % 3], k));
      }
      expect_close(out[row * channels + k], best, 1.0, what);
    }
  });
}

template <typename T>
void check_upsample2(const TileKernels& kernels, int64_t channels, bool residual, bool second) {
  Input<T> in(channels, {4, 5, 6, nullptr}, {3, 3, 4, nullptr});
  Upsample2Call call{};
  call.input = in.input;
  call.units = in.units;
  const int64_t outputs = max_output_rows(call);
  const auto residuals = numbers<T>(outputs * channels);
  const auto vectors = numbers<float>(2 * channels);
  std::vector<T> out(outputs * channels);
  call.out = out.data();
  if (residual) call.residual = residuals.data();
  if (second) call.scale2 = vectors.data();
  if (second) call.bias2 = vectors.data() + channels;
  const std::string what = std::string(kernels.name) + " upsample";
  {
    Threads threads;
    expect(!run(threads, kernels, call).found(), "upsample has no problem");
  }
  for_each_output(call, [&](const UnitPatches& patches, const int32_t* patch, int64_t row,
                            int64_t y, int64_t x) {
    const int64_t near_y = y / 2 + 1;
    const int64_t near_x = x / 2 + 1;
    const int64_t far_y = near_y + (y % 2 == 0 ? -1 : 1);
    const int64_t far_x = near_x + (x % 2 == 0 ? -1 : 1);
    for (int64_t k = 0; k < channels; ++k) {
      const auto at = [&](int64_t i, int64_t j) {
        return in.value(patch[i * patches.width + j], k);
      };
      double value = (9 * at(near_y, near_x) + 3 * at(near_y, far_x) + 3 * at(far_y, near_x) +
                      at(far_y, far_x)) /
                     16;
      if (residual) value += to_float(residuals[row * channels + k]);
      if (second) value = std::max(value * call.scale2[k] + call.bias2[k], 0.0);
      expect_close(out[row * channels + k], value, 4.0, what);
    }
  });
}

// The positions of patches agree with IndexTableLayout::index(), which other platforms use.
void check_tables(int64_t block, int64_t factor, int64_t padding, segblocks::Border border) {
  for (const unsigned pattern : {0u, 0xfffu, 0x5a3u, 0x010u, 0xfefu}) {
    segblocks::IndexTablesCall call{};
    segblocks::BlockLayout& blocks = call.layout.blocks;
    blocks = {2, 2, 3, block, factor, 0, 1};
    call.layout.padding = padding;
    call.layout.border = border;
    std::vector<int32_t> cells[2];
    bool mask[12];
    for (int32_t cell = 0; cell < 12; ++cell) {
      mask[cell] = (pattern >> cell & 1) != 0;
      cells[mask[cell] ? 0 : 1].push_back(cell);
    }
    blocks.num_high = static_cast<int64_t>(cells[0].size());
    std::vector<int32_t> slots(12);
    for (int32_t k = 0; k < 12; ++k) {
      slots[k < blocks.num_high ? cells[0][k] : cells[1][k - blocks.num_high]] = k;
    }
    std::vector<int32_t> high(blocks.num_high * call.layout.patch_area(true));
    std::vector<int32_t> low(blocks.num_low() * call.layout.patch_area(false));
    std::vector<int32_t> means(call.layout.num_halos() * factor * factor);
    call.mask = mask;
    call.slots = slots.data();
    call.high_cells = cells[0].data();
    call.low_cells = cells[1].data();
    call.high = high.data();
    call.low = low.data();
    call.means = means.data();
    Threads threads;
    const segblocks::LayerTablesCall layers{1, {call}};
    expect(!run(threads, segblocks::cpu::kBaseTiles, layers).found(),
           "index tables have no problem");
    for (int64_t slot = 0; slot < 12; ++slot) {
      const bool is_high = blocks.is_high(slot);
      const int64_t unit = is_high ? slot : slot - blocks.num_high;
      const segblocks::Cell cell = blocks.cell(cells[is_high ? 0 : 1][unit]);
      const int64_t side = call.layout.patch_side(is_high);
      const int32_t* patch = (is_high ? high : low).data() + unit * side * side;
      for (int64_t k = 0; k < side * side; ++k) {
        const int64_t index = call.layout.index(slots.data(), cell, k / side, k % side);
        expect(patch[k] == index, "patches are index()");
        if (index >= blocks.num_pixels()) {
          expect(means[(index - blocks.num_pixels()) * factor * factor] >= 0, "read halos exist");
        }
      }
      for (int64_t k = 0; is_high && k < call.layout.ring() * factor * factor; ++k) {
        const int32_t mean = means[slot * call.layout.ring() * factor * factor + k];
        const int64_t row =
            call.layout.mean_row(slot, k / (factor * factor), k % (factor * factor));
        expect(mean == (call.layout.has_halos(slots.data(), cell) ? row : -1), "means");
      }
    }
  }
}

const ConvCase kConvs[] = {
    {3, 64, 7, 7, 2, false, {3, 14, 15, nullptr}, {4, 9, 9, nullptr}},
    {32, 64, 3, 3, 1, false, {4, 7, 8, nullptr}, {3, 5, 5, nullptr}},
    {17, 200, 3, 3, 1, false, {4, 5, 5, nullptr}, {1, 3, 4, nullptr}},
    {20, 42, 1, 1, 2, false, {4, 5, 5, nullptr}, {0, 0, 0, nullptr}},
    {400, 33, 3, 3, 1, false, {2, 4, 5, nullptr}, {0, 1, 1, nullptr}},
    {9, 20, 1, 3, 1, false, {1, 3, 460, nullptr}, {30, 1, 3, nullptr}},
    {96, 96, 5, 5, 1, true, {3, 8, 8, nullptr}, {2, 6, 5, nullptr}},
    {43, 43, 3, 3, 2, true, {3, 7, 8, nullptr}, {5, 3, 3, nullptr}},
    // Depthwise loops of rows: runs of 8, 4 and 2.
    {43, 43, 3, 3, 1, true, {3, 7, 18, nullptr}, {4, 5, 6, nullptr}},
    {96, 96, 3, 3, 1, true, {3, 6, 10, nullptr}, {8, 4, 4, nullptr}},
    {43, 43, 3, 3, 2, true, {3, 7, 17, nullptr}, {4, 9, 9, nullptr}},
    {96, 96, 3, 3, 2, true, {3, 7, 33, nullptr}, {8, 5, 5, nullptr}},
    {48, 48, 5, 5, 1, true, {3, 9, 12, nullptr}, {8, 6, 6, nullptr}},
    {43, 43, 5, 5, 2, true, {3, 9, 19, nullptr}, {4, 11, 11, nullptr}},
    {96, 96, 5, 5, 2, true, {3, 9, 19, nullptr}, {8, 7, 7, nullptr}},
    {40, 40, 7, 7, 1, true, {3, 9, 12, nullptr}, {8, 8, 8, nullptr}},
    {0, 20, 3, 3, 1, false, {2, 5, 5, nullptr}, {2, 3, 3, nullptr}},
    {5, 5, 3, 3, 1, true, {3, 7, 8, nullptr}, {5, 3, 3, nullptr}},
    {32, 64, 3, 3, 1, false, {4, 12, 14, nullptr}, {3, 10, 9, nullptr}, false, 3},
    {96, 96, 3, 3, 1, true, {3, 42, 40, nullptr}, {5, 38, 35, nullptr}, false, 17},
    {5, 20, 3, 1, 2, false, {3, 17, 7, nullptr}, {2, 11, 3, nullptr}, false, 4},
    {43, 43, 5, 5, 2, true, {3, 19, 20, nullptr}, {2, 13, 13, nullptr}, false, 3},
    {32, 20, 3, 1, 2, false, {3, 17, 7, nullptr}, {2, 11, 3, nullptr}, false, 4},
    {43, 43, 1, 3, 2, true, {3, 7, 17, nullptr}, {2, 3, 11, nullptr}, false, 4},
    {17, 42, 3, 3, 1, false, {4, 7, 8, nullptr}, {3, 5, 5, nullptr}, true},
    {32, 200, 3, 3, 1, false, {2, 16, 19, nullptr}, {5, 3, 3, nullptr}, true},
    {32, 200, 3, 3, 1, false, {2, 18, 22, nullptr}, {5, 6, 10, nullptr}, true},
    {17, 42, 3, 3, 1, false, {3, 7, 8, nullptr}, {9, 10, 14, nullptr}, true},
    {64, 80, 3, 3, 2, false, {4, 9, 12, nullptr}, {3, 5, 3, nullptr}, true},
    {3, 250, 3, 3, 2, false, {3, 26, 26, nullptr}, {5, 3, 3, nullptr}, true},
    {0, 20, 3, 3, 1, false, {2, 5, 5, nullptr}, {2, 3, 3, nullptr}, true},
    {32, 40, 1, 1, 1, false, {1, 40, 1, nullptr}, {0, 1, 1, nullptr}},
    {32, 70, 3, 3, 1, false, {2, 20, 75, nullptr}, {3, 4, 4, nullptr}},
    {24, 20, 3, 3, 2, false, {2, 17, 71, nullptr}, {9, 5, 7, nullptr}},
    {70, 400, 3, 3, 1, false, {1, 4, 20, nullptr}, {20, 4, 4, nullptr}},
    {3, 20, 5, 5, 2, false, {2, 29, 149, nullptr}, {4, 9, 9, nullptr}, false, 1},
    {3, 20, 5, 5, 2, false, {2, 29, 49, nullptr}, {4, 13, 13, nullptr}, false, 3},
};

}  // namespace

int main() {
  for (const char* name :
       {"base", "avx2", "avx512", "avx512_bf16", "amx", "avx512_bf16_standin", "amx_standin"}) {
    const TileKernels* kernels = segblocks::cpu::find_tile_kernels(name);
    if (kernels == nullptr) continue;
    std::printf("%s\n", name);
    const bool stands_in = std::string(name).ends_with("_standin");
    for (const ConvCase& conv : kConvs) {
      if (stands_in && (conv.depthwise || conv.winograd)) continue;
      for (const int variant : {0, 5, 7, 10, 15}) {
        if (!stands_in) check_conv<float>(*kernels, conv, variant);
        check_conv<BFloat16>(*kernels, conv, variant);
      }
    }
    if (stands_in) continue;  // Its other loops are those of base.
    for (const int64_t channels : {1, 64, 75}) {
      check_max_pool<float>(*kernels, channels);
      check_max_pool<BFloat16>(*kernels, channels);
      for (const int flags : {0, 1, 2, 3}) {
        check_upsample2<float>(*kernels, channels, flags & 1, flags & 2);
        check_upsample2<BFloat16>(*kernels, channels, flags & 1, flags & 2);
      }
    }
  }
  expect(segblocks::cpu::find_tile_kernels("none") == nullptr, "an unknown set is not found");
  for (int border = 0; border < 3; ++border) {
    for (int64_t padding = 0; padding <= 5; ++padding) {
      check_tables(8, 2, padding, static_cast<segblocks::Border>(border));
      check_tables(2, 2, padding, static_cast<segblocks::Border>(border));
      check_tables(6, 3, padding, static_cast<segblocks::Border>(border));
      check_tables(3, 1, padding, static_cast<segblocks::Border>(border));
    }
  }
  return failures == 0 ? 0 : 1;
}
