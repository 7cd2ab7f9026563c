// Runs the CPU's operations on bytes with every set of inner loops that this machine has, on
// threads, against plain loops of whole numbers. Exits with 0 where all is well.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/tiles.h"
#include "threads.h"

namespace {

using segblocks::Element;
using segblocks::IndexedRows;
using segblocks::MaxPoolCall;
using segblocks::QuantizedConvCall;
using segblocks::UnitPatches;
using segblocks::Units;
using segblocks::Upsample2Call;
using segblocks::Window;
using segblocks::cpu::TileKernels;
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

// Memory of its exact size, so that a sanitizer sees every read and write behind its end.
template <typename T>
std::vector<T> numbers(int64_t count, int64_t first, int64_t last, double unit = 1.0) {
  std::vector<T> result(count);
  for (T& value : result) value = static_cast<T>(static_cast<double>(pick(first, last)) * unit);
  return result;
}

constexpr int64_t kRows = 40;
constexpr int64_t kHalos = 6;

// Rows, means of some of them, and patches of random indices: the input of an operation.
struct Input {
  std::vector<uint8_t> rows;
  std::vector<int32_t> means;
  std::vector<uint8_t> halos;
  std::vector<int32_t> indices[2];
  int32_t counts[2];
  IndexedRows input;
  Units units;

  Input(int64_t channels, int64_t reads, uint8_t zero, const UnitPatches& high,
        const UnitPatches& low)
      : rows(numbers<uint8_t>(kRows * channels, 0, 255)),
        means(numbers<int32_t>(kHalos * reads, 0, kRows - 1)),
        halos(kHalos * channels),
        units{high, low, counts} {
    means[reads * (kHalos - 1)] = -1;
    UnitPatches* patches[2] = {&units.high, &units.low};
    for (int k = 0; k < 2; ++k) {
      const int64_t count = patches[k]->capacity * patches[k]->area();
      for (int64_t i = 0; i < count; ++i) {
        const bool follows = i > 0 && pick(0, 2) > 0 && indices[k][i - 1] < kRows - 1;
        const int64_t index = follows ? indices[k][i - 1] + 1 : pick(-1, kRows + kHalos - 2);
        indices[k].push_back(static_cast<int32_t>(index));
      }
      patches[k]->indices = indices[k].data();
      counts[k] = static_cast<int32_t>(patches[k]->capacity - (patches[k]->capacity > 2 ? 1 : 0));
    }
    input = {Element::kUint8, kRows,        channels,     kHalos, reads,
             rows.data(),     means.data(), halos.data(), zero};
  }
  Input(const Input&) = delete;

