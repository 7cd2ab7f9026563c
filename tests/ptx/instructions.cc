// Instructions that a warp runs together.

#include <algorithm>
#include <cmath>
#include <cstring>

#include "ptx/emulator.h"

namespace segblocks::ptx {
namespace {

constexpr int kRows = 16;
constexpr int kColumns = 8;
constexpr int kDepth = 16;
// Products that are summed up at once, with the sum so far.
constexpr int kGroup = 8;

float half_of(uint32_t word, int half, bool f16) {
  const auto bits = static_cast<uint16_t>(word >> 16 * half);
  return f16 ? float_of_f16(bits) : float_of_bf16(bits);
}

void add_exactly(const float (&a)[kRows][kDepth], const float (&b)[kDepth][kColumns],
                 float (&sums)[kRows][kColumns]) {
  for (int row = 0; row < kRows; ++row) {
    for (int k = 0; k < kDepth; ++k) {
      for (int column = 0; column < kColumns; ++column)
        sums[row][column] += a[row][k] * b[k][column];
    }
  }
}

// As tensor cores are known to add (Fasi, Higham, Mikaitis and Pranesh, "Numerical behavior of
// NVIDIA tensor cores", 2021), at their least exact: products are exact, all addends of a group are
// aligned to the largest one and cut off behind float32's last bit, and so is their sum.
void add_truncating(const float (&a)[kRows][kDepth], const float (&b)[kDepth][kColumns],
                    float (&sums)[kRows][kColumns]) {
  for (int row = 0; row < kRows; ++row) {
    for (int first = 0; first < kDepth; first += kGroup) {
      float addends[kGroup + 1][kColumns];
      float largest[kColumns];
      for (int c = 0; c < kColumns; ++c) {
        addends[kGroup][c] = sums[row][c];
        largest[c] = std::fabs(sums[row][c]);
      }
      for (int k = 0; k < kGroup; ++k) {
        for (int c = 0; c < kColumns; ++c) {
          const float product = a[row][first + k] * b[first + k][c];
          addends[k][c] = product;
          largest[c] = std::max(largest[c], std::fabs(product));
        }
      }
      for (int c = 0; c < kColumns; ++c) {
        const uint32_t exponent = std::bit_cast<uint32_t>(largest[c]) >> 23;
        // Beside what is no number or tiny, nothing is cut off.
        if (exponent >= 254 || exponent <= 24) {
          float sum = 0;
          for (int k = 0; k <= kGroup; ++k) sum += addends[k][c];
          sums[row][c] = sum;
          continue;
        }
        const float unit = std::bit_cast<float>((exponent - 23) << 23);
        const float scale = std::bit_cast<float>((254 - exponent + 23) << 23);
        int32_t sum = 0;
        for (int k = 0; k <= kGroup; ++k) sum += static_cast<int32_t>(addends[k][c] * scale);
        const int32_t cut = std::abs(sum);
        const int bits = 32 - std::countl_zero(static_cast<uint32_t>(cut));
        const int drop = std::max(bits - 24, 0);
        const float result = static_cast<float>(cut >> drop << drop) * unit;
        sums[row][c] = sum < 0 ? -result : result;
      }
    }
  }
}

}  // namespace

void multiply_block(const float (&a)[kRows][kDepth], const float (&b)[kDepth][kColumns],
                    float (&sums)[kRows][kColumns]) {
  if (settings().truncating) {
    add_truncating(a, b, sums);
  } else {
    add_exactly(a, b, sums);
  }
}

// mma.m16n8k16: PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type".
void multiply(const Lanes* a, const Lanes* b, const Lanes* c, Lanes* d, bool f16) {
  float left[kRows][kDepth];
  float right[kDepth][kColumns];
  float sums[kRows][kColumns];
  for (int lane = 0; lane < kLanes; ++lane) {
    const int row = lane / 4;
    const int two = lane % 4 * 2;
    for (int half = 0; half < 2; ++half) {
      for (int i = 0; i < 4; ++i) {
        left[row + i % 2 * 8][two + half + i / 2 * 8] = half_of(a[i][lane], half, f16);
        sums[row + i / 2 * 8][two + i % 2] = std::bit_cast<float>(c[i][lane]);
      }
      for (int i = 0; i < 2; ++i) right[two + half + i * 8][row] = half_of(b[i][lane], half, f16);
    }
  }
  multiply_block(left, right, sums);
  for (int lane = 0; lane < kLanes; ++lane) {
    for (int i = 0; i < 4; ++i) {
      d[i][lane] = std::bit_cast<uint32_t>(sums[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2]);
    }
  }
}

// ldmatrix: lane 8 m + r gives the address of row r of matrix m; lane l gets the two elements 2 (l
// % 4) of row l / 4, or of the column where transposed.
void load_matrices(Warp& warp, const Lanes& addresses, int count, bool transposed, Lanes* results) {
  warp.fenced = false;
  for (int matrix = 0; matrix < count; ++matrix) {
    uint16_t elements[8][8];
    for (int row = 0; row < 8; ++row) {
      const int lane = 8 * matrix + row;
      std::memcpy(elements[row],
                  warp.threads[lane].at<uint16_t, 8>(Space::kShared, addresses[lane]), 16);
    }
    for (int lane = 0; lane < kLanes; ++lane) {
      const int row = lane / 4;
      const int two = lane % 4 * 2;
      const uint32_t low = transposed ? elements[two][row] : elements[row][two];
      const uint32_t high = transposed ? elements[two + 1][row] : elements[row][two + 1];
      results[matrix][lane] = high << 16 | low;
    }
  }
}

void shuffle(Warp& warp, char mode, const Lanes& values, const Lanes& distances,
             const Lanes& bounds, Lanes& results, bool* in_range) {
  for (int lane = 0; lane < kLanes; ++lane) {
    if (!(warp.mask >> lane & 1)) continue;
    const int segment = bounds[lane] >> 8 & 31;
    const int clamp = bounds[lane] & 31;
    const int last = (lane & segment) | (clamp & ~segment);
    const int distance = static_cast<int>(distances[lane] & 31);
    int from = lane;
    if (mode == 'u') from = lane - distance;
    if (mode == 'd') from = lane + distance;
    if (mode == 'b') from = lane ^ distance;
    if (mode == 'i') from = (lane & segment) | (distance & ~segment);
    in_range[lane] = mode == 'u' ? from >= last : from <= last;
    if (!in_range[lane]) from = lane;
    if (!(warp.mask >> from & 1)) warp.fail("shfl from a lane that is not there");
    results[lane] = values[from];
  }
}

}  // namespace segblocks::ptx
