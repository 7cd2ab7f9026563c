// The gradient of a depthwise kernel, summed up chunk by chunk of output pixels.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/units.h"

namespace segblocks::cpu {
namespace {

constexpr int64_t kMaxPixels = 256;
// Sums have so many parts, whatever the number of threads: the result doesn't depend on it.
constexpr int64_t kParts = 32;

class Gradient {
 public:
  Gradient(Workers& workers, const TileKernels& kernels, const DepthwiseGradientCall& call)
      : workers_(workers),
        kernels_(kernels),
        call_(call),
        chunks_(call, kMaxPixels),
        addresses_(call.input),
        size_(call.window.area() * call.input.channels),
        parts_(std::min(kParts, chunks_.count())),
        sums_(parts_ * size_) {}

  void run() {
    const int64_t lanes = std::min(std::max<int64_t>(workers_.num_threads(), 1), parts_);
    std::vector<Workspace> workspaces(lanes);
    parallel_items(workers_, parts_, lanes, [&](int64_t part, int64_t lane) {
      const int64_t end = (part + 1) * chunks_.count() / parts_;
      for (int64_t c = part * chunks_.count() / parts_; c < end; ++c) {
        add(chunks_[c], sums_.data() + part * size_, &workspaces[lane]);
      }
    });
    const int64_t bytes = (parts_ + 1) * size_ * static_cast<int64_t>(sizeof(float));
    parallel_for(workers_, size_, bytes, [&](int64_t begin, int64_t end) {
      std::fill(call_.kernel + begin, call_.kernel + end, 0.0f);
      for (int64_t part = 0; part < parts_; ++part) {
        const float* sums = sums_.data() + part * size_;
        for (int64_t k = begin; k < end; ++k) call_.kernel[k] += sums[k];
      }
    });
  }

 private:
  struct Workspace {
    std::vector<TableRow> table;      // Of the rows that a chunk reads.
    std::vector<TableEntry> entries;  // Where each pixel's window begins in it.
    std::vector<int64_t> offsets;     // Where each tap lies from there.
  };

  void add(const Chunk& chunk, float* sums, Workspace* workspace) const {
    const Window& window = call_.window;
    const int64_t height = (chunk.height - 1) * window.stride + window.extent_y();
    const int64_t width = (chunk.width - 1) * window.stride + window.extent_x();
    workspace->table.resize(chunk.units * height * width);
    workspace->entries.clear();
    workspace->offsets.clear();
    TableRow* row = workspace->table.data();
    for (int64_t u = 0; u < chunk.units; ++u) {
      for (int64_t y = 0; y < chunk.height; ++y) {
        for (int64_t x = 0; x < chunk.width; ++x) {
          workspace->entries.push_back(row + (y * width + x) * window.stride);
        }
      }
      for (int64_t i = 0; i < height; ++i, row += width) {
        const int32_t* indices = chunk.patch_row(window, u, i);
        for (int64_t j = 0; j < width; ++j) {
          row[j] = addresses_(indices[j]);
        }
      }
    }
    for (int64_t i = 0; i < window.height; ++i) {
      for (int64_t j = 0; j < window.width; ++j) {
        workspace->offsets.push_back((i * width + j) * window.dilation);
      }
    }
    const int64_t channels = call_.input.channels;
    kernels_.depthwise_gradient({workspace->entries.data(), workspace->offsets.data(),
                                 window.area(), chunk.pixels(), channels,
                                 call_.cotangents + chunk.first_output() * channels, sums});
  }

  Workers& workers_;
  const TileKernels& kernels_;
  const DepthwiseGradientCall& call_;
  const Chunks chunks_;
  const RowAddresses addresses_;
  const int64_t size_;
  const int64_t parts_;
  std::vector<float> sums_;
};

}  // namespace

Problem run(Workers& workers, const TileKernels& kernels, const DepthwiseGradientCall& call) {
  if (Problem p = check_indices(workers, call.input, call.units); p.found()) return p;
  fill_halos(workers, kernels, call.input);
  Gradient(workers, kernels, call).run();
  return {};
}

}  // namespace segblocks::cpu