  int64_t value(int32_t index, int64_t channel) const {
    const int64_t channels = input.channels;
    if (index < 0) return input.zero;
    if (index < kRows) return rows[index * channels + channel];
    int64_t sum = 0;
    for (int64_t k = 0; k < input.halo_reads; ++k) {
      sum += rows[means[(index - kRows) * input.halo_reads + k] * channels + channel];
    }
    return (2 * sum + input.halo_reads) / (2 * input.halo_reads);
  }
};

// Calls visit(patch, output row, y, x) for every output pixel of the live units.
template <typename Call, typename Visit>
void for_each_output(const Call& call, const Visit& visit) {
  int64_t row = 0;
  int size = 0;
  for (const UnitPatches* patches : {&call.units.high, &call.units.low}) {
    const auto outputs = call.outputs(*patches);
    for (int64_t unit = 0; unit < call.units.counts[size]; ++unit) {
      const int32_t* patch = patches->indices + unit * patches->area();
      for (int64_t i = 0; i < outputs.area(); ++i, ++row) {
        visit(*patches, patch, row, i / outputs.width, i % outputs.width);
      }
    }
    ++size;
  }
}

struct ConvCase {
  int64_t channels;
  int64_t features;
  Window window;
  bool depthwise;
  UnitPatches high;
  UnitPatches low;
};

constexpr float kUnwritten = -77.0f;

// y of the sums, whose scales are such that float32 rounds nothing.
struct Finish {
  bool residual;
  bool residual_bytes;
  bool second;
  bool keep;
  bool bytes;
};

void check_conv(const TileKernels& kernels, const ConvCase& c, const Finish& finish) {
  Threads threads;
  const int64_t reads = finish.second ? 4 : 3;
  Input in(c.channels, reads, static_cast<uint8_t>(pick(0, 255)), c.high, c.low);
  QuantizedConvCall call{};
  call.input = in.input;
  call.units = in.units;
  call.window = c.window;
  call.features = c.features;
  call.depthwise = c.depthwise;
  const int64_t taps = c.window.area();
  const int64_t groups = call.groups();
  const int64_t count = c.depthwise ? taps * c.features : call.panels() * taps * groups * 64;
  std::vector<int8_t> weights = numbers<int8_t>(count, -127, 127);
  const auto weight = [&](int64_t tap, int64_t channel, int64_t k) -> int8_t& {
    if (c.depthwise) return weights[tap * c.features + k];
    return weights[((k / 16 * taps + tap) * groups + channel / 4) * 64 + k % 16 * 4 + channel % 4];
  };
  for (int64_t t = 0; t < taps && !c.depthwise; ++t) {
    for (int64_t channel = c.channels; channel < 4 * groups; ++channel) {
      for (int64_t k = 0; k < call.panels() * 16; ++k) weight(t, channel, k) = 0;
    }
  }
  std::vector<float> scale = numbers<float>(c.features, -4, 4, 1.0 / 1024);
  std::vector<float> bias = numbers<float>(c.features, -64, 64, 0.25);
  std::vector<float> scale2 = numbers<float>(c.features, -4, 4, 0.25);
  const int64_t outputs = max_output_rows(call);
  std::vector<uint8_t> byte_residual = numbers<uint8_t>(outputs * c.features, 0, 255);
  std::vector<float> float_residual = numbers<float>(outputs * c.features, -99, 99, 0.5);
  std::vector<float> floats[2];
  std::vector<uint8_t> bytes[2];
  void* out[2] = {};
  for (int k = 0; k < 2; ++k) {
    floats[k].assign(outputs * c.features, kUnwritten);
    bytes[k].assign(outputs * c.features, 77);
    if (k == 0 ? finish.keep : finish.second) {
      out[k] = finish.bytes == (k == 0) ? static_cast<void*>(bytes[k].data()) : floats[k].data();
    }
  }
  call.weights = weights.data();
  call.scale = scale.data();
  call.bias = bias.data();
  call.residual_scale = 0.5f;
  call.low = -30.0f;
  call.high = 200.25f;
  call.residual_bytes = finish.residual_bytes;
  if (finish.residual) {
    call.residual = finish.residual_bytes ? static_cast<void*>(byte_residual.data())
                                          : static_cast<void*>(float_residual.data());
  }
  call.scale2 = finish.second ? scale2.data() : nullptr;
  call.bias2 = finish.second ? bias.data() : nullptr;
  call.out = out[0];
  call.out_bytes = finish.bytes;
  call.out2 = out[1];
  call.out2_bytes = !finish.bytes;
  expect(!run(threads, kernels, call).found(), "a valid convolution");
  const auto matches = [&](int k, int64_t at, double value) {
    if (out[k] == floats[k].data()) return floats[k][at] == static_cast<float>(value);
    const double bounded = std::clamp(value, 0.0, 255.0);
    return bytes[k][at] == static_cast<uint8_t>(std::nearbyint(bounded));
  };
  for_each_output(call, [&](const UnitPatches& p, const int32_t* patch, int64_t row, int64_t y,
                            int64_t x) {
    for (int64_t k = 0; k < c.features; ++k) {
      int64_t sum = 0;
      for (int64_t t = 0; t < taps; ++t) {
        const int64_t i = y * c.window.stride + t / c.window.width * c.window.dilation;
        const int64_t j = x * c.window.stride + t % c.window.width * c.window.dilation;
        const int32_t index = patch[i * p.width + j];
        const int64_t first = c.depthwise ? k : 0;
        const int64_t last = c.depthwise ? k + 1 : c.channels;
        for (int64_t d = first; d < last; ++d) sum += in.value(index, d) * weight(t, d, k);
      }
      const int64_t at = row * c.features + k;
      float value = static_cast<float>(sum) * scale[k];
      value = value + bias[k];
      if (finish.residual) {
        value += 0.5f * (finish.residual_bytes ? static_cast<float>(byte_residual[at])
                                               : float_residual[at]);
      }
      value = std::clamp(value, call.low, call.high);
      const std::string where = std::to_string(c.channels) + " to " + std::to_string(c.features);
      if (finish.keep) expect(matches(0, at, value), "out, " + where);
      if (!finish.second) continue;
      float second = value * scale2[k];
      second = std::max(second + bias[k], 0.0f);
      expect(matches(1, at, second), "out2, " + where);
    }
  });
  int64_t written = 0;
  for_each_output(call, [&](auto&&...) { ++written; });
  for (int64_t at = written * c.features; at < outputs * c.features; ++at) {
    expect(floats[0][at] == kUnwritten && floats[1][at] == kUnwritten && bytes[0][at] == 77 &&
               bytes[1][at] == 77,
           "rows of no live unit stay");
  }
}

void check_windows(const TileKernels& kernels, int64_t channels) {
  Threads threads;
  Input in(channels, 4, 0, {4, 9, 7, nullptr}, {3, 5, 6, nullptr});
  std::vector<uint8_t> out(4 * (4 * 7 * 5 + 3 * 3 * 4) * channels);
  const MaxPoolCall pool{in.input, in.units, {3, 3, 2}, out.data()};
  expect(!run(threads, kernels, pool).found(), "a valid pooling");
  for_each_output(
      pool, [&](const UnitPatches& p, const int32_t* patch, int64_t row, int64_t y, int64_t x) {
        for (int64_t k = 0; k < channels; ++k) {
          int64_t best = 0;
          for (int64_t t = 0; t < 9; ++t) {
            best = std::max(best, in.value(patch[(2 * y + t / 3) * p.width + 2 * x + t % 3], k));
          }
          expect(out[row * channels + k] == best, "maxima");
        }
      });
  const Upsample2Call upsample{in.input, in.units, nullptr, nullptr, nullptr, out.data()};
  expect(!run(threads, kernels, upsample).found(), "a valid upsampling");
  for_each_output(upsample, [&](const UnitPatches& p, const int32_t* patch, int64_t row, int64_t y,
                                int64_t x) {
    const int64_t i = y / 2 + 1;
    const int64_t j = x / 2 + 1;
    const int64_t di = y % 2 == 0 ? -1 : 1;
    const int64_t dj = x % 2 == 0 ? -1 : 1;
    for (int64_t k = 0; k < channels; ++k) {
      const auto at = [&](int64_t a, int64_t b) { return in.value(patch[a * p.width + b], k); };
      const int64_t sum = 9 * at(i, j) + 3 * (at(i + di, j) + at(i, j + dj)) + at(i + di, j + dj);
      expect(out[row * channels + k] == (sum + 8) / 16, "upsampling");
    }
  });
}

const ConvCase kConvs[] = {
    {3, 64, {7, 7, 2}, false, {3, 14, 15, nullptr}, {4, 9, 9, nullptr}},
    {32, 64, {3, 3, 1}, false, {4, 7, 8, nullptr}, {3, 5, 5, nullptr}},
    {17, 200, {3, 3, 1}, false, {4, 5, 5, nullptr}, {1, 3, 4, nullptr}},
    {20, 42, {1, 1, 2}, false, {4, 5, 5, nullptr}, {0, 0, 0, nullptr}},
    {400, 33, {3, 3, 1}, false, {2, 4, 5, nullptr}, {0, 1, 1, nullptr}},
    {9, 20, {1, 3, 1}, false, {1, 3, 460, nullptr}, {30, 1, 3, nullptr}},
    {96, 96, {5, 5, 1}, true, {3, 8, 8, nullptr}, {2, 6, 5, nullptr}},
    {43, 43, {3, 3, 2}, true, {3, 7, 22, nullptr}, {5, 3, 3, nullptr}},
    {5, 5, {3, 3, 1}, true, {3, 7, 8, nullptr}, {5, 3, 3, nullptr}},
    {32, 20, {3, 1, 2, 4}, false, {3, 17, 7, nullptr}, {2, 11, 3, nullptr}},
    {43, 43, {5, 5, 2, 3}, true, {3, 19, 20, nullptr}, {2, 13, 13, nullptr}},
    {0, 20, {3, 3, 1}, false, {2, 5, 5, nullptr}, {2, 3, 3, nullptr}},
};

}  // namespace

int main() {
  for (const char* name : {"base", "avx2", "avx512", "avx512_vnni"}) {
    const TileKernels* kernels = segblocks::cpu::find_tile_kernels(name);
    if (kernels == nullptr) continue;
    std::printf("%s\n", name);
    for (const ConvCase& conv : kConvs) {
      check_conv(*kernels, conv, {false, false, false, true, true});
      check_conv(*kernels, conv, {true, true, true, true, true});
      check_conv(*kernels, conv, {true, false, true, true, false});
      check_conv(*kernels, conv, {true, true, true, false, false});
    }
    for (const int64_t channels : {1, 64, 75}) check_windows(*kernels, channels);
  }
  return failures == 0 ? 0 : 1;
}
