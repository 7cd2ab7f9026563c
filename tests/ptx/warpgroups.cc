// Products of warp groups (wgmma), warp by warp: each one has 16 of the 64 rows.
//
// Sums are computed at once, but registers hold tokens for them until the wait: signaling NaNs,
// which may be moved and summed up further, but come to nothing where they are used.

#include <algorithm>
#include <bit>

#include "ptx/emulator.h"

namespace segblocks::ptx {
namespace {

constexpr int kRows = 16;  // Of a warp.
constexpr int kDepth = 16;
constexpr uint32_t kToken = 0xff800000;  // With a number behind it.
constexpr uint32_t kTokens = 1 << 22;

// How a factor lies in shared memory. PTX ISA, "Shared Memory Matrix Layout" and "Matrix Descriptor
// Format" of wgmma: `across` runs along rows of A, or columns of B.
class SharedMatrix {
 public:
  SharedMatrix(Warp& warp, const Lanes (&words)[2], bool transposed) : transposed_(transposed) {
    for (int lane = 1; lane < kLanes; ++lane) {
      if (words[0][lane] != words[0][0] || words[1][lane] != words[1][0]) {
        warp.fail("a descriptor differs between lanes");
      }
    }
    start_ = (words[0][0] & 0x3fff) << 4;
    leading_ = (words[0][0] >> 16 & 0x3fff) << 4;
    stride_ = (words[1][0] & 0x3fff) << 4;
    const uint32_t kind = words[1][0] >> 30;
    bits_ = kind == 0 ? 0 : 4 - kind;
    width_ = 16u << bits_;
    if (words[1][0] >> 17 & 7) warp.fail("a descriptor with a base offset");
  }

  // Of an element.
  uint32_t address(int across, int k) const {
    const auto row = static_cast<uint32_t>(transposed_ ? k : across);
    const auto column = static_cast<uint32_t>(transposed_ ? across : k);
    const uint32_t in_row = column * 2 % width_;
    const uint32_t beyond = column * 2 / width_;
    uint32_t at = start_ + row % 8 * width_ + in_row;
    // Without swizzle, the two strides change places where transposed; else the rows' groups of
    // eight are `stride_` apart.
    const bool changed = bits_ == 0 && transposed_;
    at += row / 8 * (changed ? leading_ : stride_) + beyond * (changed ? stride_ : leading_);
    return at ^ (at >> 3 & ((1u << bits_) - 1) << 4);
  }

