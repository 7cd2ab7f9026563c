// Threads to run loops on, whoever owns them.

#ifndef SEGBLOCKS_CPU_WORKERS_H_
#define SEGBLOCKS_CPU_WORKERS_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <limits>
#include <utility>

#include "cpu/parallel.h"

namespace segblocks::cpu {

// A pool of threads as parallel_for() wants it.
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
