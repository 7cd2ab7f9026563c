// Picks a set of inner loops.

#include "cpu/tiles.h"

#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/tiles_bytes.h"

namespace segblocks::cpu {
namespace {

constexpr char kVariable[] = "SEGBLOCKS_CPU_TILES";

#ifdef SEGBLOCKS_X86_TILES
// Those of AVX-512, with the dot products of bytes.
const TileKernels& vnni_tiles() {
  static const TileKernels tiles = [] {
    TileKernels result = kAvx512Tiles;
    result.name = "avx512_vnni";
    result.bytes = &kVnniByteLoops;
    return result;
  }();
  return tiles;
}
#endif

// The sets that this machine runs, fastest first.
std::vector<const TileKernels*> runnable() {
  std::vector<const TileKernels*> sets;
#ifdef SEGBLOCKS_X86_TILES
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
    if (__builtin_cpu_supports("avx512vnni")) sets.push_back(&vnni_tiles());
    sets.push_back(&kAvx512Tiles);
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    sets.push_back(&kAvx2Tiles);
  }
#endif
  sets.push_back(&kBaseTiles);
  return sets;
}

const TileKernels& chosen() {
  const char* name = std::getenv(kVariable);
  if (name == nullptr || *name == '\0') return *runnable().front();
  const TileKernels* named = find_tile_kernels(name);
  if (named != nullptr) return *named;
  std::string names;
  for (const TileKernels* set : runnable()) names += std::string("'") + set->name + "', ";
  throw std::invalid_argument(std::string(kVariable) + " is '" + name + "'; expected one of " +
                              names + "which this machine runs, or nothing for the fastest");
}

}  // namespace

const TileKernels* find_tile_kernels(const char* name) {
  for (const TileKernels* set : runnable()) {
    if (std::strcmp(name, set->name) == 0) return set;
  }
  return nullptr;
}

const TileKernels& tile_kernels() {
  static const TileKernels& kernels = chosen();
  return kernels;
}

}  // namespace segblocks::cpu