 private:
  bool transposed_;
  uint32_t start_;
  uint32_t leading_;
  uint32_t stride_;
  uint32_t bits_;   // Of an address that the swizzle changes.
  uint32_t width_;  // Bytes of a row.
};

float value_of(Warp& warp, const SharedMatrix& matrix, int across, int k, AsyncProduct& product) {
  const uint32_t address = matrix.address(across, k);
  product.addresses.push_back(address);
  return float_of_bf16(warp.memory->start_product(address, warp.index * kLanes));
}

// What a register has, or will have.
uint32_t sum_of(const Warp& warp, uint32_t word, int lane) {
  const auto find = [&](const std::vector<AsyncProduct>& group) {
    for (const AsyncProduct& product : group) {
      const uint32_t i = word - product.token;
      if (i < product.sums.size()) return word = product.sums[i][lane], true;
    }
    return false;
  };
  if (find(warp.open)) return word;
  for (const auto& group : warp.groups) {
    if (find(group)) return word;
  }
  return word;
}

}  // namespace

void Warp::fence_registers() {
  want_all("wgmma");
  fenced = true;
}

void Warp::commit_products() {
  want_all("wgmma");
  groups.push_back(std::move(open));
  open.clear();
}

void Warp::wait_for_products(size_t pending) {
  want_all("wgmma");
  fenced = false;
  for (; groups.size() > pending; groups.pop_front()) {
    const std::vector<AsyncProduct>& group = groups.front();
    for (const AsyncProduct& product : group) {
      for (const uint32_t address : product.addresses) {
        memory->finish_product(address, index * kLanes);
      }
      for (const auto& [offset, words] : product.left) {
        for (int lane = 0; lane < kLanes; ++lane) {
          if (word(lane, offset) != words[lane]) fail("registers of a product are written");
        }
      }
    }
    for (int lane = 0; lane < kLanes && !group.empty(); ++lane) {
      for (size_t at = 0; at < kernel->register_bytes; at += sizeof(uint32_t)) {
        uint32_t& value = word(lane, at);
        if (value - kToken >= kTokens) continue;
        for (const AsyncProduct& product : group) {
          const uint32_t i = value - product.token;
          if (i < product.sums.size()) {
            value = product.sums[i][lane];
            break;
          }
        }
      }
    }
  }
}

void multiply_async(Warp& warp, const GroupProduct& given) {
  warp.want_all("wgmma");
  if (!warp.fenced) warp.fail("a product without wgmma.fence before it");
  const auto count = static_cast<int>(given.sums.size());
  AsyncProduct product;
  // Far from the first ones, which whole numbers might be.
  if (warp.tokens + count >= kTokens || warp.tokens == 0) warp.tokens = 1 << 20;
  product.token = kToken + warp.tokens;
  warp.tokens += count;
  product.sums.resize(count);

  float left[kRows][kDepth];
  if (given.left.empty()) {
    const SharedMatrix matrix(warp, given.left_words, given.left_transposed);
    const int first = warp.index % kGroupWarps * kRows;
    for (int row = 0; row < kRows; ++row) {
      for (int k = 0; k < kDepth; ++k)
        left[row][k] = value_of(warp, matrix, first + row, k, product);
    }
  } else {
    for (int i = 0; i < 4; ++i) {
      std::array<uint32_t, kLanes> words;
      for (int lane = 0; lane < kLanes; ++lane) {
        words[lane] = warp.word(lane, given.left[i]);
        for (int half = 0; half < 2; ++half) {
          left[lane / 4 + i % 2 * 8][lane % 4 * 2 + half + i / 2 * 8] =
              float_of_bf16(static_cast<uint16_t>(words[lane] >> 16 * half));
        }
      }
      product.left.emplace_back(given.left[i], words);
    }
  }
  const SharedMatrix matrix(warp, given.right_words, given.right_transposed);
  for (int first = 0; first < count; first += 4) {  // Sums of a lane for 8 columns.
    float right[kDepth][8];
    float sums[kRows][8];
    for (int k = 0; k < kDepth; ++k) {
      for (int c = 0; c < 8; ++c) right[k][c] = value_of(warp, matrix, 2 * first + c, k, product);
    }
    for (int lane = 0; lane < kLanes; ++lane) {
      for (int i = 0; i < 4; ++i) {
        const uint32_t word = sum_of(warp, warp.word(lane, given.sums[first + i]), lane);
        sums[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2] =
            given.adds[0] ? std::bit_cast<float>(word) : 0.0f;
      }
    }
    multiply_block(left, right, sums);
    for (int lane = 0; lane < kLanes; ++lane) {
      for (int i = 0; i < 4; ++i) {
        product.sums[first + i][lane] =
            std::bit_cast<uint32_t>(sums[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2]);
      }
    }
  }
  for (int i = 0; i < count; ++i) {
    for (int lane = 0; lane < kLanes; ++lane) warp.word(lane, given.sums[i]) = product.token + i;
  }
  const auto mix = [&](uint64_t more) { warp.products = warp.products * 1000003 + more + 1; };
  mix(static_cast<uint64_t>(warp.step));
  mix(static_cast<uint64_t>(given.right_words[1][0]) << 32 | given.right_words[0][0]);
  warp.open.push_back(std::move(product));
}

uint16_t Memory::start_product(uint32_t address, int thread) {
  if (address % 2 != 0 || address + 2 > shared_bytes_) {
    fail("a product reads out of bounds of shared memory", thread);
  }
  const size_t place = place_of(address, thread);
  Cell& cell = cells_[place / 2];
  const auto wrong = [&](const std::string& what) {
    fail(what + ": shared address " + std::to_string(address) + " is multiplied, which thread " +
             std::to_string(cell.writer) + " writes",
         thread);
  };
  if (cell.pending || !before(cell.writer, cell.write_clock, thread)) wrong("race");
  if (cell.write_clock >= first_clock_ && cell.writer >= 0) {
    const std::vector<uint32_t>& fences = fences_[cell.writer];
    // By one's own warp later ones count, too; from others it has to lie before a barrier.
    if (cell.fences >= fences.size() || !before(cell.writer, fences[cell.fences], thread)) {
      wrong("no fence.proxy.async");
    }
  }
  ++cell.products;
  cell.multiplier = thread;
  return static_cast<uint16_t>(shared_[place] & 255) |
         static_cast<uint16_t>(shared_[place + 1] & 255) << 8;
}

void Memory::finish_product(uint32_t address, int thread) {
  const size_t place = place_of(address, thread);
  --cells_[place / 2].products;
  check_shared(place, 2, false, thread);
}

void Memory::fence_proxy(int thread) {
  const int warp = thread / kLanes;
  fences_[thread].push_back(clocks_[warp * warps_ + warp]);
}

}  // namespace segblocks::ptx
