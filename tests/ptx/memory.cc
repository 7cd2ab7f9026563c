#include "ptx/memory.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

namespace segblocks::ptx {
namespace {

constexpr int64_t kThreadBits = 40;

}  // namespace

void Memory::fail(const std::string& what, int thread) const {
  throw std::runtime_error(what + ", thread " + std::to_string(thread) + " of block " +
                           std::to_string(block_) + " of kernel " + kernel_);
}

void Memory::add_buffer(const char* name, const void* begin, int64_t bytes, int64_t element_bytes,
                        bool written) {
  if (begin == nullptr || bytes <= 0) return;
  const auto address = reinterpret_cast<uintptr_t>(begin);
  Buffer buffer{name, address, address + bytes, element_bytes, {}};
  if (written) {
    std::memset(const_cast<void*>(begin), 0xff, bytes);
    buffer.writers.resize(bytes / element_bytes);
  }
  buffers_.push_back(std::move(buffer));
}

void Memory::add_buffer_in_place(const char* name, const void* begin, int64_t bytes,
                                 int64_t element_bytes) {
  const auto address = reinterpret_cast<uintptr_t>(begin);
  buffers_.push_back({name, address, address + bytes, element_bytes,
                      std::vector<uint64_t>(bytes / element_bytes, kGiven)});
}

void Memory::start_kernel(const std::string& name, const std::vector<char>& params) {
  kernel_ = name;
  params_ = params;
  ++kernels_;
}

void Memory::start_blocks(int64_t block, int blocks, int threads, uint32_t shared_bytes,
                          bool late_copies) {
  block_ = block;
  blocks_ = blocks;
  late_ = late_copies;
  alive_.assign(blocks, (threads + kLanes - 1) / kLanes);
  warps_ = blocks * alive_[0];
  shared_bytes_ = shared_bytes;
  if (shared_bytes > 0 && cells_.size() < static_cast<size_t>(blocks) * kSharedBytes / 2) {
    shared_.resize(static_cast<size_t>(blocks) * kSharedBytes + 1024);
    cells_.resize(static_cast<size_t>(blocks) * kSharedBytes / 2);
  }
  for (int i = 0; i < blocks && shared_bytes > 0; ++i) {
    std::memset(shared_.data() + static_cast<size_t>(i) * kSharedBytes, 0xff, shared_bytes);
  }
  // All that other blocks did is before: their cells need not be cleared.
  ++clock_;
  clocks_.assign(static_cast<size_t>(warps_) * warps_, clock_);
  first_clock_ = ++clock_;
  fences_.assign(static_cast<size_t>(warps_) * kLanes, {});
  for (int warp = 0; warp < warps_; ++warp) clocks_[warp * warps_ + warp] = clock_;
}

void Memory::meet(const std::vector<int>& warps) {
  std::vector<uint32_t> latest(warps_, 0);
  for (const int warp : warps) {
    for (int other = 0; other < warps_; ++other) {
      latest[other] = std::max(latest[other], clocks_[warp * warps_ + other]);
    }
  }
  for (const int warp : warps) {
    for (int other = 0; other < warps_; ++other) clocks_[warp * warps_ + other] = latest[other];
    clock_ = std::max(clock_, ++clocks_[warp * warps_ + warp]);
  }
}

bool Memory::before(int32_t thread, uint32_t clock, int now) const {
  if (thread == now) return true;
  const int warp = now / kLanes;
  const int other = thread / kLanes;
  // Threads of earlier blocks may have had more warps; their clocks are earlier than all.
  if (other >= warps_) return true;
  const uint32_t known = clocks_[warp * warps_ + other] - (warp == other);
  return clock <= known;
}

void Memory::check_shared(size_t place, size_t bytes, bool store, int thread) {
  // Neighboring bytes share a cell.
  if (bytes < 2) return;
  const int warp = thread / kLanes;
  const uint32_t clock = clocks_[warp * warps_ + warp];
  for (size_t at = place / 2; at < (place + bytes) / 2; ++at) {
    Cell& cell = cells_[at];
    const auto race = [&](const char* what, int other) {
      fail(std::string("race: shared address ") + std::to_string(2 * at % kSharedBytes) + " is " +
               (store ? "written" : "read") + " while thread " + std::to_string(other) + " " + what,
           thread);
    };
    if (cell.pending) race("copies to it", cell.writer);
    if (!before(cell.writer, cell.write_clock, thread)) race("writes it", cell.writer);
    if (store) {
      if (cell.products > 0) race("multiplies it", cell.multiplier);
      for (int i = 0; i < 2; ++i) {
        const bool others =
            i == 0 && cell.many && cell.readers[0] / kLanes == warp && cell.read_clocks[0] == clock;
        if (others || !before(cell.readers[i], cell.read_clocks[i], thread)) {
          race("reads it", cell.readers[i]);
        }
      }
      cell.writer = thread;
      cell.write_clock = clock;
      cell.fences = static_cast<uint32_t>(fences_[thread].size());
      continue;
    }
    if (cell.readers[0] >= 0 && cell.readers[0] / kLanes == warp) {
      cell.many = cell.read_clocks[0] == clock && (cell.many || cell.readers[0] != thread);
    } else {
      cell.readers[1] = cell.readers[0];
      cell.read_clocks[1] = cell.read_clocks[0];
      cell.many = false;
    }
    cell.readers[0] = thread;
    cell.read_clocks[0] = clock;
  }
}

void Memory::check_global(uintptr_t address, size_t bytes, Access kind, int thread) {
  const auto holds = [&](const Buffer& buffer) {
    return address >= buffer.begin && address + bytes <= buffer.end;
  };
  if (last_buffer_ >= buffers_.size() || !holds(buffers_[last_buffer_])) {
    last_buffer_ = 0;
    while (last_buffer_ < buffers_.size() && !holds(buffers_[last_buffer_])) ++last_buffer_;
  }
  if (last_buffer_ == buffers_.size()) {
    std::string near = "; the call's buffers are";
    for (const Buffer& buffer : buffers_) {
      near += " " + buffer.name + " " +
              std::to_string(static_cast<int64_t>(address - buffer.begin)) + " of " +
              std::to_string(buffer.end - buffer.begin);
    }
    fail("access out of bounds: " + std::to_string(bytes) + " bytes" + near, thread);
  }
  Buffer& buffer = buffers_[last_buffer_];
  if (buffer.writers.empty()) {
    if (kind != Access::kLoad) fail("operand " + buffer.name + " is written", thread);
    return;
  }
  if (kind == Access::kAtomic) return;
  const uint64_t me = (static_cast<uint64_t>(kernels_) << kThreadBits) + block_ * 1024 + thread + 1;
  const int64_t first = static_cast<int64_t>(address - buffer.begin) / buffer.element_bytes;
  const int64_t end =
      static_cast<int64_t>(address - buffer.begin + bytes + buffer.element_bytes - 1) /
      buffer.element_bytes;
  for (int64_t i = first; i < end; ++i) {
    uint64_t& writer = buffer.writers[i];
    const auto where = [&] { return buffer.name + "[" + std::to_string(i) + "]"; };
    if (kind == Access::kStore) {
      if (writer != kNobody && writer != kGiven) {
        fail("result " + where() + " is written twice", thread);
      }
      writer = me;
    } else if (writer == kNobody) {
      fail("result " + where() + " is read before it is written", thread);
    } else if (writer != me && writer != kGiven &&
               writer >> kThreadBits == static_cast<uint64_t>(kernels_)) {
      fail("race: result " + where() + " is read by another thread of the kernel that writes it",
           thread);
    }
  }
}

void* Memory::access(Space space, uint64_t address, size_t bytes, size_t alignment, Access kind,
                     int thread, Local local) {
  if (space == Space::kGeneric) {
    space = Space::kGlobal;
    if (address >= local.begin && address < local.begin + local.bytes) space = Space::kLocal;
    if (address >= params() && address < params() + params_.size()) space = Space::kParam;
    if (address >= shared_window() && address < shared_window() + shared_.size()) {
      address -= shared_window();
      space = Space::kShared;
    }
  }
  if (address % alignment != 0) {
    fail("access of " + std::to_string(bytes) + " bytes at " + std::to_string(address) +
             ", which is no multiple of " + std::to_string(alignment),
         thread);
  }
  const auto within = [&](uint64_t first, uint64_t size, const char* name) {
    if (address < first || address + bytes > first + size) {
      fail(std::string("access out of bounds of ") + name + ": " + std::to_string(bytes) +
               " bytes at " + std::to_string(static_cast<int64_t>(address - first)) + " of " +
               std::to_string(size),
           thread);
    }
  };
  switch (space) {
    case Space::kShared: {
      const size_t place = place_of(address, thread);
      address &= (1 << kBlockShift) - 1;
      within(0, shared_bytes_, "shared memory");
      check_shared(place, bytes, kind != Access::kLoad, thread);
      return shared_.data() + place;
    }
    case Space::kLocal:
      within(local.begin, local.bytes, "local memory");
      break;
    case Space::kParam:
      within(params(), params_.size(), "the parameters");
      if (kind != Access::kLoad) fail("parameters are written", thread);
      break;
    default:
      check_global(address, bytes, kind, thread);
  }
  return reinterpret_cast<void*>(address);
}

void Memory::start_copy(uint32_t to, uint64_t from, int bytes, int read, int thread) {
  if (read > bytes) fail("a copy reads more than it writes", thread);
  if (read > 0) access(Space::kGlobal, from, read, 1, Access::kLoad, thread, {});
  if (from % bytes != 0) fail("a copy's source is not aligned", thread);
  char* result =
      static_cast<char*>(access(Space::kShared, to, bytes, bytes, Access::kStore, thread, {}));
  const size_t place = place_of(to, thread);
  for (size_t at = place / 2; at < (place + bytes) / 2; ++at) cells_[at].pending = true;
  if (late_) return;
  std::memcpy(result, reinterpret_cast<const void*>(from), read);
  std::memset(result + read, 0, bytes - read);
}

void Memory::finish_copy(uint32_t to, uint64_t from, int bytes, int read, int thread) {
  const int warp = thread / kLanes;
  const size_t place = place_of(to, thread);
  for (size_t at = place / 2; at < (place + bytes) / 2; ++at) {
    cells_[at].pending = false;
    cells_[at].write_clock = clocks_[warp * warps_ + warp];
    cells_[at].fences = static_cast<uint32_t>(fences_[thread].size());
  }
  if (!late_) return;
  std::memcpy(shared_.data() + place, reinterpret_cast<const void*>(from), read);
  std::memset(shared_.data() + place + read, 0, bytes - read);
}

}  // namespace segblocks::ptx
