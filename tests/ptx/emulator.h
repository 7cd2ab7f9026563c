// Runs PTX that translate.py has made into C++: a kernel as steps, warp by warp.
//
// A step is a piece of straight code that each lane runs by itself, or one instruction that a warp
// runs together. The lanes at the first step go first, so that they meet again behind branches.

#ifndef SEGBLOCKS_PTX_EMULATOR_H_
#define SEGBLOCKS_PTX_EMULATOR_H_

#include <array>
#include <cstdint>
#include <deque>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "ptx/arithmetic.h"
#include "ptx/memory.h"

namespace segblocks::ptx {

constexpr int kExit = 1 << 30;
constexpr int kBarriers = 16;  // Of a block.
constexpr int kGroupWarps = 4;
constexpr int kClusterBarrier = 1 << 20;

struct Kernel;
struct Warp;

struct Grid {
  Dim3 blocks;
  Dim3 threads;
};

struct Thread {
  struct Copy {
    uint32_t to;
    uint64_t from;
    int bytes;
    int read;  // The rest are zeros.
  };

  Dim3 tid;
  Dim3 block;
  int index = 0;  // In its cluster.
  int step = 0;
  Memory* memory = nullptr;
  const Grid* grid = nullptr;
  std::vector<uint64_t> local;
  std::vector<Copy> open;  // Copies that are in no group yet.
  std::deque<std::vector<Copy>> groups;

  uint64_t local_address() const { return reinterpret_cast<uint64_t>(local.data()); }

  template <typename T, int kCount = 1, Access kAccess = Access::kLoad>
  T* at(Space space, uint64_t address) {
    constexpr size_t kBytes = sizeof(T) * kCount;
    return static_cast<T*>(memory->access(space, address, kBytes, kBytes, kAccess, index,
                                          {local_address(), local.size() * sizeof(uint64_t)}));
  }

  void copy_async(uint32_t to, uint64_t from, int bytes, uint32_t read) {
    open.push_back({to, from, bytes, static_cast<int>(read)});
    memory->start_copy(to, from, bytes, static_cast<int>(read), index);
  }
  void commit_copies() {
    groups.push_back(std::move(open));
    open.clear();
  }
  void wait_for_copies(size_t pending);
};

struct Step {
  void (*run)(Warp& warp);
  int instructions;
  int products;   // Tensor-core instructions among them.
  int divisions;  // 64-bit divisions and remainders among them: long calls in machine code.
};

struct Kernel {
  const char* name;
  std::vector<Step> steps;
  size_t register_bytes;
  size_t local_bytes;
  uint32_t shared_bytes;  // Of fixed size.
  std::vector<int> param_bytes;
  std::vector<int> param_offsets;
  int max_threads;
};

// A warp's part in a product of its warp group that goes on.
struct AsyncProduct {
  uint32_t token;                                  // What stands for the first of its sums,
  std::vector<std::array<uint32_t, kLanes>> sums;  // and these, in their order.
  std::vector<uint32_t> addresses;                 // Of shared memory that it reads.
  std::vector<std::pair<uint32_t, std::array<uint32_t, kLanes>>> left;  // Registers that it reads.
};

struct Warp {
  const Kernel* kernel = nullptr;
  Memory* memory = nullptr;
  int index = 0;
  int lanes = 0;
  int step = 0;             // The present one.
  uint32_t mask = 0;        // Its lanes.
  uint32_t order = 0;       // Lane i of the order is i ^ order.
  int block = 0;            // In its cluster.
  int barrier = -1;         // That it waits at,
  int barrier_threads = 0;  // and how many threads meet there; 0: all.
  int arrived = -1;         // Its step at the barrier of the cluster.
  std::vector<Thread> threads;
  std::vector<uint64_t> registers;
  bool fenced = false;             // Registers, for products.
  uint64_t products = 0;           // A hash of those that have begun.
  uint32_t tokens = 0;             // That have been given away.
  std::vector<AsyncProduct> open;  // Products that are in no group yet.
  std::deque<std::vector<AsyncProduct>> groups;

