// The indexed convolution of 3 x 3 windows with Winograd's transform: fewer products a pixel.
//
// A chunk is a box of squares of 2 x 2 or 4 x 4 output pixels. What each square reads is found by
// address and transformed; then each point's taps are one product of squares by channels, on the
// tiles of the plain convolution; and an inverse transform turns the sums at the points into output
// pixels. A square at the edge of a unit of odd sides reads zeros beyond it, and writes less.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "cpu/indexed_conv.h"

namespace segblocks::cpu {
namespace {

// Of a chunk, where there is enough work.
constexpr int64_t kMinSquares = 12;
constexpr int64_t kMaxSquares = 48;
// Of 4 x 4 in a chunk, and of fewer of them the weights of the further points are not worth
// reading.
constexpr int64_t kMinLargeSquares = 16;
// Between what lies a whole number of pages apart, so that it doesn't share the cache's sets.
constexpr int64_t kGap = 16;

// Live units as Chunks takes them, whose outputs are squares.
struct Squares {
  const Units& units;
  const Window& window;
  int64_t side;

  UnitOutputs outputs(const UnitPatches& patches) const {
    const UnitOutputs pixels = window.outputs(patches);
    return {ceil_div(pixels.height, side), ceil_div(pixels.width, side)};
  }
};

// What a thread works in.
struct Workspace {
  int64_t chunk = -1;  // Whose inputs are there.
  std::unique_ptr<float[]> inputs;
  std::unique_ptr<float[]> sums;
  std::vector<TableRow> table;      // Of each tap and square.
  std::vector<TableEntry> entries;  // Of each square.
  std::vector<int64_t> corners;
};

class Winograd {
 public:
  // Of the call's units some, which `units` holds; `kind` is one of kWinograd's.
  Winograd(Workers& workers, const TileKernels& kernels, const IndexedConvCall& call,
           const Units& units, int kind)
      : workers_(workers),
        kernels_(kernels),
        loops_(row_loops(kernels, call.input.element)),
        call_(call),
        units_(units),
        kind_(kind),
        axis_(kWinograd[kind]),
        chunks_(squares(), max_squares()),
        addresses_(call.input),
        affine_(call),
        num_groups_(ceil_div(call.panels(), kMaxPanels)),
        apart_(num_groups_ >= kGroupsApart),
        room_(chunks_.max_size([](const Chunk& chunk) { return chunk.pixels(); })),
        tap_pitch_(room_ * call.input.channels + kGap),
        point_pitch_((room_ + kPanel) * kMaxPanels * kPanel + kGap) {}

  void run() {
    const int64_t items = chunks_.count() * (apart_ ? num_groups_ : 1);
    if (items == 0) return;
    const int64_t lanes = std::min(std::max<int64_t>(workers_.num_threads(), 1), items);
    std::vector<Workspace> workspaces(lanes);
    for (Workspace& workspace : workspaces) reserve(&workspace);
    parallel_items(workers_, items, lanes, [&](int64_t item, int64_t lane) {
      Workspace& workspace = workspaces[lane];
      const int64_t index = apart_ ? item / num_groups_ : item;
      const Chunk chunk = chunks_[index];
      if (workspace.chunk != index) prepare(chunk, &workspace);
      workspace.chunk = index;
      if (apart_) return run_group(chunk, item % num_groups_, workspace);
      for (int64_t g = 0; g < num_groups_; ++g) run_group(chunk, g, workspace);
    });
  }

 private:
  Squares squares() const { return {units_, call_.window, axis_.outputs}; }

  int64_t max_squares() const {
    const int64_t all = units_.counts[0] * squares().outputs(units_.high).area() +
                        units_.counts[1] * squares().outputs(units_.low).area();
    const int64_t groups = ceil_div(call_.panels(), kMaxPanels);
    const int64_t items = workers_.num_threads() * kItemsPerThread;
    const int64_t fair = ceil_div(all * (groups >= kGroupsApart ? groups : 1), items);
    const int64_t least = kind_ == kLargeSquares ? kMinLargeSquares : kMinSquares;
    return std::clamp(fair, least, kMaxSquares);
  }

  void reserve(Workspace* workspace) const {
    const int64_t taps = axis_.inputs * axis_.inputs;
    workspace->inputs = std::make_unique_for_overwrite<float[]>(taps * tap_pitch_);
    workspace->sums =
        std::make_unique_for_overwrite<float[]>(axis_.points * axis_.points * point_pitch_);
    workspace->table.resize(taps * room_);
    for (int64_t t = 0; t < taps; ++t) {
      for (int64_t square = 0; square < room_; ++square) {
        workspace->table[t * room_ + square] =
            workspace->inputs.get() + t * tap_pitch_ + square * call_.input.channels;
      }
    }
    workspace->entries.resize(room_ + kPanel);
    workspace->corners.resize(axis_.outputs * axis_.outputs * room_);
  }

