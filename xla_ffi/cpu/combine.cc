// Packed pixels to image: combine, and the backward of split.

#include <cstring>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/row_sums.h"
#include "cpu/workers.h"

namespace segblocks::cpu {
namespace {

template <typename T>
struct Combine {
  const BlockLayout& layout;
  const Resampling& resampling;
  const std::vector<Taps>& taps;  // Of every position in a block.
  const T* pixels;
  T* image;

  const T* packed(int64_t slot, int64_t y, int64_t x) const {
    return pixels + layout.pixel(slot, y, x) * layout.channels;
  }
  T* image_row(const Cell& cell, int64_t y, int64_t x) const {
    return image + layout.image_pixel(cell, y, x) * layout.channels;
  }

  void high_block(const Cell& cell, int64_t slot) const {
    const size_t bytes = layout.block * layout.channels * sizeof(T);
    for (int64_t y = 0; y < layout.block; ++y) {
      std::memcpy(image_row(cell, y, 0), packed(slot, y, 0), bytes);
    }
  }

  // Every pixel in a row, and every row, `factor` times.
  void repeat_block(const Cell& cell, int64_t slot) const {
    const int64_t factor = layout.factor;
    const size_t bytes = layout.channels * sizeof(T);
    for (int64_t y = 0; y < layout.low_block(); ++y) {
      T* const row = image_row(cell, y * factor, 0);
      T* out = row;
      for (int64_t x = 0; x < layout.low_block(); ++x, out += factor * layout.channels) {
        write_scaled(packed(slot, y, x), out);
        for (int64_t j = 1; j < factor; ++j) std::memcpy(out + j * layout.channels, out, bytes);
      }
      for (int64_t i = 1; i < factor; ++i) {
        std::memcpy(image_row(cell, y * factor + i, 0), row, layout.block * bytes);
      }
    }
  }

  void write_scaled(const T* pixel, T* out) const {
    if (resampling.scale == 1.0f) {
      std::memcpy(out, pixel, layout.channels * sizeof(T));
      return;
    }
    weighted_sum(layout.channels, resampling.scale, out,
                 [&](const auto& add) { add(pixel, 1.0f); });
  }

  void low_block_pixel(const Cell& cell, int64_t slot, int64_t y, int64_t x) const {
    const Taps& rows = taps[y];
    const Taps& columns = taps[x];
    weighted_sum(layout.channels, resampling.scale, image_row(cell, y, x), [&](const auto& add) {
      const auto add_row = [&](int64_t row, float weight) {
        add(packed(slot, row, columns.first), weight * columns.first_weight);
        if (columns.second_weight == 0.0f) return;
        add(packed(slot, row, columns.second), weight * columns.second_weight);
      };
      add_row(rows.first, rows.first_weight);
      if (rows.second_weight != 0.0f) add_row(rows.second, rows.second_weight);
    });
  }

  void block(int64_t index, int64_t slot) const {
    const Cell cell = layout.cell(index);
    if (layout.is_high(slot)) return high_block(cell, slot);
    if (!resampling.bilinear) return repeat_block(cell, slot);
    for (int64_t y = 0; y < layout.block; ++y) {
      for (int64_t x = 0; x < layout.block; ++x) low_block_pixel(cell, slot, y, x);
    }
  }
};

}  // namespace

Problem run(Workers& workers, const TileKernels&, const CombineCall& call) {
  if (Problem p = check_slots(call.layout, call.slots); p.found()) return p;
  with_element(call.element, [&](auto element) {
    using T = decltype(element);
    const BlockLayout& layout = call.layout;
    const std::vector<Taps> taps = taps_of(call.resampling, layout);
    const Combine<T> loops{layout, call.resampling, taps, static_cast<const T*>(call.pixels),
                           static_cast<T*>(call.image)};
    const int64_t touched = layout.num_image_pixels() + layout.num_pixels();
    const int64_t bytes = touched * layout.channels * static_cast<int64_t>(sizeof(T));
    parallel_for(workers, layout.cells(), bytes, [&](int64_t begin, int64_t end) {
      for (int64_t index = begin; index < end; ++index) loops.block(index, call.slots[index]);
    });
  });
  return {};
}

}  // namespace segblocks::cpu