  uint32_t& word(int lane, size_t offset) {
    auto* const bytes = reinterpret_cast<char*>(registers.data()) + lane * kernel->register_bytes;
    return *reinterpret_cast<uint32_t*>(bytes + offset);
  }

  template <typename R>
  R& of(int lane) {
    return reinterpret_cast<R*>(registers.data())[lane];
  }

  // Runs code(registers, thread), which returns the next step, for each lane.
  template <typename R, typename Code>
  void each(const Code& code) {
    for (int i = 0; i < kLanes; ++i) {
      const int lane = static_cast<int>(i ^ order);
      if (mask >> lane & 1) threads[lane].step = code(of<R>(lane), threads[lane]);
    }
  }

  [[noreturn]] void fail(const std::string& what) const;
  // For instructions that a warp runs together, which all its lanes have to do.
  void want_all(const char* instruction) const;
  void go_on() {
    for (int lane = 0; lane < lanes; ++lane) {
      if (mask >> lane & 1) threads[lane].step = step + 1;
    }
  }
  void wait_at(int barrier, int count);
  // The barrier of the cluster, in two steps that have to follow each other.
  void arrive_at_cluster();
  void wait_for_cluster();
  // Products of the warp group: wgmma.fence, commit_group and wait_group.
  void fence_registers();
  void commit_products();
  void wait_for_products(size_t pending);
  // Finds the next step and its lanes; whether there is any.
  bool advance();
};

struct Counts {
  int64_t launches = 0;
  int64_t blocks = 0;
  int64_t warps = 0;
  int64_t instructions = 0;  // Of warps.
  int64_t products = 0;
  int64_t divisions = 0;
};

// Kernels by their names in PTX.
std::map<std::string, Kernel>& kernels();
// What was executed, by operation and kernel.
std::map<std::pair<std::string, std::string>, Counts>& counts();

struct Registrar {
  explicit Registrar(std::vector<Kernel> list) {
    for (Kernel& kernel : list) kernels().emplace(kernel.name, std::move(kernel));
  }
};

struct Settings {
  uint32_t seed = 0;  // Of the order of blocks, warps and lanes, and of copies early and late.
  int processors = 132;
  std::string skip;        // Kernels of this operation don't run; their results are poison.
  int capability = 90;     // Of the GPU: 80 stands for 8.0.
  bool truncating = true;  // Tensor cores cut off what is too small beside the largest addend.
};
Settings& settings();

// The memory of the call in progress.
Memory*& current_memory();

// Runs a whole grid, in clusters of so many neighboring blocks. Throws std::runtime_error where a
// kernel goes wrong.
void run_grid(const Kernel& kernel, Dim3 blocks, Dim3 threads, void** arguments,
              size_t dynamic_shared_bytes, int cluster = 1);

// Instructions that a warp runs together, on the registers of all lanes.
using Lanes = uint32_t[kLanes];
void multiply(const Lanes* a, const Lanes* b, const Lanes* c, Lanes* d, bool halves);
void load_matrices(Warp& warp, const Lanes& addresses, int count, bool transposed, Lanes* results);
// One with both factors in registers but for their place: D = A B + C of 16 x 8 x 16, added as
// `settings` has it.
void multiply_block(const float (&a)[16][16], const float (&b)[16][8], float (&sums)[16][8]);

// wgmma.mma_async.m64nNk16 of bfloat16. Sums are offsets of registers. The left factor is 4 such,
// or in shared memory, as the right one is.
struct GroupProduct {
  std::vector<uint32_t> sums;
  std::vector<uint32_t> left;
  Lanes left_words[2];
  Lanes right_words[2];
  Lanes adds;
  bool left_transposed;
  bool right_transposed;
};
void multiply_async(Warp& warp, const GroupProduct& product);
// shfl.sync: values from other lanes; whether each is in range.
void shuffle(Warp& warp, char mode, const Lanes& values, const Lanes& distances,
             const Lanes& bounds, Lanes& results, bool* in_range);

}  // namespace segblocks::ptx

#endif  // SEGBLOCKS_PTX_EMULATOR_H_
