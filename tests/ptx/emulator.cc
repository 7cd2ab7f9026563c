#include "ptx/emulator.h"

#include <algorithm>
#include <cstring>
#include <random>
#include <stdexcept>

namespace segblocks::ptx {

std::map<std::string, Kernel>& kernels() {
  static std::map<std::string, Kernel> all;
  return all;
}
std::map<std::pair<std::string, std::string>, Counts>& counts() {
  static std::map<std::pair<std::string, std::string>, Counts> all;
  return all;
}
Settings& settings() {
  static Settings all;
  return all;
}
Memory*& current_memory() {
  static Memory* memory = nullptr;
  return memory;
}

void Thread::wait_for_copies(size_t pending) {
  for (; groups.size() > pending; groups.pop_front()) {
    for (const Copy& copy : groups.front()) {
      memory->finish_copy(copy.to, copy.from, copy.bytes, copy.read, index);
    }
  }
}

void Warp::fail(const std::string& what) const { memory->fail(what, kLanes * index); }

void Warp::want_all(const char* instruction) const {
  if (static_cast<int>(std::popcount(mask)) != lanes || lanes != kLanes) {
    fail(std::string(instruction) + " of " + std::to_string(std::popcount(mask)) +
         " lanes of a warp");
  }
}

void Warp::wait_at(int which, int count) {
  if (static_cast<int>(std::popcount(mask)) != lanes) {
    fail("barrier reached by " + std::to_string(std::popcount(mask)) + " of " +
         std::to_string(lanes) + " lanes of a warp");
  }
  barrier = which + kBarriers * block;
  barrier_threads = count;
  go_on();
}

void Warp::arrive_at_cluster() {
  want_all("barrier.cluster");
  arrived = step;
  go_on();
}

void Warp::wait_for_cluster() {
  want_all("barrier.cluster");
  if (arrived != step - 1) fail("barrier.cluster.wait is not behind arrive");
  barrier = kClusterBarrier;
  barrier_threads = 0;
  go_on();
}

bool Warp::advance() {
  step = kExit;
  mask = 0;
  for (int lane = 0; lane < lanes; ++lane) {
    const int at = threads[lane].step;
    if (at > step) continue;
    if (at < step) mask = 0;
    step = at;
    mask |= 1u << lane;
  }
  return step != kExit;
}

namespace {

// A block of threads, or a cluster of such.
class Cluster {
 public:
  Cluster(const Kernel& kernel, Memory& memory, Grid& grid, int blocks, std::mt19937& random)
      : kernel_(kernel), memory_(memory), random_(random), blocks_(blocks) {
    const Dim3& size = grid.threads;
    threads_ = static_cast<int>(size.x * size.y * size.z);
    const int warps = (threads_ + kLanes - 1) / kLanes;
    warps_.resize(static_cast<size_t>(blocks) * warps);
    for (size_t i = 0; i < warps_.size(); ++i) {
      Warp& warp = warps_[i];
      const int in_block = static_cast<int>(i) % warps;
      warp.kernel = &kernel;
      warp.memory = &memory;
      warp.index = static_cast<int>(i);
      warp.block = static_cast<int>(i) / warps;
      warp.lanes = std::min(kLanes, threads_ - in_block * kLanes);
      warp.registers.resize(kLanes * kernel.register_bytes / sizeof(uint64_t));
      warp.threads.resize(warp.lanes);
      for (int lane = 0; lane < warp.lanes; ++lane) {
        Thread& thread = warp.threads[lane];
        const auto index = static_cast<uint32_t>(in_block * kLanes + lane);
        thread.index = static_cast<int>(i) * kLanes + lane;
        thread.tid = {index % size.x, index / size.x % size.y, index / size.x / size.y};
        thread.memory = &memory;
        thread.grid = &grid;
        thread.local.resize((kernel.local_bytes + 7) / 8);
      }
    }
  }

