// Checks that the index arithmetic's two directions are each other's transpose, for every padding
// and resampling of small grids. Exits with 0 where all is well.

#include <cstdint>
#include <cstdio>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "segblocks/calls.h"

namespace {

using segblocks::BlockLayout;
using segblocks::PadLayout;
using segblocks::Resampling;
using segblocks::Source;
using segblocks::Span;
using segblocks::Taps;

int failures = 0;

void expect(bool ok, const char* what) {
  if (ok) return;
  if (failures < 20) std::printf("failed: %s\n", what);
  ++failures;
}

// The grid whose cell k is high where bit k of `pattern` is set.
std::pair<BlockLayout, std::vector<int32_t>> make_grid(int64_t block, int64_t factor,
                                                       unsigned pattern) {
  BlockLayout layout{2, 2, 3, block, factor, 0, 1};
  std::vector<int32_t> slots(layout.cells());
  for (int64_t cell = 0; cell < layout.cells(); ++cell) layout.num_high += pattern >> cell & 1;
  int32_t high = 0;
  int32_t low = static_cast<int32_t>(layout.num_high);
  for (int64_t cell = 0; cell < layout.cells(); ++cell) {
    slots[cell] = pattern >> cell & 1 ? high++ : low++;
  }
  return {layout, slots};
}

void check_pixels(const BlockLayout& layout, const std::vector<int32_t>& slots) {
  std::set<int64_t> packed;
  std::set<int64_t> image;
  for (int64_t index = 0; index < layout.cells(); ++index) {
    expect(layout.index(layout.cell(index)) == index, "index of cell");
    const int64_t side = layout.side(layout.is_high(slots[index]));
    for (int64_t y = 0; y < side; ++y) {
      for (int64_t x = 0; x < side; ++x) packed.insert(layout.pixel(slots[index], y, x));
    }
    for (int64_t y = 0; y < layout.block; ++y) {
      for (int64_t x = 0; x < layout.block; ++x) {
        image.insert(layout.image_pixel(layout.cell(index), y, x));
      }
    }
  }
  const auto dense = [](const std::set<int64_t>& positions, int64_t count) {
    return static_cast<int64_t>(positions.size()) == count && *positions.begin() == 0 &&
           *positions.rbegin() == count - 1;
  };
  expect(dense(packed, layout.num_pixels()), "packed pixels are 0 .. num_pixels-1");
  expect(dense(image, layout.num_image_pixels()), "image pixels are 0 .. num_image_pixels-1");
}

void check_resampling(const Resampling& resampling, int64_t factor, int64_t low_side) {
  const int64_t side = low_side * factor;
  for (int64_t position = 0; position < side; ++position) {
    const Taps taps = resampling.taps(position, factor, low_side);
    expect(taps.first >= 0 && taps.second < low_side, "taps lie in the block");
    expect(taps.first_weight + taps.second_weight == 1.0f, "weights sum to 1");
    float total = 0.0f;
    for (int64_t low = 0; low < low_side; ++low) {
      const Span readers = resampling.readers(low, factor, side);
      const float weight = resampling.weight(position, low, factor, low_side);
      const bool inside = position >= readers.first && position <= readers.last;
      expect(inside || weight == 0.0f, "readers() holds all that read");
      total += weight;
    }
    expect(total == 1.0f, "weight() agrees with taps()");
  }
}

void check_padding(const PadLayout& layout, const std::vector<int32_t>& slots) {
  using Edge = std::pair<std::pair<bool, int64_t>, int64_t>;  // (high, padded pixel), packed pixel.
  std::map<Edge, float> forward;
  std::map<Edge, float> backward;
  const BlockLayout& blocks = layout.blocks;
  for (int64_t index = 0; index < blocks.cells(); ++index) {
    const int64_t slot = slots[index];
    const bool high = blocks.is_high(slot);
    for (int64_t i = 0; i < layout.height(high); ++i) {
      for (int64_t j = 0; j < layout.width(high); ++j) {
        const Source source = layout.source(slots.data(), blocks.cell(index), high, i, j);
        for (int64_t y = 0; y < source.square; ++y) {
          for (int64_t x = 0; x < source.square; ++x) {
            forward[{{high, layout.padded_pixel(slot, i, j)},
                     source.pixel + y * source.row_stride + x}] +=
                1.0f / static_cast<float>(source.square * source.square);
          }
        }
      }
    }
    const Span rows = layout.interior(high, layout.padding_y);
    const Span columns = layout.interior(high, layout.padding_x);
    for (int64_t y = 0; y < blocks.side(high); ++y) {
      for (int64_t x = 0; x < blocks.side(high); ++x) {
        int readers = 0;
        layout.for_each_reader(
            slots.data(), blocks.cell(index), slot, y, x,
            [&](int64_t reader, int64_t padded, float weight) {
              backward[{{blocks.is_high(reader), padded}, blocks.pixel(slot, y, x)}] += weight;
              ++readers;
            });
        const bool inside =
            y >= rows.first && y <= rows.last && x >= columns.first && x <= columns.last;
        expect(!inside || readers == 1, "interior pixels have one reader");
      }
    }
  }
  expect(forward == backward, "for_each_reader is the transpose of source");
}

}  // namespace

int main() {
  for (const int64_t factor : {1, 2, 3, 4}) {
    for (const int64_t low_side : {1, 2, 3}) {
      for (const bool bilinear : {false, true}) {
        check_resampling({bilinear, 1.0f}, factor, low_side);
      }
      for (const unsigned pattern : {0u, 0xfffu, 0x5a3u, 0xb4du, 0x010u}) {
        const int64_t block = factor * low_side;
        const auto [layout, slots] = make_grid(block, factor, pattern);
        check_pixels(layout, slots);
        for (int64_t padding = 0; padding <= block + 1; ++padding) {
          check_padding({layout, padding, padding}, slots);
          check_padding({layout, padding, block + 1 - padding}, slots);
        }
        check_padding({layout, 2 * block + 1, 4 * block}, slots);
      }
    }
  }
  return failures == 0 ? 0 : 1;
}
