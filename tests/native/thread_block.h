// Thread blocks of a GPU on the host: fibers as threads, and the instructions of sm_80 that the
// tiles of indexed convolutions use, after the PTX manual; clusters of blocks, which sm_90 has.

#ifndef SEGBLOCKS_TESTS_NATIVE_THREAD_BLOCK_H_
#define SEGBLOCKS_TESTS_NATIVE_THREAD_BLOCK_H_

#include <ucontext.h>

#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <cute/tensor.hpp>
#include <deque>
#include <functional>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "cuda/vectors.cuh"

namespace segblocks::test {

// Runs the threads of a block in turns, in a random order. Copies to shared memory may come as late
// as they are waited for, or at once; a right program bears both.
class ThreadBlock {
 public:
  static constexpr int kLanes = 32;

  // With several pieces of shared memory it is a cluster of blocks, each with so many threads.
  ThreadBlock(int threads, bool late_copies, unsigned seed, std::vector<char*> shared = {nullptr})
      : threads_(threads),
        shared_(std::move(shared)),
        late_copies_(late_copies),
        random_(seed),
        blocks_(shared_.size()),
        warps_(shared_.size() * threads / kLanes),
        offers_(shared_.size() * threads / kLanes),
        fibers_(shared_.size() * threads) {}

  void run(const std::function<void(int)>& body) {
    body_ = &body;
    running_ = this;
    for (size_t i = 0; i < fibers_.size(); ++i) start(static_cast<int>(i));
    size_t done = 0;
    while (!ready_.empty()) {
      std::swap(ready_[random_() % ready_.size()], ready_.back());
      current_ = ready_.back();
      ready_.pop_back();
      swapcontext(&scheduler_, &fibers_[current_].context);
      done += fibers_[current_].done;
    }
    if (done == fibers_.size()) return;
    std::printf("failed: the threads of a block wait for each other for ever\n");
    std::exit(1);
  }

  static ThreadBlock& running() { return *running_; }
  int lane() const { return current_ % kLanes; }

  void join_block() {
    join(blocks_[current_ / threads_], threads_, [] {});
  }
  void join_cluster() {
    join(all_, fibers_.size(), [] {});
  }
  // What a block of the cluster has where this one has `own`.
  const void* of_block(int block, const void* own) const {
    return shared_.at(block) + (static_cast<const char*>(own) - shared_[current_ / threads_]);
  }
  // Once all lanes of the warp have come, the last one acts for all.
  template <typename Act>
  void join_warp(const Act& act) {
    join(warps_[current_ / kLanes], kLanes, act);
  }
  // What the lanes of this thread's warp bring to a meeting.
  std::array<void*, kLanes>& offers() { return offers_[current_ / kLanes]; }

  void copy(void* to, const void* from, int bytes, bool some) {
    const Copy copy{to, some ? from : nullptr, bytes};
    if (late_copies_) {
      fibers_[current_].open.push_back(copy);
    } else {
      perform(copy);
    }
  }
  void commit() {
    Fiber& fiber = fibers_[current_];
    fiber.groups.push_back(std::exchange(fiber.open, {}));
  }
  void wait(size_t pending) {
    auto& groups = fibers_[current_].groups;
    for (; groups.size() > pending; groups.pop_front()) {
      for (const Copy& copy : groups.front()) perform(copy);
    }
  }

 private:
  struct Copy {
    void* to;
    const void* from;  // Null: zeros.
    int bytes;
  };
  struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack;
    bool done = false;
    std::vector<Copy> open;
    std::deque<std::vector<Copy>> groups;
  };
  static constexpr size_t kStack = 256 << 10;

  static void perform(const Copy& copy) {
    if (copy.from == nullptr) {
      std::memset(copy.to, 0, copy.bytes);
    } else {
      std::memcpy(copy.to, copy.from, copy.bytes);
    }
  }

