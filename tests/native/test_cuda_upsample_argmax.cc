// Runs what the threads of the CUDA kernels of upsample_argmax do, item by item. Exits with 0 where
// all is well.

#include <cstdint>
#include <cstdio>

#include "cuda/upsample_argmax.cuh"
#include "upsample_argmax_problem.h"

namespace {

using segblocks::Element;
using segblocks::UpsampleArgmaxCall;
namespace cuda = segblocks::cuda;

int failures = 0;

template <typename T>
void find(const UpsampleArgmaxCall& call, int64_t item) {
  if (call.factor == 2) return cuda::find_labels<T, 2>(call, item);
  if (call.factor == 4) return cuda::find_labels<T, 4>(call, item);
  cuda::find_labels<T, 8>(call, item);
}

template <typename T>
void check(Element element) {
  segblocks::test::for_upsample_argmax_sizes([&](auto... size) {
    segblocks::test::UpsampleArgmaxProblem<T> problem(size..., element, [](float value) {
      T result;
      cuda::from_float(value, &result);
      return result;
    });
    for (int64_t item = cuda::label_items(problem.call) - 1; item >= 0; --item) {
      find<T>(problem.call, item);
    }
    if (problem.solved()) return;
    std::printf("failed: element %d\n", static_cast<int>(element));
    ++failures;
  });
}

}  // namespace

int main() {
  check<float>(Element::kFloat32);
  check<__nv_bfloat16>(Element::kBFloat16);
  check<__half>(Element::kFloat16);
  return failures == 0 ? 0 : 1;
}
