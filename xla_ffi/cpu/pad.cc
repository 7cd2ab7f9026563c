// Padded blocks from packed pixels, and the backward: packed pixels gather from padded blocks.

#include <algorithm>
#include <cstring>

#include "cpu/kernels.h"
#include "cpu/row_sums.h"
#include "cpu/workers.h"

namespace segblocks::cpu {
namespace {

template <typename T>
int64_t touched_bytes(const PadLayout& layout) {
  const int64_t padded = layout.num_padded_pixels(true) + layout.num_padded_pixels(false);
  const int64_t pixels = padded + layout.blocks.num_pixels();
  return pixels * layout.blocks.channels * static_cast<int64_t>(sizeof(T));
}

template <typename T>
struct Pad {
  const PadLayout& layout;
  const int32_t* slots;
  const T* pixels;
  T* high;
  T* low;

  void write(const Source& source, int64_t run, T* result) const {
    const int64_t channels = layout.blocks.channels;
    const T* first = pixels + source.pixel * channels;
    if (source.square == 0) {
      std::memset(static_cast<void*>(result), 0, channels * sizeof(T));
    } else if (source.square == 1) {
      std::memcpy(result, first, run * channels * sizeof(T));
    } else {
      const float scale = 1.0f / static_cast<float>(source.square * source.square);
      weighted_sum(channels, scale, result, [&](const auto& add) {
        for (int64_t y = 0; y < source.square; ++y) {
          const T* row = first + y * source.row_stride * channels;
          for (int64_t x = 0; x < source.square; ++x) add(row + x * channels, 1.0f);
        }
      });
    }
  }

  void block(int64_t index) const {
    const Cell cell = layout.blocks.cell(index);
    const int64_t slot = slots[index];
    const bool is_high = layout.blocks.is_high(slot);
    const int64_t width = layout.width(is_high);
    for (int64_t i = 0; i < layout.height(is_high); ++i) {
      T* row = (is_high ? high : low) + layout.padded_pixel(slot, i, 0) * layout.blocks.channels;
      for (int64_t j = 0; j < width;) {
        const Source source = layout.source(slots, cell, is_high, i, j);
        const int64_t run = std::min(source.run, width - j);
        write(source, run, row + j * layout.blocks.channels);
        j += run;
      }
    }
  }
};

template <typename T>
struct PadBackward {
  const PadLayout& layout;
  const int32_t* slots;
  const T* high;
  const T* low;
  T* pixels;

  const T* padded(int64_t slot, int64_t pixel) const {
    return (layout.blocks.is_high(slot) ? high : low) + pixel * layout.blocks.channels;
  }

  void gather(const Cell& cell, int64_t slot, int64_t y, int64_t x) const {
    T* result = pixels + layout.blocks.pixel(slot, y, x) * layout.blocks.channels;
    weighted_sum(layout.blocks.channels, 1.0f, result, [&](const auto& add) {
      layout.for_each_reader(
          slots, cell, slot, y, x,
          [&](int64_t reader, int64_t pixel, float weight) { add(padded(reader, pixel), weight); });
    });
  }

  // Copies pixels first .. first+count-1 of a row that only their own padded block reads.
  void copy(int64_t slot, int64_t y, int64_t first, int64_t count) const {
    const int64_t pixel = layout.padded_pixel(slot, y + layout.padding_y, first + layout.padding_x);
    std::memcpy(pixels + layout.blocks.pixel(slot, y, first) * layout.blocks.channels,
                padded(slot, pixel), count * layout.blocks.channels * sizeof(T));
  }

  void block(int64_t index) const {
    const Cell cell = layout.blocks.cell(index);
    const int64_t slot = slots[index];
    const bool is_high = layout.blocks.is_high(slot);
    const int64_t side = layout.blocks.side(is_high);
    const Span rows = layout.interior(is_high, layout.padding_y);
    const Span columns = layout.interior(is_high, layout.padding_x);
    for (int64_t y = 0; y < side; ++y) {
      const bool row_inside = y >= rows.first && y <= rows.last;
      for (int64_t x = 0; x < side; ++x) {
        if (row_inside && x == columns.first && columns.last >= x) {
          copy(slot, y, x, columns.last - x + 1);
          x = columns.last;
        } else {
          gather(cell, slot, y, x);
        }
      }
    }
  }
};

}  // namespace

Problem run(Workers& workers, const TileKernels&, const PadCall& call) {
  if (Problem p = check_slots(call.layout.blocks, call.slots); p.found()) return p;
  with_element(call.element, [&](auto element) {
    using T = decltype(element);
    const Pad<T> loops{call.layout, call.slots, static_cast<const T*>(call.pixels),
                       static_cast<T*>(call.high), static_cast<T*>(call.low)};
    parallel_for(workers, call.layout.blocks.cells(), touched_bytes<T>(call.layout),
                 [&](int64_t begin, int64_t end) {
                   for (int64_t index = begin; index < end; ++index) loops.block(index);
                 });
  });
  return {};
}

Problem run(Workers& workers, const TileKernels&, const PadBackwardCall& call) {
  if (Problem p = check_slots(call.layout.blocks, call.slots); p.found()) return p;
  with_element(call.element, [&](auto element) {
    using T = decltype(element);
    const PadBackward<T> loops{call.layout, call.slots, static_cast<const T*>(call.high),
                               static_cast<const T*>(call.low), static_cast<T*>(call.pixels)};
    parallel_for(workers, call.layout.blocks.cells(), touched_bytes<T>(call.layout),
                 [&](int64_t begin, int64_t end) {
                   for (int64_t index = begin; index < end; ++index) loops.block(index);
                 });
  });
  return {};
}

}  // namespace segblocks::cpu
