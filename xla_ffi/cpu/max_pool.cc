// The maximum over windows of rows found by index.

#include <cstddef>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/units.h"

namespace segblocks::cpu {
namespace {

constexpr int64_t kMaxPixels = 256;

}  // namespace

Problem run(Workers& workers, const TileKernels& kernels, const MaxPoolCall& call) {
  if (Problem p = check_indices(workers, call.input, call.units); p.found()) return p;
  fill_halos(workers, kernels, call.input);
  const RowAddresses addresses(call.input);
  const RowLoops& loops = row_loops(kernels, call.input.element);
  const int64_t channels = call.input.channels;
  const int64_t row_bytes = channels * element_bytes(call.input.element);
  const Window& window = call.window;
  const Chunks chunks(call, kMaxPixels);
  const int64_t lanes = std::min(std::max<int64_t>(workers.num_threads(), 1), chunks.count());
  std::vector<const void*> windows(lanes * window.area());
  parallel_items(workers, chunks.count(), lanes, [&](int64_t item, int64_t lane) {
    const void** rows = windows.data() + lane * window.area();
    const Chunk chunk = chunks[item];
    auto* out = static_cast<std::byte*>(call.out) + chunk.first_output() * row_bytes;
    for (int64_t pixel = 0; pixel < chunk.pixels(); ++pixel, out += row_bytes) {
      const int64_t unit = pixel / (chunk.height * chunk.width);
      const int64_t y = pixel / chunk.width % chunk.height;
      const int64_t x = pixel % chunk.width;
      for (int64_t i = 0; i < window.height; ++i) {
        const int32_t* indices =
            chunk.patch_row(window, unit, y * window.stride + i) + x * window.stride;
        for (int64_t j = 0; j < window.width; ++j) {
          rows[i * window.width + j] = addresses(indices[j]);
        }
      }
      loops.max(rows, window.area(), channels, out);
    }
  });
  return {};
}

}  // namespace segblocks::cpu
