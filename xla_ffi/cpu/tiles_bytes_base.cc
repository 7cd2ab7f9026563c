// The inner loops on bytes in plain C++.

#include "cpu/tiles_bytes_body.h"

namespace segblocks::cpu {
namespace {

template <int kPixels, int kPanels>
struct Plain {
  static void run(const ByteTile& tile) {
    for (int panel = 0; panel < kPanels; ++panel) {
      for (int p = 0; p < kPixels; ++p) {
        int32_t sums[kPanel] = {};
        const int8_t* weights = tile.weights + panel * tile.panel_stride;
        for (int64_t t = 0; t < tile.taps; ++t) {
          const uint8_t* row = tile.entries[p][tile.offsets[t]];
          for (int64_t g = 0; g < tile.groups; ++g, row += kByteGroup) {
            for (int k = 0; k < kPanel; ++k) {
              for (int i = 0; i < kByteGroup; ++i) sums[k] += row[i] * weights[k * kByteGroup + i];
            }
            weights += kPanel * kByteGroup;
          }
        }
        for (int k = 0; k < kPanel; ++k) tile.sums[p * tile.pitch + panel * kPanel + k] = sums[k];
      }
    }
  }
};

}  // namespace

constinit const ByteLoops kBaseByteLoops = byte_loops<Plain>();

}  // namespace segblocks::cpu