  static void enter() {
    ThreadBlock& block = *running_;
    (*block.body_)(block.current_);
    block.fibers_[block.current_].done = true;
    block.yield();
  }

  void start(int i) {
    Fiber& fiber = fibers_[i];
    fiber.stack = std::make_unique<char[]>(kStack);
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStack;
    fiber.context.uc_link = &scheduler_;
    makecontext(&fiber.context, &ThreadBlock::enter, 0);
    ready_.push_back(i);
  }

  // Threads that meet, again and again.
  template <typename Act>
  void join(std::vector<int>& waiting, size_t threads, const Act& act) {
    waiting.push_back(current_);
    if (waiting.size() == threads) {
      act();
      ready_.insert(ready_.end(), waiting.begin(), waiting.end());
      waiting.clear();
    }
    yield();
  }

  void yield() { swapcontext(&fibers_[current_].context, &scheduler_); }

  static inline ThreadBlock* running_ = nullptr;
  int threads_;  // Of a block.
  std::vector<char*> shared_;
  bool late_copies_;
  std::mt19937 random_;
  std::vector<int> all_;                  // Threads that wait at the cluster's barrier,
  std::vector<std::vector<int>> blocks_;  // and at that of a block.
  std::vector<std::vector<int>> warps_;
  std::vector<std::array<void*, kLanes>> offers_;
  std::vector<Fiber> fibers_;
  std::vector<int> ready_;
  ucontext_t scheduler_;
  const std::function<void(int)>* body_ = nullptr;
  int current_ = 0;
};

inline void check(bool ok, const char* what) {
  if (ok) return;
  std::printf("failed: %s\n", what);
  std::exit(1);
}

