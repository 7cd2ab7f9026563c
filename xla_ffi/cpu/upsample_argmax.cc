// The best class of every pixel of upsampled logits.

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/workers.h"

namespace segblocks::cpu {
namespace {

// Rows of corners; those of a strip share the planes of the rows of logits between them.
constexpr int64_t kStripRows = 8;

class UpsampleArgmax {
 public:
  UpsampleArgmax(const TileKernels& kernels, const UpsampleArgmaxCall& call)
      : call_(call),
        rows_(call.rows()),
        loops_(kernels.argmax),
        columns_(call.width + 2),
        pitch_(plane_pitch(call.width)),
        label_pitch_(round_up(call.width + 1) * call.factor),
        row_bytes_(call.width * call.classes * element_bytes(call.element)) {}

  int64_t strips() const { return call_.images * strips_of_image(); }
  int64_t bytes() const { return call_.images * call_.height * row_bytes_; }

  struct Workspace {
    std::vector<float> planes[2];
    std::vector<uint8_t> labels;  // `factor` rows.
  };

  Workspace workspace() const {
    const size_t numbers = call_.classes * pitch_;
    return {{std::vector<float>(numbers), std::vector<float>(numbers)},
            std::vector<uint8_t>(call_.factor * label_pitch_)};
  }

  void strip(int64_t index, Workspace* workspace) const {
    const int64_t image = index / strips_of_image();
    const int64_t first = index % strips_of_image() * kStripRows;
    const int64_t stop = std::min(first + kStripRows, call_.height + 1);
    float* above = workspace->planes[0].data();
    float* below = workspace->planes[1].data();
    read_row(image, rows_.before(first), above);
    for (int64_t corner = first; corner < stop; ++corner) {
      // At the image's border both are the same row.
      const bool same = rows_.before(corner) == rows_.behind(corner);
      if (!same) read_row(image, rows_.behind(corner), below);
      write_rows(image, corner, above, same ? above : below, workspace->labels.data());
      if (!same) std::swap(above, below);
    }
  }

 private:
  static constexpr int64_t kMaxLanes = 16;

  static int64_t round_up(int64_t count) { return (count + kMaxLanes - 1) / kMaxLanes * kMaxLanes; }

  // Room for the last vector of corners, whose second pixels are one further; an odd number of
  // cache lines, since at a power of two the planes would compete for the same places of the cache.
  static int64_t plane_pitch(int64_t width) {
    return ((round_up(width + 1) + 1 + kMaxLanes - 1) / kMaxLanes | 1) * kMaxLanes;
  }

  int64_t strips_of_image() const { return (call_.height + kStripRows) / kStripRows; }

  void read_row(int64_t image, int64_t y, float* planes) const {
    const auto* row =
        static_cast<const std::byte*>(call_.logits) + (image * call_.height + y) * row_bytes_;
    LogitsRow read{row, call_.width, call_.classes, planes + 1, pitch_};
    (call_.element == Element::kFloat32    ? loops_.read_float32
     : call_.element == Element::kBFloat16 ? loops_.read_bfloat16
                                           : loops_.read_float16)(read);
    for (int64_t k = 0; k < call_.classes; ++k) {
      float* plane = planes + k * pitch_;
      plane[0] = plane[1];
      plane[columns_ - 1] = plane[columns_ - 2];
    }
  }

  void write_rows(int64_t image, int64_t corner, const float* above, const float* below,
                  uint8_t* labels) const {
    const int64_t first = rows_.first_phase(corner);
    const int64_t last = rows_.last_phase(corner);
    LabelRows rows{above,           below,       pitch_,           call_.classes,
                   call_.width + 1, first,       last + 1 - first, call_.factor,
                   labels,          label_pitch_};
    loops_.label(rows);
    const int64_t width = call_.width * call_.factor;
    const int64_t top = image * call_.height * call_.factor + rows_.first(corner);
    for (int64_t phase = first; phase <= last; ++phase) {
      // Half of the first corner's labels lie outside of the image.
      std::memcpy(call_.labels + (top + phase) * width,
                  labels + (phase - first) * label_pitch_ + call_.factor / 2, width);
    }
  }

  const UpsampleArgmaxCall& call_;
  const Corners rows_;
  const ArgmaxLoops& loops_;
  const int64_t columns_;
  const int64_t pitch_;
  const int64_t label_pitch_;
  const int64_t row_bytes_;
};

}  // namespace

Problem run(Workers& workers, const TileKernels& kernels, const UpsampleArgmaxCall& call) {
  constexpr int64_t kBytesPerThread = 32 * 1024;
  const UpsampleArgmax upsample(kernels, call);
  const int64_t lanes = std::clamp<int64_t>(
      std::min(upsample.bytes() / kBytesPerThread, workers.num_threads()), 1, upsample.strips());
  std::vector<UpsampleArgmax::Workspace> workspaces;
  for (int64_t lane = 0; lane < lanes; ++lane) workspaces.push_back(upsample.workspace());
  parallel_items(workers, upsample.strips(), lanes,
                 [&](int64_t strip, int64_t lane) { upsample.strip(strip, &workspaces[lane]); });
  return {};
}

}  // namespace segblocks::cpu
