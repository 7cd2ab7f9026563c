// Index tables of a grid of blocks, in runs of consecutive rows.

#include <algorithm>
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
    patch(cell, high, (high ? call_.high : call_.low) + block * layout_.patch_area(high));
    if (high) means(cell, slot, call_.means + slot * layout_.ring() * square());
  }

 private:
  int64_t square() const { return layout_.blocks.factor * layout_.blocks.factor; }

  // Divisions are what this would take its time with; so rows and columns of cells are counted.
  void patch(const Cell& cell, bool high, int32_t* out) const {
    const BlockLayout& blocks = layout_.blocks;
    const int64_t side = blocks.side(high);
    const int64_t width = layout_.patch_side(high);
    const Range inside = read_from(cell.y, blocks.grid_height, side);
    Cell row = cell;  // That of the first column, in the row of cells where y lies.
    for (int64_t i = 0; i < width; ++i, out += width) {
      int64_t y = cell.y * side + i - layout_.padding;
      if (layout_.border == Border::kZeros && (y < inside.begin || y >= inside.end)) {
        std::fill(out, out + width, -1);
        continue;
      }
      y = std::clamp(y, inside.begin, inside.end - 1);
      while (row.y * side > y) --row.y;
      while ((row.y + 1) * side <= y) ++row.y;
      patch_row(row, high, y - row.y * side, out);
    }
  }

  // Along one axis, the positions that a block reads which it does not take for outside.
  struct Range {
    int64_t begin;
    int64_t end;
  };
  Range read_from(int64_t cell, int64_t cells, int64_t side) const {
    if (layout_.border == Border::kBlock) return {cell * side, (cell + 1) * side};
    return {0, cells * side};
  }

  // Row y of the cells in the row of `cell`, as the block of that column reads it.
  void patch_row(const Cell& cell, bool high, int64_t y, int32_t* out) const {
    const BlockLayout& blocks = layout_.blocks;
    const int64_t side = blocks.side(high);
    const int64_t left = cell.x * side - layout_.padding;
    const int64_t right = left + layout_.patch_side(high);
    const Range inside = read_from(cell.x, blocks.grid_width, side);
    const int64_t begin = std::max(left, inside.begin);
    const int64_t end = std::min(right, inside.end);
    Cell other = cell;
    while (other.x * side > begin) --other.x;
    int32_t* const first = out + (begin - left);
    int32_t* next = first;
    for (int64_t x = begin; x < end; ++other.x) {
      const int64_t stop = std::min(end, (other.x + 1) * side);
      run(call_.slots[blocks.index(other)], high, y, x - other.x * side, next, next + (stop - x));
      next += stop - x;
      x = stop;
    }
    const bool zeros = layout_.border == Border::kZeros;
    std::fill(out, first, zeros ? -1 : *first);
    std::fill(next, out + (right - left), zeros ? -1 : next[-1]);
  }

  // What a block reads in a row of the block in `slot`, from (y, x) in its own pixels on. In a row
  // of halos those that it reads follow each other, too.
  void run(int64_t slot, bool high, int64_t y, int64_t x, int32_t* begin,
           const int32_t* end) const {
    const int64_t factor = layout_.blocks.factor;
    auto index = static_cast<int32_t>(layout_.inside(slot, high, y, x));
    if (!high || layout_.blocks.is_high(slot)) {
      while (begin < end) *begin++ = index++;
      return;
    }
    for (int64_t done = x % factor; begin < end; ++index, done = 0) {
      for (; done < factor && begin < end; ++done) *begin++ = index;
    }
  }

  void means(const Cell& cell, int64_t slot, int32_t* out) const {
    const BlockLayout& blocks = layout_.blocks;
    if (!layout_.has_halos(call_.slots, cell)) {
      std::fill(out, out + layout_.ring() * square(), -1);
      return;
    }
    const int64_t side = blocks.low_block();
    const int64_t padding = layout_.padding;
    const auto near = [&](int64_t i) { return i < padding || i >= side - padding; };
    for (int64_t y = 0; y < side; ++y) {
      for (int64_t x = 0; x < side; ++x) {
        if (!near(y) && !near(x)) continue;
        for (int64_t i = 0; i < blocks.factor; ++i) {
          const int64_t first = blocks.pixel(slot, y * blocks.factor + i, x * blocks.factor);
          for (int64_t j = 0; j < blocks.factor; ++j) *out++ = static_cast<int32_t>(first + j);
        }
      }
    }
  }

  const IndexTablesCall& call_;
  const IndexTableLayout& layout_;
};

void write_tables(Workers& workers, const IndexTablesCall& call) {
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
}

}  // namespace

Problem check_slots(const BlockLayout& layout, const int32_t* slots) {
  for (int64_t cell = 0; cell < layout.cells(); ++cell) {
    if (layout.has_slot(slots[cell])) continue;
    return {"slots", "slot " + std::to_string(slots[cell]) + " in cell " + std::to_string(cell),
            "a slot in 0 .. " + std::to_string(layout.cells() - 1)};
  }
  return {};
}

Problem run(Workers& workers, const TileKernels&, const LayerTablesCall& call) {
  if (Problem p = check_grid(call.layers[0]); p.found()) return p;
  for (int k = 0; k < call.count; ++k) write_tables(workers, call.layers[k]);
  return {};
}

}  // namespace segblocks::cpu
