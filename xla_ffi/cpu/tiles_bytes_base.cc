// The inner loops on bytes in plain C++.

#include "cpu/products.h"
#include "cpu/tiles_bytes_body.h"

namespace segblocks::cpu {
namespace {

template <int kPixels, int kPanels>
struct Plain {
  static void run(const ByteTile& tile) {
    for (int panel = 0; panel < kPanels; ++panel) {
      for (int p = 0; p < kPixels; ++p) {
        int32_t sums[kPanel] = {};
        const int8_t* weights = tile.weights + panel * tile.panel_stride;
        for (int64_t t = 0; t < tile.taps; ++t) {
          const auto* row = static_cast<const uint8_t*>(tile.entries[p][tile.offsets[t]]);
          for (int64_t g = 0; g < tile.groups; ++g, row += kByteGroup) {
            for (int k = 0; k < kPanel; ++k) {
              for (int i = 0; i < kByteGroup; ++i) sums[k] += row[i] * weights[k * kByteGroup + i];
            }
            weights += kPanel * kByteGroup;
          }
        }
        for (int k = 0; k < kPanel; ++k) tile.sums[p * tile.pitch + panel * kPanel + k] = sums[k];
      }
    }
  }
};

// The nearest whole number, to even in the middle, of 0 .. 255; NaN becomes 0. So large a number
// has no bits behind the point.
inline uint8_t to_byte(float y) {
  constexpr float kWhole = 12582912.0f;  // 3 * 2^22
  const float positive = y > 0.0f ? y : 0.0f;
  const float bounded = positive < 255.0f ? positive : 255.0f;
  return static_cast<uint8_t>(static_cast<int32_t>((bounded + kWhole) - kWhole));
}

template <typename T>
inline void add_residual(const T* __restrict residual, float scale, int64_t channels,
                         float* __restrict y) {
  for (int64_t k = 0; k < channels; ++k) {
    const float product = static_cast<float>(residual[k]) * scale;
    y[k] += product;
  }
}

inline void store_row(const float* __restrict y, int64_t channels, bool bytes, int64_t offset,
                      void* out) {
  if (bytes) {
    uint8_t* __restrict to = static_cast<uint8_t*>(out) + offset;
    for (int64_t k = 0; k < channels; ++k) to[k] = to_byte(y[k]);
  } else {
    float* __restrict to = static_cast<float*>(out) + offset;
    for (int64_t k = 0; k < channels; ++k) to[k] = y[k];
  }
}

template <typename Sum>
void write(const ByteOutputs& given) {
  const ByteOutputs o = given;  // A copy that no write through a pointer can change.
  const int64_t padded = (o.channels + kPanel - 1) / kPanel * kPanel;
  for (int64_t pixel = 0; pixel < o.pixels; ++pixel) {
    const Sum* __restrict sums = static_cast<const Sum*>(o.sums) + pixel * o.sums_pitch;
    const int64_t row = pixel * o.pitch;
    alignas(64) float y[kMaxPanels * kPanel];
    for (int64_t k = 0; k < padded; ++k) {
      const float product = static_cast<float>(sums[k]) * o.scale[k];
      y[k] = product + o.bias[k];
    }
    if (o.residual != nullptr && o.residual_bytes) {
      add_residual(static_cast<const uint8_t*>(o.residual) + row, o.residual_scale, o.channels, y);
    } else if (o.residual != nullptr) {
      add_residual(static_cast<const float*>(o.residual) + row, o.residual_scale, o.channels, y);
    }
    for (int64_t k = 0; k < padded; ++k) {
      const float above = y[k] < o.low ? o.low : y[k];
      y[k] = above > o.high ? o.high : above;
    }
    if (o.out != nullptr) store_row(y, o.channels, o.out_bytes, row, o.out);
    if (o.out2 == nullptr) continue;
    for (int64_t k = 0; k < o.channels; ++k) {
      const float product = y[k] * o.scale2[k];
      const float second = product + o.bias2[k];
      y[k] = second < 0.0f ? 0.0f : second;
    }
    store_row(y, o.channels, o.out2_bytes, row, o.out2);
  }
}

}  // namespace

constinit const ByteLoops kBaseByteLoops =
    byte_loops<Plain>("plain", &write<int32_t>, &write<float>);
constinit const ByteLoops kStandInByteLoops =
    byte_loops<Plain>("amx_int8_standin", &write<int32_t>, &write<float>, &kPlainTileBytes);

}  // namespace segblocks::cpu
