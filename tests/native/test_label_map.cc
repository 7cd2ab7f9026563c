// Checks the CPU's label maps on every set of kernels. Exits with 0 where all is well.

#include <cstdint>
#include <cstdio>
#include <functional>
#include <thread>
#include <vector>

#include "cpu/label_map.h"
#include "cpu/numbers.h"
#include "label_map_problem.h"

namespace {

namespace cpu = segblocks::cpu;
using segblocks::Element;

class Threads final : public cpu::Workers {
 public:
  ~Threads() override {
    for (std::thread& thread : threads_) thread.join();
  }
  int64_t num_threads() const override { return 3; }
  void Schedule(std::function<void()> task) override { threads_.emplace_back(std::move(task)); }

 private:
  std::vector<std::thread> threads_;
};

int failures = 0;

template <typename T>
void check(const char* kernels, Element element) {
  segblocks::test::for_label_map_sizes([&](auto... size) {
    segblocks::test::LabelMapProblem<T> problem(
        size..., element, [](float value) { return cpu::from_float<T>(value); });
    Threads threads;
    cpu::label_map(threads, *cpu::find_tile_kernels(kernels), problem.call);
    if (problem.solved()) return;
    std::printf("failed: %s, element %d\n", kernels, static_cast<int>(element));
    ++failures;
  });
}

}  // namespace

int main() {
  for (const char* kernels : {"base", "avx2", "avx512"}) {
    if (cpu::find_tile_kernels(kernels) == nullptr) continue;
    check<float>(kernels, Element::kFloat32);
    check<cpu::BFloat16>(kernels, Element::kBFloat16);
    check<cpu::Float16>(kernels, Element::kFloat16);
  }
  return failures == 0 ? 0 : 1;
}