inline float half_of(uint32_t word, int half) {
  const uint32_t bits = (half == 0 ? word << 16 : word & 0xffff0000u);
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// ldmatrix.x4: lanes 8 m .. 8 m + 7 give the addresses of the rows of matrix m. Lane l gets of each
// matrix the elements (l / 4, 2 (l % 4)) and the next one in the row, transposed: in the column.
template <bool kTransposed>
struct LoadMatrices {
  using SRegisters = cute::uint128_t[1];
  using DRegisters = uint32_t[4];

  static void copy(const cute::uint128_t& row, uint32_t& d0, uint32_t& d1, uint32_t& d2,
                   uint32_t& d3) {
    struct Offer {
      const uint16_t* row;
      std::array<uint32_t*, 4> results;
    } offer{reinterpret_cast<const uint16_t*>(&row), {&d0, &d1, &d2, &d3}};
    ThreadBlock& block = ThreadBlock::running();
    auto& offers = block.offers();
    offers[block.lane()] = &offer;
    block.join_warp([&] {
      const auto of = [&](int lane) { return static_cast<Offer*>(offers[lane]); };
      for (int m = 0; m < 4; ++m) {
        unsigned banks = 0;
        for (int r = 0; r < 8; ++r) {
          const auto address = reinterpret_cast<uintptr_t>(of(8 * m + r)->row);
          check(address % 16 == 0, "ldmatrix reads aligned rows");
          banks |= 1u << address / 16 % 8;
        }
        check(banks == 0xff, "ldmatrix without bank conflicts");
        for (int lane = 0; lane < ThreadBlock::kLanes; ++lane) {
          uint32_t word = 0;
          for (int half = 0; half < 2; ++half) {
            const int pair = 2 * (lane % 4) + half;
            const uint32_t element =
                kTransposed ? of(8 * m + pair)->row[lane / 4] : of(8 * m + lane / 4)->row[pair];
            word |= element << 16 * half;
          }
          *of(lane)->results[m] = word;
        }
      }
    });
  }
};

// mma.sync.m16n8k16, row by column, bfloat16 into float32.
struct Multiply {
  using DRegisters = float[4];
  using ARegisters = uint32_t[4];
  using BRegisters = uint32_t[2];
  using CRegisters = float[4];

  static void fma(float& d0, float& d1, float& d2, float& d3, const uint32_t& a0,
                  const uint32_t& a1, const uint32_t& a2, const uint32_t& a3, const uint32_t& b0,
                  const uint32_t& b1, const float& c0, const float& c1, const float& c2,
                  const float& c3) {
    struct Offer {
      std::array<uint32_t, 4> a;
      std::array<uint32_t, 2> b;
      std::array<float, 4> c;
      std::array<float*, 4> d;
    } offer{{a0, a1, a2, a3}, {b0, b1}, {c0, c1, c2, c3}, {&d0, &d1, &d2, &d3}};
    ThreadBlock& block = ThreadBlock::running();
    auto& offers = block.offers();
    offers[block.lane()] = &offer;
    block.join_warp([&] {
      float a[16][16];
      float b[16][8];
      const auto of = [&](int lane) { return static_cast<Offer*>(offers[lane]); };
      for (int lane = 0; lane < ThreadBlock::kLanes; ++lane) {
        const int group = lane / 4;
        const int first = 2 * (lane % 4);
        for (int half = 0; half < 2; ++half) {
          for (int part = 0; part < 4; ++part) {
            a[group + 8 * (part % 2)][first + half + 8 * (part / 2)] =
                half_of(of(lane)->a[part], half);
          }
          for (int part = 0; part < 2; ++part) {
            b[first + half + 8 * part][group] = half_of(of(lane)->b[part], half);
          }
        }
      }
      for (int lane = 0; lane < ThreadBlock::kLanes; ++lane) {
        for (int part = 0; part < 4; ++part) {
          const int row = lane / 4 + 8 * (part / 2);
          const int column = 2 * (lane % 4) + part % 2;
          float sum = of(lane)->c[part];
          for (int k = 0; k < 16; ++k) sum += a[row][k] * b[k][column];
          *of(lane)->d[part] = sum;
        }
      }
    });
  }
};

// The instructions as the tiles ask for them.
struct HostMachine {
  using Multiply = test::Multiply;
  using LoadRows = LoadMatrices<false>;
  using LoadWeights = LoadMatrices<true>;

  template <int kElements>
  static void copy_row(void* to, const void* from, bool some) {
    copy(to, from, 2 * kElements, some);
  }
  static void copy_weights(void* to, const void* from, bool some) { copy(to, from, 16, some); }
  static void commit() { ThreadBlock::running().commit(); }
  template <int kPending>
  static void wait() {
    ThreadBlock::running().wait(kPending);
  }
  static void sync() { ThreadBlock::running().join_block(); }
  static void sync_cluster() { ThreadBlock::running().join_cluster(); }
  template <int kLoad>
  static cuda::Vector<float, kLoad> load_of(int32_t part, const float* from) {
    return cuda::load<float, kLoad>(
        static_cast<const float*>(ThreadBlock::running().of_block(part, from)));
  }

 private:
  static void copy(void* to, const void* from, int bytes, bool some) {
    check(reinterpret_cast<uintptr_t>(to) % bytes == 0, "copies go to aligned addresses");
    check(reinterpret_cast<uintptr_t>(from) % bytes == 0, "copies come from aligned addresses");
    ThreadBlock::running().copy(to, from, bytes, some);
  }
};

}  // namespace segblocks::test

namespace cute {

template <>
struct MMA_Traits<segblocks::test::Multiply> : MMA_Traits<SM80_16x8x16_F32BF16BF16F32_TN> {};
template <>
struct Copy_Traits<segblocks::test::LoadMatrices<false>> : Copy_Traits<SM75_U32x4_LDSM_N> {};
template <>
struct Copy_Traits<segblocks::test::LoadMatrices<true>> : Copy_Traits<SM75_U16x8_LDSM_T> {};

}  // namespace cute

#endif  // SEGBLOCKS_TESTS_NATIVE_THREAD_BLOCK_H_
