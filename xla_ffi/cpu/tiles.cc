// Picks a set of inner loops.

#include "cpu/tiles.h"

#include <cstdlib>
#include <cstring>

namespace segblocks::cpu {
namespace {

struct Choice {
  const TileKernels* kernels;
  bool runs;
};

// Fastest first.
template <typename Visit>
const TileKernels* first_choice(const Visit& suits) {
#ifdef SEGBLOCKS_X86_TILES
  __builtin_cpu_init();
  const Choice avx512{&kAvx512Tiles, __builtin_cpu_supports("avx512f") != 0 &&
                                         __builtin_cpu_supports("avx512bw") != 0 &&
                                         __builtin_cpu_supports("avx512vl") != 0 &&
                                         __builtin_cpu_supports("avx512dq") != 0};
  const Choice avx2{&kAvx2Tiles,
                    __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0};
  if (avx512.runs && suits(*avx512.kernels)) return avx512.kernels;
  if (avx2.runs && suits(*avx2.kernels)) return avx2.kernels;
#endif
  return suits(kBaseTiles) ? &kBaseTiles : nullptr;
}

}  // namespace

const TileKernels* find_tile_kernels(const char* name) {
  return first_choice(
      [name](const TileKernels& kernels) { return std::strcmp(kernels.name, name) == 0; });
}

const TileKernels& tile_kernels() {
  static const TileKernels& kernels = [&]() -> const TileKernels& {
    const char* name = std::getenv("SEGBLOCKS_CPU_TILES");
    const TileKernels* named = name == nullptr ? nullptr : find_tile_kernels(name);
    return named != nullptr ? *named : *first_choice([](const TileKernels&) { return true; });
  }();
  return kernels;
}

}  // namespace segblocks::cpu
