// The indexed convolution of 3 x 3 windows with Winograd's transform: fewer products a pixel.
//
// A chunk is a box of squares of 2 x 2 output pixels. What each square reads is found by address
// and transformed; then each point's taps are one product of squares by channels, on the tiles of
// the plain convolution; and an inverse transform turns the sums at the points into output pixels.
// A square at the edge of a unit of odd sides reads zeros beyond it, and writes less.

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
// Between what lies a whole number of pages apart, so that it doesn't share the cache's sets.
constexpr int64_t kGap = 16;

// Live units as Chunks takes them, whose outputs are squares.
struct Squares {
  const Units& units;
  const Window& window;

  UnitOutputs outputs(const UnitPatches& patches) const {
    const UnitOutputs pixels = window.outputs(patches);
    return {ceil_div(pixels.height, 2), ceil_div(pixels.width, 2)};
  }
};

// What a thread works in.
struct Workspace {
  int64_t chunk = -1;  // Whose inputs are there.
  std::unique_ptr<float[]> inputs;
  std::unique_ptr<float[]> sums;
  std::vector<const float*> table;           // Of each tap and square.
  std::vector<const float* const*> entries;  // Of each square.
  std::vector<int64_t> corners;
};

class Winograd {
 public:
  Winograd(Workers& workers, const TileKernels& kernels, const IndexedConvCall& call)
      : workers_(workers),
        kernels_(kernels),
        loops_(row_loops(kernels, call.input.element)),
        call_(call),
        axis_(kWinograd[call.window.stride - 1]),
        chunks_(Squares{call.units, call.window}, max_squares(workers, call)),
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
  static int64_t max_squares(Workers& workers, const IndexedConvCall& call) {
    const Squares squares{call.units, call.window};
    const int64_t all = call.units.counts[0] * squares.outputs(call.units.high).area() +
                        call.units.counts[1] * squares.outputs(call.units.low).area();
    const int64_t groups = ceil_div(call.panels(), kMaxPanels);
    const int64_t items = workers.num_threads() * kItemsPerThread;
    const int64_t fair = ceil_div(all * (groups >= kGroupsApart ? groups : 1), items);
    return std::clamp(fair, kMinSquares, kMaxSquares);
  }

  void reserve(Workspace* workspace) const {
    const int64_t taps = call_.taps();
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
    workspace->corners.resize(4 * room_);
  }

  // Transforms the inputs of a chunk, and finds where its outputs go.
  void prepare(const Chunk& chunk, Workspace* workspace) const {
    const UnitPatches& patches = *chunk.live->patches;
    const UnitOutputs outputs = call_.outputs(patches);
    int64_t row = &patches == &call_.units.high
                      ? 0
                      : call_.units.counts[0] * call_.outputs(call_.units.high).area();
    row += chunk.unit * outputs.area();
    int64_t square = 0;
    for (int64_t u = 0; u < chunk.units; ++u, row += outputs.area()) {
      const int32_t* patch = patches.indices + (chunk.unit + u) * patches.area();
      for (int64_t y = 2 * chunk.y; y < 2 * (chunk.y + chunk.height); y += 2) {
        for (int64_t x = 2 * chunk.x; x < 2 * (chunk.x + chunk.width); x += 2, ++square) {
          filter_square(patches, patch, y * call_.window.stride, x * call_.window.stride,
                        workspace->inputs.get() + square * call_.input.channels);
          int64_t* corner = workspace->corners.data() + 4 * square;
          for (int64_t i = y; i < y + 2; ++i) {
            for (int64_t j = x; j < x + 2; ++j) {
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
    const void* rows[25];
    const void** row = rows;
    for (int64_t i = y; i < y + axis_.inputs; ++i) {
      for (int64_t j = x; j < x + axis_.inputs; ++j) {
        const bool inside = i < patches.height && j < patches.width;
        *row++ = addresses_(inside ? patch[i * patches.width + j] : -1);
      }
    }
    loops_.winograd_input[call_.window.stride - 1]({rows, call_.input.channels, out, tap_pitch_});
  }

  void run_group(const Chunk& chunk, int64_t g, const Workspace& workspace) const {
    const Group group = equal_group(call_.panels(), g);
    int64_t tap = 0;
    for (int a = 0; a < axis_.points; ++a) {
      for (int b = 0; b < axis_.points; ++b) {
        const int64_t taps = axis_.taps[a] * axis_.taps[b];
        const int point = a * axis_.points + b;
        sum_point(chunk.pixels(), group, tap, taps, workspace.sums.get() + point * point_pitch_,
                  workspace);
        tap += taps;
      }
    }
    WinogradOutput output{};
    output.outputs = affine_.outputs(call_, 0, group, workspace.sums.get());
    output.point_pitch = point_pitch_;
    output.squares = chunk.pixels();
    output.corners = workspace.corners.data();
    loops_.winograd_output[call_.window.stride - 1](output);
  }

  // The sums of products of a point, which has `taps` taps from `first` on.
  void sum_point(int64_t squares, const Group& group, int64_t first, int64_t taps, float* sums,
                 const Workspace& workspace) const {
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
                   first * depth * kPanel;
    tile.start = true;
    tile.pitch = group.count * kPanel;
    for (int64_t square = 0; square < squares;) {
      int size = 0;
      while (size + 1 < TileKernels::kSizes && sizes[size + 1].pixels >= squares - square) ++size;
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

}  // namespace

void winograd_conv(Workers& workers, const TileKernels& kernels, const IndexedConvCall& call) {
  Winograd(workers, kernels, call).run();
}

}  // namespace segblocks::cpu
