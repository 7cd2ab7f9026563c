// Stand-ins for the tile unit and the dot product: what the instructions mean, in plain C++.
//
// Products of bfloat16 are exact in float32. The unit forms sums of the even and of the odd inputs
// of a step from zero, adds them, and adds their sum to the register; inputs and results that are
// subnormal count as zeros (Intel's manual, TDPBF16PS and VDPBF16PS).

#include <stdint.h>

#include "cpu/half.h"
#include "cpu/pairs_dots.h"
#include "cpu/products.h"
#include "cpu/products_tiles.h"

namespace segblocks::cpu {
namespace {

float flushed(float value) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, value);
  return (bits & 0x7f800000u) != 0 ? value : __builtin_bit_cast(float, bits & 0x80000000u);
}

// `count` inputs, of any address.
void read(const char* bytes, int count, float* inputs) {
  for (int k = 0; k < count; ++k) {
    BFloat16 value;
    __builtin_memcpy(&value, bytes + 2 * k, sizeof(value));
    inputs[k] = flushed(to_float(value));
  }
}

// sums[k] += pixel * weights[2 * k]
void add_products(float pixel, const float* weights, float* sums) {
  for (int k = 0; k < kPanel; ++k) sums[k] = flushed(sums[k] + pixel * weights[2 * k]);
}

void plain_copy(const Copies& copies) {
  for (int64_t i = 0; i < copies.count; ++i) {
    char* to = copies.to + i * copies.pitch;
    __builtin_memcpy(to, copies.from + i * copies.step, copies.depth);
    __builtin_memset(to + copies.depth, 0, copies.pitch - copies.depth);
  }
}

struct PlainRegisters {
  struct Registers {
    bool usable = false;
    char rows[8][16][kStepBytes];
  };
  static thread_local Registers registers;

  static void begin() {
    if (registers.usable) __builtin_trap();
    registers = {};
    registers.usable = true;
  }
  static void end() {
    if (!registers.usable) __builtin_trap();
    registers.usable = false;
  }

  template <int kTo>
  static void zero() {
    __builtin_memset(usable(kTo), 0, sizeof(registers.rows[kTo]));
  }
  template <int kTo>
  static void load(const void* rows, int64_t stride) {
    char (*to)[kStepBytes] = usable(kTo);
    for (int p = 0; p < 16; ++p) {
      __builtin_memcpy(to[p], static_cast<const char*>(rows) + p * stride, kStepBytes);
    }
  }
  template <int kFrom>
  static void store(void* rows, int64_t stride) {
    char (*from)[kStepBytes] = usable(kFrom);
    for (int p = 0; p < 16; ++p) {
      __builtin_memcpy(static_cast<char*>(rows) + p * stride, from[p], kStepBytes);
    }
  }

  // A register; outside of begin() and end() the processor would stop the process, too.
  static char (*usable(int k)) [kStepBytes] {
    if (!registers.usable) __builtin_trap();
    return registers.rows[k];
  }
};

thread_local PlainRegisters::Registers PlainRegisters::registers;

struct PlainUnit : PlainRegisters {
  using Outputs = segblocks::cpu::Outputs;
  using Rows = PlainRows<Outputs>;

  template <int kSums, int kPixels, int kWeights>
  static void dot() {
    char (*to)[kStepBytes] = usable(kSums);
    float weights[16][2 * kPanel];
    for (int d = 0; d < 16; ++d) read(registers.rows[kWeights][d], 2 * kPanel, weights[d]);
    for (int p = 0; p < 16; ++p) {
      float pixel[32];
      float sums[kPanel];
      float even[kPanel] = {};
      float odd[kPanel] = {};
      read(registers.rows[kPixels][p], 32, pixel);
      for (int d = 0; d < 16; ++d) {
        add_products(pixel[2 * d], weights[d], even);
        add_products(pixel[2 * d + 1], weights[d] + 1, odd);
      }
      __builtin_memcpy(sums, to[p], sizeof(sums));
      for (int k = 0; k < kPanel; ++k) {
        sums[k] = flushed(flushed(sums[k]) + flushed(even[k] + odd[k]));
      }
      __builtin_memcpy(to[p], sums, sizeof(sums));
    }
  }
};

struct PlainByteUnit : PlainRegisters {
  using Outputs = ByteOutputs;
  using Rows = PlainRows<Outputs>;

  template <int kSums, int kPixels, int kWeights>
  static void dot() {
    char (*to)[kStepBytes] = usable(kSums);
    const char (*pixels)[kStepBytes] = usable(kPixels);
    const char (*weights)[kStepBytes] = usable(kWeights);
    for (int p = 0; p < 16; ++p) {
      int32_t sums[kPanel];
      __builtin_memcpy(sums, to[p], sizeof(sums));
      for (int d = 0; d < kStepBytes; ++d) {
        const auto pixel = static_cast<uint8_t>(pixels[p][d]);
        for (int k = 0; k < kPanel; ++k) {
          sums[k] += pixel * static_cast<int8_t>(weights[d / 4][k * 4 + d % 4]);
        }
      }
      __builtin_memcpy(to[p], sums, sizeof(sums));
    }
  }
};

struct PlainDot {
  struct Sums {
    float values[kPanel];
  };

  static Sums zero() { return {}; }
  static Sums dot(Sums sums, const char* pixels, const char* weights) {
    float pair[2];
    float inputs[2 * kPanel];
    read(pixels, 2, pair);
    read(weights, 2 * kPanel, inputs);
    for (float& sum : sums.values) sum = flushed(sum);
    add_products(pair[1], inputs + 1, sums.values);
    add_products(pair[0], inputs, sums.values);
    return sums;
  }
  static void store(float* rows, const Sums& sums) {
    __builtin_memcpy(rows, sums.values, sizeof(sums.values));
  }
};

}  // namespace

constinit const Products<Outputs> kPlainTilePairs =
    tile_products<PlainUnit>("amx_standin", &plain_copy);
constinit const Products<Outputs> kPlainDotPairs =
    dot_pairs<PlainDot>("avx512_bf16_standin", &plain_copy);
constinit const Products<ByteOutputs> kPlainTileBytes =
    tile_products<PlainByteUnit>("amx_int8_standin", &plain_copy);

}  // namespace segblocks::cpu
