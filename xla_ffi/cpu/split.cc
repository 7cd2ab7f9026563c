// Image to packed pixels: split, and the backward of combine.

#include <cstring>
#include <vector>

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
  const std::vector<Taps>& taps;  // Of every position in a block.
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
  // than the sums. With sizes that the compiler knows, the loops are unrolled.
  template <int64_t kFactor, int64_t kChannels>
  void sum_squares(const Cell& cell, int64_t slot, int64_t y) const {
    const int64_t factor = kFactor == 0 ? layout.factor : kFactor;
    const int64_t channels = kChannels == 0 ? layout.channels : kChannels;
    const int64_t pitch = layout.grid_width * layout.block * channels;
    const T* square = image_row(cell, y * factor, 0);
    T* out = packed(slot, y, 0);
    for (int64_t x = 0; x < layout.low_block(); ++x, square += factor * channels) {
      for (int64_t k = 0; k < channels; ++k) {
        float sum = 0.0f;
        for (int64_t i = 0; i < factor; ++i) {
          for (int64_t j = 0; j < factor; ++j) {
            sum += to_float(square[i * pitch + j * channels + k]);
          }
        }
        from_float(resampling.scale * sum, out++);
      }
    }
  }

  void low_pixel(const Cell& cell, int64_t slot, int64_t y, int64_t x) const {
    const int64_t factor = layout.factor;
    const Span rows = resampling.readers(y, factor, layout.block);
    const Span columns = resampling.readers(x, factor, layout.block);
    weighted_sum(layout.channels, resampling.scale, packed(slot, y, x), [&](const auto& add) {
      for (int64_t row = rows.first; row <= rows.last; ++row) {
        const float row_weight = taps[row].weight(y);
        for (int64_t column = columns.first; column <= columns.last; ++column) {
          add(image_row(cell, row, column), row_weight * taps[column].weight(x));
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
        const bool image = layout.factor == 2 && layout.channels == 3;
        image ? sum_squares<2, 3>(cell, slot, y) : sum_squares<0, 0>(cell, slot, y);
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
    const std::vector<Taps> taps = taps_of(call.resampling, layout);
    const Split<T> loops{layout, call.resampling, taps, static_cast<const T*>(call.image),
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
