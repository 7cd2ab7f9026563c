// Image to packed pixels: split, and the backward of combine.

#include <cstring>

#include "cpu/kernels.h"
#include "cpu/row_sums.h"
#include "cpu/workers.h"

namespace segblocks::cpu {
namespace {

constexpr int64_t kFewChannels = 16;

template <typename T>
struct Split {
  const BlockLayout& layout;
  const Resampling& resampling;
  const T* image;
  T* pixels;

  const T* image_row(const Cell& cell, int64_t y, int64_t x) const {
    return image + layout.image_pixel(cell, y, x) * layout.channels;
  }
  T* packed(int64_t slot, int64_t y, int64_t x) const {
    return pixels + layout.pixel(slot, y, x) * layout.channels;
  }

  void high_block(const Cell& cell, int64_t slot) const {
    const size_t bytes = layout.block * layout.channels * sizeof(T);
    for (int64_t y = 0; y < layout.block; ++y) {
      std::memcpy(packed(slot, y, 0), image_row(cell, y, 0), bytes);
    }
  }

  // Sums over squares, for rows of so few channels that walking them one by one would take longer
  // than the sums.
  void sum_squares(const Cell& cell, int64_t slot, int64_t y) const {
    const int64_t factor = layout.factor;
    const int64_t channels = layout.channels;
    T* out = packed(slot, y, 0);
    for (int64_t x = 0; x < layout.low_block(); ++x) {
      for (int64_t k = 0; k < channels; ++k) {
        float sum = 0.0f;
        for (int64_t i = 0; i < factor; ++i) {
          const T* row = image_row(cell, y * factor + i, x * factor) + k;
          for (int64_t j = 0; j < factor; ++j) sum += to_float(row[j * channels]);
        }
        from_float(resampling.scale * sum, out++);
      }
    }
  }

  void low_pixel(const Cell& cell, int64_t slot, int64_t y, int64_t x) const {
    const int64_t factor = layout.factor;
    const int64_t side = layout.low_block();
    const Span rows = resampling.readers(y, factor, layout.block);
    const Span columns = resampling.readers(x, factor, layout.block);
    weighted_sum(layout.channels, resampling.scale, packed(slot, y, x), [&](const auto& add) {
      for (int64_t row = rows.first; row <= rows.last; ++row) {
        const float row_weight = resampling.weight(row, y, factor, side);
        for (int64_t column = columns.first; column <= columns.last; ++column) {
          add(image_row(cell, row, column),
              row_weight * resampling.weight(column, x, factor, side));
        }
      }
    });
  }

  void block(int64_t index, int64_t slot) const {
    const Cell cell = layout.cell(index);
    if (layout.is_high(slot)) return high_block(cell, slot);
    const bool squares = !resampling.bilinear && layout.channels < kFewChannels;
    for (int64_t y = 0; y < layout.low_block(); ++y) {
      if (squares) {
        sum_squares(cell, slot, y);
        continue;
      }
      for (int64_t x = 0; x < layout.low_block(); ++x) low_pixel(cell, slot, y, x);
    }
  }
};

}  // namespace

Problem run(Workers& workers, const TileKernels&, const SplitCall& call) {
  if (Problem p = check_slots(call.layout, call.slots); p.found()) return p;
  with_element(call.element, [&](auto element) {
    using T = decltype(element);
    const BlockLayout& layout = call.layout;
    const Split<T> loops{layout, call.resampling, static_cast<const T*>(call.image),
                         static_cast<T*>(call.pixels)};
    const int64_t touched = layout.num_image_pixels() + layout.num_pixels();
    const int64_t bytes = touched * layout.channels * static_cast<int64_t>(sizeof(T));
    parallel_for(workers, layout.cells(), bytes, [&](int64_t begin, int64_t end) {
      for (int64_t index = begin; index < end; ++index) loops.block(index, call.slots[index]);
    });
  });
  return {};
}

}  // namespace segblocks::cpu
