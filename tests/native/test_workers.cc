// Checks parallel_for on pools that behave badly. Exits with 0 where all is well.

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <utility>
#include <vector>

#include "cpu/workers.h"
#include "threads.h"

namespace {

constexpr int64_t kMuchWork = int64_t{1} << 30;

struct Pool final : segblocks::cpu::Workers {
  explicit Pool(int64_t count) : threads(count) {}
  int64_t num_threads() const override { return threads; }
  void Schedule(std::function<void()> task) override { tasks.push_back(std::move(task)); }

  int64_t threads;
  std::vector<std::function<void()>> tasks;
};

bool covers_once(segblocks::cpu::Workers& pool, int64_t items, int64_t bytes) {
  std::vector<std::atomic<int>> visits(items);
  segblocks::cpu::parallel_for(pool, items, bytes, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) ++visits[item];
  });
  for (const auto& count : visits) {
    if (count != 1) return false;
  }
  return true;
}

int failures = 0;

void expect(bool ok, const char* what) {
  if (ok) return;
  std::printf("failed: %s\n", what);
  ++failures;
}

}  // namespace

int main() {
  Pool idle(4);
  expect(covers_once(idle, 100, kMuchWork), "a pool that starts no task");
  expect(idle.tasks.size() == 3, "as many helpers as threads but for the caller");
  for (auto& task : idle.tasks) task();  // They run after the loop has returned.

  Pool small(4);
  expect(covers_once(small, 100, 1000), "little work");
  expect(small.tasks.empty(), "little work stays in the caller");
  expect(covers_once(small, 0, kMuchWork), "no items");

  Pool single(1);
  expect(covers_once(single, 7, kMuchWork), "a pool of one thread");
  expect(single.tasks.empty(), "one thread needs no helpers");
  Pool unknown(0);
  expect(covers_once(unknown, 7, kMuchWork), "a pool of unknown size");

  for (int64_t items = 1; items < 200; items += 13) {
    segblocks::test::Threads pool(4);
    expect(covers_once(pool, items, kMuchWork), "real threads");
  }
  return failures == 0 ? 0 : 1;
}
