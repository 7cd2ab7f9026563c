// The memory of a call, and who touched it: every access is checked for its place, its alignment
// and its order to others.

#ifndef SEGBLOCKS_PTX_MEMORY_H_
#define SEGBLOCKS_PTX_MEMORY_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace segblocks::ptx {

constexpr int kLanes = 32;
constexpr uint32_t kSharedBytes = 228 << 10;  // Of a block, at most.
constexpr int kBlockShift = 24;  // Behind it a shared address has the block, plus 1; 0: one's own.

enum class Space { kGlobal, kShared, kLocal, kParam, kGeneric };
enum class Access { kLoad, kStore, kAtomic };

// Own memory of a thread.
struct Local {
  uintptr_t begin = 0;
  size_t bytes = 0;
};

class Memory {
 public:
  explicit Memory(std::string operation) : operation_(std::move(operation)) {}

  const std::string& operation() const { return operation_; }

  // Buffers of the call. What is written is filled with ones first, which are no numbers.
  void add_buffer(const char* name, const void* begin, int64_t bytes, int64_t element_bytes,
                  bool written);
  // One that holds an operand, in whose place a result is written.
  void add_buffer_in_place(const char* name, const void* begin, int64_t bytes,
                           int64_t element_bytes);
  // Accesses from now on are those of another kernel, behind all earlier ones.
  void start_kernel(const std::string& name, const std::vector<char>& params);
  // Those of another block of threads, or of a cluster of `blocks`, from `block` on. The threads of
  // a cluster are counted through, those of each block from a multiple of kLanes on.
  void start_blocks(int64_t block, int blocks, int threads, uint32_t shared_bytes,
                    bool late_copies);
  // A warp ends.
  void end_warp(int warp);

  // Where the data lies, once all is checked. Throws std::runtime_error.
  void* access(Space space, uint64_t address, size_t bytes, size_t alignment, Access kind,
               int thread, Local local);

  // Asynchronous copies to shared memory, from their start to the end of the wait for them.
  void start_copy(uint32_t to, uint64_t from, int bytes, int read, int thread);
  void finish_copy(uint32_t to, uint64_t from, int bytes, int read, int thread);

  // Reads two bytes for a product of a warp group, to the end of the wait for it. Of what threads
  // write, such a product sees what lies before a fence.proxy.async of theirs.
  uint16_t start_product(uint32_t address, int thread);
  void finish_product(uint32_t address, int thread);
  void fence_proxy(int thread);

  // What all threads of these warps did is before what they do from now on.
  void meet(const std::vector<int>& warps);

  // The address within the cluster of a block's shared address.
  uint32_t shared_of(uint32_t block, uint32_t address, int thread) const;
  uint64_t shared_window() const { return reinterpret_cast<uint64_t>(shared_.data()); }
  uint64_t params() const { return reinterpret_cast<uint64_t>(params_.data()); }

  [[noreturn]] void fail(const std::string& what, int thread) const;

 private:
  static constexpr uint64_t kNobody = 0;
  static constexpr uint64_t kGiven = ~uint64_t{0};
  struct Buffer {
    std::string name;
    uintptr_t begin;
    uintptr_t end;
    int64_t element_bytes;
    // Of each element: the thread of all of the call's; kNobody, or kGiven in place of an operand.
    std::vector<uint64_t> writers;
  };
  // Two bytes of shared memory.
  struct Cell {
    uint32_t write_clock = 0;
    int32_t writer = -1;
    uint32_t read_clocks[2] = {0, 0};
    int32_t readers[2] = {-1, -1};  // The latest ones, of different warps.
    bool many = false;              // Several lanes of readers[0]'s warp, at the same time.
    bool pending = false;           // A copy goes on.
    uint16_t products = 0;          // That go on and read it,
    int32_t multiplier = -1;        // one of them of this thread.
    uint32_t fences = 0;            // Of the writer, before it wrote.
  };

  bool before(int32_t thread, uint32_t clock, int now) const;
  void check_shared(size_t place, size_t bytes, bool store, int thread);
  // Where a shared address of a thread lies among the shared memory of the cluster.
  size_t place_of(uint64_t address, int thread) const;
  void check_global(uintptr_t address, size_t bytes, Access kind, int thread);

  std::string operation_;
  std::vector<Buffer> buffers_;
  size_t last_buffer_ = 0;
  std::string kernel_;
  int64_t kernels_ = 0;
  std::vector<char> params_;
  std::vector<char> shared_;
  std::vector<Cell> cells_;
  uint32_t shared_bytes_ = 0;
  bool late_ = false;
  int64_t block_ = 0;
  int blocks_ = 1;
  int warps_ = 0;           // Of the cluster.
  std::vector<int> alive_;  // Warps of each block.
  uint32_t clock_ = 0;
  uint32_t first_clock_ = 0;                   // Of these blocks.
  std::vector<std::vector<uint32_t>> fences_;  // Of each thread, by its warp's clock.
  // clocks_[a * warps + b]: up to which of its clocks warp b is before warp a's present.
  std::vector<uint32_t> clocks_;
};

}  // namespace segblocks::ptx

#endif  // SEGBLOCKS_PTX_MEMORY_H_
