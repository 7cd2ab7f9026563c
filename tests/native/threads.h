// A thread for every task.

#ifndef SEGBLOCKS_TESTS_NATIVE_THREADS_H_
#define SEGBLOCKS_TESTS_NATIVE_THREADS_H_

#include <cstdint>
#include <functional>
#include <thread>
#include <utility>
#include <vector>

#include "cpu/workers.h"

namespace segblocks::test {

class Threads final : public cpu::Workers {
 public:
  explicit Threads(int64_t count = 3) : count_(count) {}
  ~Threads() override {
    for (std::thread& thread : threads_) thread.join();
  }
  int64_t num_threads() const override { return count_; }
  void Schedule(std::function<void()> task) override { threads_.emplace_back(std::move(task)); }

 private:
  int64_t count_;
  std::vector<std::thread> threads_;
};

}  // namespace segblocks::test

#endif  // SEGBLOCKS_TESTS_NATIVE_THREADS_H_
