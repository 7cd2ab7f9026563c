// Threads to run loops on, whoever owns them; and loops that cannot deadlock on them.

#ifndef SEGBLOCKS_CPU_WORKERS_H_
#define SEGBLOCKS_CPU_WORKERS_H_

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <utility>

namespace segblocks::cpu {

class Workers {
 public:
  virtual ~Workers() = default;
  virtual int64_t num_threads() const = 0;
  virtual void Schedule(std::function<void()> task) = 0;
};

template <typename Pool>
class PoolWorkers final : public Workers {
 public:
  explicit PoolWorkers(Pool& pool) : pool_(pool) {}
  int64_t num_threads() const override { return pool_.num_threads(); }
  void Schedule(std::function<void()> task) override { pool_.Schedule(std::move(task)); }

 private:
  Pool& pool_;
};

// Calls body(begin, end) on disjoint ranges that cover 0 .. items-1, and returns when all are done.
//
// `bytes` is how much memory the loop touches; a small loop runs in the caller. The caller claims
// ranges like every helper and waits only for ranges that a helper has begun, so that the loop
// ends even where no helper ever starts: this thread may be the pool's only one. A helper that
// starts late finds nothing to claim and touches only the shared state, which it keeps alive.
template <typename Body>
void parallel_for(Workers& workers, int64_t items, int64_t bytes, const Body& body) {
  constexpr int64_t kInlineBytes = 128 * 1024;
  constexpr int64_t kRangeBytes = 64 * 1024;
  constexpr int64_t kRangesPerThread = 8;

  const int64_t threads = bytes < kInlineBytes ? 1 : std::max<int64_t>(workers.num_threads(), 1);
  const int64_t max_ranges =
      std::min({items, bytes / kRangeBytes, static_cast<int64_t>(threads * kRangesPerThread)});
  if (threads == 1 || max_ranges < 2) {
    if (items > 0) body(int64_t{0}, items);
    return;
  }

  struct State {
    std::atomic<int64_t> next{0};
    std::atomic<int64_t> unfinished;
    int64_t items;
    int64_t grain;
    int64_t ranges;
    const Body* body;

    void work() {
      for (;;) {
        const int64_t range = next.fetch_add(1, std::memory_order_relaxed);
        if (range >= ranges) return;
        (*body)(range* grain, std::min(items, (range + 1) * grain));
        if (unfinished.fetch_sub(1, std::memory_order_acq_rel) == 1) unfinished.notify_all();
      }
    }
  };

  auto state = std::make_shared<State>();
  state->items = items;
  state->grain = (items + max_ranges - 1) / max_ranges;
  state->ranges = (items + state->grain - 1) / state->grain;
  state->unfinished = state->ranges;
  state->body = &body;
  for (int64_t helper = 1; helper < std::min(threads, state->ranges); ++helper) {
    workers.Schedule([state] { state->work(); });
  }
  state->work();
  for (int64_t left = state->unfinished.load(std::memory_order_acquire); left != 0;
       left = state->unfinished.load(std::memory_order_acquire)) {
    state->unfinished.wait(left, std::memory_order_acquire);
  }
}

// Calls body(item, lane) for every item in 0 .. items-1, one item at a time, in order of claims.
//
// Two calls at the same time never have the same lane, in 0 .. lanes-1: each lane may own a
// workspace.
template <typename Body>
void parallel_items(Workers& workers, int64_t items, int64_t lanes, const Body& body) {
  std::atomic<int64_t> next{0};
  const auto run_lane = [&](int64_t begin, int64_t end) {
    for (int64_t lane = begin; lane < end; ++lane) {
      for (;;) {
        const int64_t item = next.fetch_add(1, std::memory_order_relaxed);
        if (item >= items) break;
        body(item, lane);
      }
    }
  };
  parallel_for(workers, lanes, std::numeric_limits<int64_t>::max(), run_lane);
}

}  // namespace segblocks::cpu

#endif  // SEGBLOCKS_CPU_WORKERS_H_