  // Transforms the inputs of a chunk, and finds where its outputs go.
  void prepare(const Chunk& chunk, Workspace* workspace) const {
    const UnitPatches& patches = *chunk.live->patches;
    const UnitOutputs outputs = call_.outputs(patches);
    int64_t row = &patches == &units_.high
                      ? 0
                      : call_.units.counts[0] * call_.outputs(call_.units.high).area();
    row += chunk.unit * outputs.area();
    const int64_t side = axis_.outputs;
    int64_t* corner = workspace->corners.data();
    int64_t square = 0;
    for (int64_t u = 0; u < chunk.units; ++u, row += outputs.area()) {
      const int32_t* patch = patches.indices + (chunk.unit + u) * patches.area();
      for (int64_t y = side * chunk.y; y < side * (chunk.y + chunk.height); y += side) {
        for (int64_t x = side * chunk.x; x < side * (chunk.x + chunk.width); x += side, ++square) {
          filter_square(patches, patch, y * call_.window.stride, x * call_.window.stride,
                        workspace->inputs.get() + square * call_.input.channels);
          for (int64_t i = y; i < y + side; ++i) {
            for (int64_t j = x; j < x + side; ++j) {
              const bool inside = i < outputs.height && j < outputs.width;
              *corner++ = inside ? row + i * outputs.width + j : -1;
            }
          }
        }
      }
    }
    // A tile may run over the end of the list: it then sums up the last square again.
    for (int64_t k = 0; k < square + kPanel; ++k) {
      workspace->entries[k] = workspace->table.data() + std::min(k, square - 1);
    }
  }

  // Transforms the inputs of a square that begin at (y, x) of a patch.
  void filter_square(const UnitPatches& patches, const int32_t* patch, int64_t y, int64_t x,
                     float* out) const {
    const void* rows[36];
    const void** row = rows;
    for (int64_t i = y; i < y + axis_.inputs; ++i) {
      for (int64_t j = x; j < x + axis_.inputs; ++j) {
        const bool inside = i < patches.height && j < patches.width;
        *row++ = addresses_(inside ? patch[i * patches.width + j] : -1);
      }
    }
    loops_.winograd_input[kind_]({rows, call_.input.channels, out, tap_pitch_});
  }

  void run_group(const Chunk& chunk, int64_t g, const Workspace& workspace) const {
    const Group group = equal_group(call_.panels(), g);
    int64_t tap = 0;
    for (int a = 0; a < axis_.points; ++a) {
      for (int b = 0; b < axis_.points; ++b) {
        const int64_t taps = axis_.taps[a] * axis_.taps[b];
        const int point = a * axis_.points + b;
        float* sums = workspace.sums.get() + point * point_pitch_;
        sum_point(chunk.pixels(), group, tap, taps, weights_tap(a, b, tap), sums, workspace);
        tap += taps;
      }
    }
    WinogradOutput output{};
    output.outputs = affine_.outputs(call_, 0, group, workspace.sums.get());
    output.point_pitch = point_pitch_;
    output.squares = chunk.pixels();
    output.corners = workspace.corners.data();
    loops_.winograd_output[kind_](output);
  }

  // Where a point's taps begin in the weights. Those of stride 1 are of large squares, whose first
  // points are those of small ones.
  int64_t weights_tap(int a, int b, int64_t tap) const {
    return kind_ == 0 ? a * kWinograd[kLargeSquares].points + b : tap;
  }

  // The sums of products of a point, which has `taps` taps from `first` on, and in the weights from
  // `first_weights` on.
  void sum_point(int64_t squares, const Group& group, int64_t first, int64_t taps,
                 int64_t first_weights, float* sums, const Workspace& workspace) const {
    const SizedTile* sizes = kernels_.conv[group.count - 1];
    const int64_t depth = call_.input.channels;
    int64_t offsets[4];
    for (int64_t t = 0; t < taps; ++t) offsets[t] = (first + t) * room_;
    Tile tile{};
    tile.offsets = offsets;
    tile.taps = taps;
    tile.depth = depth;
    tile.panel_stride = call_.taps() * depth * kPanel;
    tile.weights = static_cast<const float*>(call_.weights) + group.first * tile.panel_stride +
                   first_weights * depth * kPanel;
    tile.start = true;
    tile.pitch = group.count * kPanel;
    for (int64_t square = 0; square < squares;) {
      int size = 0;
      while (size + 1 < kTileSizes && sizes[size + 1].pixels >= squares - square) ++size;
      tile.entries = workspace.entries.data() + square;
      tile.sums = sums + square * tile.pitch;
      sizes[size].accumulate(tile);
      square += sizes[size].pixels;
    }
  }

  Workers& workers_;
  const TileKernels& kernels_;
  const RowLoops& loops_;
  const IndexedConvCall& call_;
  const Units& units_;
  const int kind_;
  const WinogradAxis& axis_;
  const Chunks chunks_;
  const RowAddresses addresses_;
  const Affine affine_;
  const int64_t num_groups_;
  const bool apart_;    // Threads share out groups of panels, too.
  const int64_t room_;  // Squares of the largest chunk.
  const int64_t tap_pitch_;
  const int64_t point_pitch_;
};

// Whether the live units of one size are cut into squares of 4 x 4.
bool are_large(const IndexedConvCall& call, const UnitPatches& patches, int32_t count) {
  const UnitOutputs outputs = call.outputs(patches);
  return call.window.stride == 1 && outputs.height % 4 == 0 && outputs.width % 4 == 0 &&
         count * outputs.area() >= 16 * kMinLargeSquares;
}

}  // namespace

void winograd_conv(Workers& workers, const TileKernels& kernels, const IndexedConvCall& call) {
  const int32_t* counts = call.units.counts;
  const bool large[2] = {are_large(call, call.units.high, counts[0]),
                         are_large(call, call.units.low, counts[1])};
  for (const bool size : {true, false}) {
    const int32_t some[2] = {large[0] == size ? counts[0] : 0, large[1] == size ? counts[1] : 0};
    const Units units{call.units.high, call.units.low, some};
    const int kind = size ? kLargeSquares : static_cast<int>(call.window.stride - 1);
    Winograd(workers, kernels, call, units, kind).run();
  }
}

}  // namespace segblocks::cpu
