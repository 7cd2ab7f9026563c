// Checks the CPU's upsample_argmax on every set of kernels. Exits with 0 where all is well.

#include <cstdint>
#include <cstdio>

#include "cpu/half.h"
#include "cpu/kernels.h"
#include "threads.h"
#include "upsample_argmax_problem.h"

namespace {

namespace cpu = segblocks::cpu;
using segblocks::Element;

int failures = 0;

template <typename T>
void check(const char* kernels, Element element) {
  segblocks::test::for_upsample_argmax_sizes([&](auto... size) {
    segblocks::test::UpsampleArgmaxProblem<T> problem(size..., element, [](float value) {
      T result;
      cpu::from_float(value, &result);
      return result;
    });
    segblocks::test::Threads threads;
    const cpu::TileKernels& tiles = *cpu::find_tile_kernels(kernels);
    if (!cpu::run(threads, tiles, problem.call).found() && problem.solved()) return;
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
