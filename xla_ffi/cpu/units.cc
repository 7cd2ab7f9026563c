#include "cpu/units.h"

#include <atomic>
#include <string>

namespace segblocks::cpu {
namespace {

// Below, a second thread would take longer to start than the loop takes.
constexpr int64_t kInlineBytes = 1024 * 1024;

struct Range {
  int32_t lowest;
  int32_t highest;
};

Range range(const int32_t* values, int64_t count) {
  int32_t lowest = 0;
  int32_t highest = -1;
  for (int64_t k = 0; k < count; ++k) {
    lowest = std::min(lowest, values[k]);
    highest = std::max(highest, values[k]);
  }
  return {lowest, highest};
}

std::string range_text(int64_t first, int64_t last) {
  return std::to_string(first) + " .. " + std::to_string(last);
}

// Whether count values from `values` on lie in -1 .. end-1.
bool in_range(Workers& workers, const int32_t* values, int64_t count, int64_t end) {
  std::atomic<bool> fine{true};
  const int64_t bytes = count * static_cast<int64_t>(sizeof(int32_t));
  parallel_for(workers, count, bytes < kInlineBytes ? 0 : bytes, [&](int64_t begin, int64_t last) {
    const Range r = range(values + begin, last - begin);
    if (r.lowest < -1 || r.highest >= end) {
      fine.store(false, std::memory_order_relaxed);
    }
  });
  return fine;
}

Problem check_count(const char* argument, int32_t count, const UnitPatches& patches) {
  if (count >= 0 && count <= patches.capacity) return {};
  return {"counts", std::to_string(count) + " live units of argument '" + argument + "'",
          "a number in " + range_text(0, patches.capacity)};
}

Problem check_patches(Workers& workers, const char* argument, const UnitPatches& patches,
                      int64_t live, int64_t end) {
  const int64_t count = live * patches.area();
  if (in_range(workers, patches.indices, count, end)) return {};
  for (int64_t k = 0; k < count; ++k) {
    const int32_t index = patches.indices[k];
    if (index >= -1 && index < end) continue;
    return {argument, "index " + std::to_string(index) + " at position " + std::to_string(k),
            "an index in " + range_text(-1, end - 1)};
  }
  return {argument, "indices that change", "indices that stay"};
}

}  // namespace

Problem check_indices(Workers& workers, const IndexedRows& input, const Units& units) {
  if (Problem p = check_count("high", units.counts[0], units.high); p.found()) return p;
  if (Problem p = check_count("low", units.counts[1], units.low); p.found()) return p;
  const int64_t end = input.num_indices();
  if (Problem p = check_patches(workers, "high", units.high, units.counts[0], end); p.found()) {
    return p;
  }
  if (Problem p = check_patches(workers, "low", units.low, units.counts[1], end); p.found()) {
    return p;
  }
  for (int64_t g = 0; g < input.num_halos; ++g) {
    const int32_t* means = input.means + g * input.halo_reads;
    if (means[0] < 0) continue;
    for (int64_t k = 0; k < input.halo_reads; ++k) {
      if (means[k] >= 0 && means[k] < input.num_rows) continue;
      return {"means", "row " + std::to_string(means[k]) + " of halo " + std::to_string(g),
              "a row in " + range_text(0, input.num_rows - 1)};
    }
  }
  return {};
}

void fill_halos(Workers& workers, const TileKernels& kernels, const IndexedRows& input) {
  if (input.lent) return;
  constexpr int64_t kBatch = 64;
  const RowLoops& loops = row_loops(kernels, input.element);
  const int64_t row_bytes = input.channels * element_bytes(input.element);
  const int64_t bytes = input.num_halos * (input.halo_reads + 1) * row_bytes;
  const auto* rows = static_cast<const std::byte*>(input.rows);
  auto* halos = static_cast<std::byte*>(input.halos);
  // The rows of a mean, of any number.
  const int64_t lanes = std::max<int64_t>(workers.num_threads(), 1);
  std::vector<const void*> reads(lanes * input.halo_reads);
  const int64_t batches = ceil_div(input.num_halos, kBatch);
  parallel_items(workers, batches, bytes < kInlineBytes ? 1 : lanes,
                 [&](int64_t batch, int64_t lane) {
                   const void** mine = reads.data() + lane * input.halo_reads;
                   const int64_t end = std::min((batch + 1) * kBatch, input.num_halos);
                   for (int64_t g = batch * kBatch; g < end; ++g) {
                     const int32_t* means = input.means + g * input.halo_reads;
                     if (means[0] < 0) continue;
                     for (int64_t k = 0; k < input.halo_reads; ++k)
                       mine[k] = rows + means[k] * row_bytes;
                     loops.mean(mine, input.halo_reads, input.channels, halos + g * row_bytes);
                   }
                 });
}

}  // namespace segblocks::cpu