  // From block `first` of the grid on.
  void run(int64_t first, const Dim3& grid, Counts& counts) {
    std::vector<Warp*> ready;
    for (Warp& warp : warps_) {
      const auto at = static_cast<uint32_t>(first + warp.block);
      warp.order = random_() % kLanes;
      warp.barrier = -1;
      warp.fenced = false;
      warp.products = 0;
      for (Thread& thread : warp.threads) {
        thread.step = 0;
        thread.block = {at % grid.x, at / grid.x % grid.y, at / grid.x / grid.y};
      }
      ready.push_back(&warp);
    }
    std::vector<Warp*> waiting;
    while (!ready.empty()) {
      const size_t chosen = random_() % ready.size();
      Warp& warp = *ready[chosen];
      const bool lives = run(warp, counts);
      if (lives && warp.barrier < 0) continue;
      ready.erase(ready.begin() + static_cast<int64_t>(chosen));
      if (!lives) {
        memory_.end_warp(warp.index);
        continue;
      }
      waiting.push_back(&warp);
      release(warp, waiting, ready);
    }
    if (!waiting.empty()) {
      waiting.front()->fail("deadlock: " + std::to_string(waiting.size()) + " of " +
                            std::to_string(warps_.size()) + " warps wait at a barrier");
    }
    for (const Warp& warp : warps_) {
      if (!warp.open.empty() || !warp.groups.empty()) {
        warp.fail("the kernel ends before its products");
      }
      const int first = in_block(warp) % kGroupWarps;
      if (warp.products != warps_[warp.index - first].products) {
        warp.fail("the warps of a group have begun different products");
      }
      for (const Thread& thread : warp.threads) {
        bool open = !thread.open.empty();
        for (const auto& group : thread.groups) open = open || !group.empty();
        if (open) memory_.fail("the kernel ends before its copies", thread.index);
      }
    }
  }

  int warps() const { return static_cast<int>(warps_.size()); }

 private:
  // Some steps; whether there are more.
  bool run(Warp& warp, Counts& counts) {
    for (uint32_t steps = random_() % 256 + 1; steps > 0; --steps) {
      if (!warp.advance()) return false;
      const Step& step = kernel_.steps[warp.step];
      counts.instructions += step.instructions;
      counts.products += step.products;
      counts.divisions += step.divisions;
      step.run(warp);
      if (warp.barrier >= 0) return true;
    }
    return true;
  }

  // Lets the warps at the barrier of the last one go on, once all are there.
  void release(const Warp& last, std::vector<Warp*>& waiting, std::vector<Warp*>& ready) {
    const int barrier = last.barrier;
    const int all = threads_ * (barrier == kClusterBarrier ? blocks_ : 1);
    const int wanted = last.barrier_threads == 0 ? all : last.barrier_threads;
    int there = 0;
    std::vector<int> met;
    for (const Warp* warp : waiting) {
      if (warp->barrier != barrier) continue;
      if (last.barrier_threads == 0 && warp->step != last.step) {
        last.fail("warps meet at different barriers");
      }
      there += warp->lanes;
      met.push_back(warp->index);
    }
    if (there < wanted) return;
    memory_.meet(met);
    for (const int index : met) {
      warps_[index].barrier = -1;
      waiting.erase(std::find(waiting.begin(), waiting.end(), &warps_[index]));
      ready.push_back(&warps_[index]);
    }
  }

  // Its index.
  int in_block(const Warp& warp) const { return warp.index % (warps() / blocks_); }

  const Kernel& kernel_;
  Memory& memory_;
  std::mt19937& random_;
  int blocks_;
  int threads_;  // Of a block.
  std::vector<Warp> warps_;
};

}  // namespace

void run_grid(const Kernel& kernel, Dim3 blocks, Dim3 threads, void** arguments,
              size_t dynamic_shared_bytes, int cluster) {
  Memory& memory = *current_memory();
  Counts& counts = ptx::counts()[{memory.operation(), kernel.name}];
  ++counts.launches;
  if (memory.operation() == settings().skip) return;
  std::vector<char> params;
  for (size_t i = 0; i < kernel.param_bytes.size(); ++i) {
    params.resize(kernel.param_offsets[i] + kernel.param_bytes[i]);
    std::memcpy(params.data() + kernel.param_offsets[i], arguments[i], kernel.param_bytes[i]);
  }
  memory.start_kernel(kernel.name, params);
  std::mt19937 random(settings().seed + static_cast<uint32_t>(counts.launches));
  const int64_t number = static_cast<int64_t>(blocks.x) * blocks.y * blocks.z / cluster;
  const int64_t shift = static_cast<int64_t>(random() % number);
  const bool backward = random() & 1;
  Grid grid{blocks, threads};
  Cluster running(kernel, memory, grid, cluster, random);
  for (int64_t i = 0; i < number; ++i) {
    const int64_t first = (shift + (backward ? number - 1 - i : i)) % number * cluster;
    memory.start_blocks(first, cluster, static_cast<int>(threads.x * threads.y * threads.z),
                        kernel.shared_bytes + static_cast<uint32_t>(dynamic_shared_bytes),
                        random() & 1);
    running.run(first, blocks, counts);
    counts.blocks += cluster;
    counts.warps += running.warps();
  }
}

}  // namespace segblocks::ptx
