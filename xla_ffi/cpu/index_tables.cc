// Index tables of a grid of blocks, in runs of consecutive rows.

#include <algorithm>
#include <numeric>
#include <string>

#include "cpu/kernels.h"
#include "cpu/workers.h"

namespace segblocks::cpu {
namespace {

Problem check_cells(const char* argument, const int32_t* cells, int64_t count, int64_t first_slot,
                    const IndexTablesCall& call) {
  const BlockLayout& blocks = call.layout.blocks;
  for (int64_t k = 0; k < count; ++k) {
    const int32_t cell = cells[k];
    if (cell >= 0 && cell < blocks.cells() && call.slots[cell] == first_slot + k) continue;
    return {argument, "cell " + std::to_string(cell) + " at position " + std::to_string(k),
            "the cell whose slot is " + std::to_string(first_slot + k)};
  }
  return {};
}

Problem check_grid(const IndexTablesCall& call) {
  const BlockLayout& blocks = call.layout.blocks;
  if (Problem p = check_slots(blocks, call.slots); p.found()) return p;
  for (int64_t cell = 0; cell < blocks.cells(); ++cell) {
    if (blocks.is_high(call.slots[cell]) == call.mask[cell]) continue;
    return {"mask", (call.mask[cell] ? "true in cell " : "false in cell ") + std::to_string(cell),
            "true where the slot is below the number of high cells, else false"};
  }
  if (Problem p = check_cells("high_cells", call.high_cells, blocks.num_high, 0, call); p.found()) {
    return p;
  }
  return check_cells("low_cells", call.low_cells, blocks.num_low(), blocks.num_high, call);
}

// Patches and means of single blocks.
class Tables {
 public:
  explicit Tables(const IndexTablesCall& call) : call_(call), layout_(call.layout) {}

  void block(int64_t slot) const {
    const bool high = layout_.blocks.is_high(slot);
    const int64_t block = high ? slot : slot - layout_.blocks.num_high;
    const Cell cell = layout_.blocks.cell(high ? call_.high_cells[block] : call_.low_cells[block]);
    patch(cell, slot, high, (high ? call_.high : call_.low) + block * layout_.patch_area(high));
    if (high) means(cell, slot, call_.means + slot * layout_.ring() * square());
  }

 private:
  int64_t square() const { return layout_.blocks.factor * layout_.blocks.factor; }

  void patch(const Cell& cell, int64_t slot, bool high, int32_t* out) const {
    const int64_t padding = layout_.padding;
    const int64_t side = layout_.blocks.side(high);
    const int64_t width = layout_.patch_side(high);
    for (int64_t i = 0; i < width; ++i, out += width) {
      const bool inside = i >= padding && i < padding + side;
      if (!inside) {
        edge(cell, i, 0, width, out);
        continue;
      }
      edge(cell, i, 0, padding, out);
      const auto first = static_cast<int32_t>(layout_.blocks.pixel(slot, i - padding, 0));
      std::iota(out + padding, out + padding + side, first);
      edge(cell, i, padding + side, width, out);
    }
  }

  // Positions begin .. end-1 of row i of a patch, in runs within one block.
  void edge(const Cell& cell, int64_t i, int64_t begin, int64_t end, int32_t* out) const {
    const BlockLayout& blocks = layout_.blocks;
    const bool high = blocks.is_high(call_.slots[blocks.index(cell)]);
    const int64_t side = blocks.side(high);
    const int64_t width = blocks.grid_width * side;
    const int64_t left = cell.x * side - layout_.padding;
    const bool whole_halo_rows = has_whole_halo_rows(cell.y * side + i - layout_.padding);
    for (int64_t j = begin; j < end;) {
      const int64_t index = layout_.index(call_.slots, cell, i, j);
      const int64_t x = left + j;
      int64_t last = x < 0 ? std::min(end, -left) : end;
      if (x >= 0 && x < width) last = std::min(end, j + side - x % side);
      const bool is_halo = index >= blocks.num_pixels();
      const bool is_low = !is_halo && index >= blocks.num_high * blocks.area(true);
      if (layout_.border == Border::kBlock || (is_halo && !whole_halo_rows)) {
        last = j + 1;
        out[j] = static_cast<int32_t>(index);
      } else if (index < 0 || x < 0 || x >= width) {
        std::fill(out + j, out + last, static_cast<int32_t>(index));
      } else if (high && is_low) {
        repeat(index, x % side % blocks.factor, out + j, out + last);
      } else {
        std::iota(out + j, out + last, static_cast<int32_t>(index));
      }
      j = last;
    }
  }

  // Whether the halos of a high block follow each other in the row of image row y of low blocks.
  bool has_whole_halo_rows(int64_t y) const {
    const int64_t side = layout_.blocks.low_block();
    const int64_t padding = layout_.padding;
    if (layout_.border == Border::kImage) {
      y = std::clamp<int64_t>(y, 0, layout_.blocks.grid_height * side - 1);
    }
    return y >= 0 && (side <= 2 * padding || y % side < padding || y % side >= side - padding);
  }

  // Every index `factor` times; of the first, `done` stand before.
  void repeat(int64_t index, int64_t done, int32_t* begin, const int32_t* end) const {
    for (; begin < end; ++begin) {
      *begin = static_cast<int32_t>(index);
      if (++done < layout_.blocks.factor) continue;
      done = 0;
      ++index;
    }
  }

  void means(const Cell& cell, int64_t slot, int32_t* out) const {
    const int64_t ring = layout_.ring();
    if (!layout_.has_halos(call_.slots, cell)) {
      std::fill(out, out + ring * square(), -1);
      return;
    }
    const BlockLayout& blocks = layout_.blocks;
    for (int64_t g = 0; g < ring; ++g) {
      int64_t y;
      int64_t x;
      layout_.ring_cell(g, &y, &x);
      for (int64_t i = 0; i < blocks.factor; ++i) {
        const int64_t first = blocks.pixel(slot, y * blocks.factor + i, x * blocks.factor);
        for (int64_t j = 0; j < blocks.factor; ++j) *out++ = static_cast<int32_t>(first + j);
      }
    }
  }

  const IndexTablesCall& call_;
  const IndexTableLayout& layout_;
};

}  // namespace

Problem check_slots(const BlockLayout& layout, const int32_t* slots) {
  for (int64_t cell = 0; cell < layout.cells(); ++cell) {
    if (layout.has_slot(slots[cell])) continue;
    return {"slots", "slot " + std::to_string(slots[cell]) + " in cell " + std::to_string(cell),
            "a slot in 0 .. " + std::to_string(layout.cells() - 1)};
  }
  return {};
}

Problem run(Workers& workers, const TileKernels&, const IndexTablesCall& call) {
  if (Problem p = check_grid(call); p.found()) return p;
  const IndexTableLayout& layout = call.layout;
  const BlockLayout& blocks = layout.blocks;
  const int64_t indices = blocks.num_high * layout.patch_area(true) +
                          blocks.num_low() * layout.patch_area(false) +
                          layout.num_halos() * blocks.factor * blocks.factor;
  const Tables tables(call);
  parallel_for(workers, blocks.cells(), indices * static_cast<int64_t>(sizeof(int32_t)),
               [&](int64_t begin, int64_t end) {
                 for (int64_t slot = begin; slot < end; ++slot) tables.block(slot);
               });
  return {};
}

}  // namespace segblocks::cpu
