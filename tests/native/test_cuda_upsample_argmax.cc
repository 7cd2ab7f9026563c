// Runs what the threads of the CUDA kernels of upsample_argmax do for corners, one by one. Exits
// with 0 where all is well.

#include <cstdint>
#include <cstdio>

#include "cuda/upsample_argmax.cuh"
#include "upsample_argmax_problem.h"

namespace {

using segblocks::Element;
using segblocks::UpsampleArgmaxCall;
namespace cuda = segblocks::cuda;

int failures = 0;

// The labels of corner (y, x) of an image.
template <typename T, int kFactor, bool kLarge>
void find(const UpsampleArgmaxCall& call, int32_t image, int32_t y, int32_t x) {
  const auto rows = call.rows();
  const auto columns = call.columns();
  const auto pixel = [&](int64_t row, int64_t column) {
    return static_cast<const T*>(call.logits) +
           ((image * call.height + row) * call.width + column) * call.classes;
  };
  const cuda::Corner<T> corner{
      pixel(rows.before(y), columns.before(x)), pixel(rows.before(y), columns.behind(x)),
      pixel(rows.behind(y), columns.before(x)), pixel(rows.behind(y), columns.behind(x))};
  const auto classes = static_cast<int32_t>(call.classes);
  float best;
  const int32_t label = cuda::best_class(corner.above_before, classes, &best);
  bool same = cuda::kBestBetween<T>;
  for (const T* other : {corner.above_behind, corner.below_before, corner.below_behind}) {
    same = same && cuda::best_class(other, classes, &best) == label;
  }
  constexpr int kRows = cuda::kLabelRows<kFactor>;
  const cuda::LabelPlace<kFactor> to(call, image, y, x);
  for (int first = 0; first < kFactor; first += kRows) {
    cuda::LabelRow<kFactor> labels[kRows];
    cuda::find_labels<T, kFactor, kLarge>(corner, classes, first, labels);
    for (int row = 0; row < kRows; ++row) {
      for (int p = 0; p < kFactor && same; ++p) {
        if (labels[row].values[p] == label) continue;
        std::printf("failed: between pixels of class %d lies %d\n", label, labels[row].values[p]);
        ++failures;
      }
      to.put(first + row, labels[row]);
    }
  }
}

template <typename T, bool kLarge>
void find(const UpsampleArgmaxCall& call, int32_t image, int32_t y, int32_t x) {
  if (call.factor == 2) return find<T, 2, kLarge>(call, image, y, x);
  if (call.factor == 4) return find<T, 4, kLarge>(call, image, y, x);
  find<T, 8, kLarge>(call, image, y, x);
}

template <typename T, bool kLarge>
void check(Element element) {
  segblocks::test::for_upsample_argmax_sizes([&](auto... size) {
    segblocks::test::UpsampleArgmaxProblem<T> problem(size..., element, [](float value) {
      T result;
      cuda::from_float(value, &result);
      return result;
    });
    const UpsampleArgmaxCall& call = problem.call;
    for (int32_t image = 0; image < call.images; ++image) {
      for (int32_t y = 0; y <= call.height; ++y) {
        for (int32_t x = 0; x <= call.width; ++x) find<T, kLarge>(call, image, y, x);
      }
    }
    if (problem.solved()) return;
    std::printf("failed: element %d\n", static_cast<int>(element));
    ++failures;
  });
}

}  // namespace

int main() {
  check<float, true>(Element::kFloat32);
  check<__nv_bfloat16, true>(Element::kBFloat16);
  check<__nv_bfloat16, false>(Element::kBFloat16);
  check<__half, false>(Element::kFloat16);
  return failures == 0 ? 0 : 1;
}
