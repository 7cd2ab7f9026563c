// Rows added to those of a mask's active pixels, in place.

#include <algorithm>
#include <string>

#include "cpu/half.h"
#include "cpu/kernels.h"
#include "cpu/workers.h"

namespace segblocks::cpu {
namespace {

Problem check_sites(const MaskAddCall& call) {
  const int64_t count = call.counts[0];
  if (count < 0 || count > call.pixels) {
    return {"counts", std::to_string(count) + " sites",
            "a number in 0 .. " + std::to_string(call.pixels)};
  }
  int64_t last = -1;
  for (int64_t k = 0; k < count; ++k) {
    const int64_t site = call.sites[k];
    if (site <= last || site >= call.pixels) {
      return {"sites", "pixel " + std::to_string(site) + " at position " + std::to_string(k),
              "a pixel in " + std::to_string(last + 1) + " .. " + std::to_string(call.pixels - 1)};
    }
    last = site;
  }
  return {};
}

template <Activation kActivation>
float activated(float value) {
  if (kActivation == Activation::kNone) return value;
  value = value < 0.0f ? 0.0f : value;  // NaN stays.
  if (kActivation == Activation::kRelu6) value = value > 6.0f ? 6.0f : value;
  return value;
}

template <typename T, Activation kActivation>
void run_as(Workers& workers, const MaskAddCall& call) {
  auto* out = static_cast<T*>(call.out);
  const auto* rows = static_cast<const T*>(call.rows);
  const int32_t* end_site = call.sites + call.counts[0];
  const int64_t channels = call.channels;
  const int64_t touched = call.rest ? 2 * call.pixels : 3 * call.counts[0];
  const int64_t bytes = touched * channels * static_cast<int64_t>(sizeof(T));
  const auto rest = [&](int64_t begin, int64_t end) {
    if (!call.rest || kActivation == Activation::kNone) return;
    for (int64_t k = begin * channels; k < end * channels; ++k) {
      from_float(activated<kActivation>(to_float(out[k])), out + k);
    }
  };
  parallel_for(workers, call.pixels, bytes, [&](int64_t begin, int64_t end) {
    const int32_t* site = std::lower_bound(call.sites, end_site, begin);
    for (int64_t pixel = begin; pixel < end; ++site) {
      const int64_t next = site == end_site ? end : std::min<int64_t>(*site, end);
      rest(pixel, next);
      pixel = next + 1;
      if (next == end) break;
      T* to = out + next * channels;
      const T* from = rows + (site - call.sites) * channels;
      for (int64_t k = 0; k < channels; ++k) {
        from_float(activated<kActivation>(to_float(to[k]) + to_float(from[k])), to + k);
      }
    }
  });
}

template <typename T>
void run_of(Workers& workers, const MaskAddCall& call) {
  switch (call.activation) {
    case Activation::kNone:
      return run_as<T, Activation::kNone>(workers, call);
    case Activation::kRelu:
      return run_as<T, Activation::kRelu>(workers, call);
    case Activation::kRelu6:
      return run_as<T, Activation::kRelu6>(workers, call);
  }
}

}  // namespace

Problem run(Workers& workers, const TileKernels&, const MaskAddCall& call) {
  if (Problem p = check_sites(call); p.found()) return p;
  if (call.element == Element::kFloat32) {
    run_of<float>(workers, call);
  } else {
    run_of<BFloat16>(workers, call);
  }
  return {};
}

}  // namespace segblocks::cpu
