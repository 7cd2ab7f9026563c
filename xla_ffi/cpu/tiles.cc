// Picks a set of inner loops.

#include "cpu/tiles.h"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/amx.h"
#include "cpu/tiles_bytes.h"

namespace segblocks::cpu {
namespace {

constexpr char kVariable[] = "SEGBLOCKS_CPU_TILES";

using Sets = std::vector<const TileKernels*>;

#ifdef SEGBLOCKS_X86_TILES
// A set for AVX-512, with the products of bytes that this machine has.
template <const TileKernels* kTiles>
const TileKernels* with_vnni(const char* name) {
  static const TileKernels tiles = [name] {
    TileKernels result = *kTiles;
    result.name = name;
    if (__builtin_cpu_supports("avx512vnni")) result.bytes = &kVnniByteLoops;
#ifdef SEGBLOCKS_PAIR_TILES
    if (kTiles == &kAmxTiles && has_amx_int8()) result.bytes = &kAmxByteLoops;
#endif
    return result;
  }();
  return &tiles;
}
#endif

// The sets that this machine runs, fastest first.
Sets runnable() {
  Sets sets;
#ifdef SEGBLOCKS_X86_TILES
  __builtin_cpu_init();
  const bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (has_avx512 && __builtin_cpu_supports("avx512vnni")) {
    sets.push_back(with_vnni<&kAvx512Tiles>("avx512_vnni"));
  }
  if (has_avx512) sets.push_back(&kAvx512Tiles);
#ifdef SEGBLOCKS_PAIR_TILES
  if (has_avx512 && __builtin_cpu_supports("avx512bf16")) {
    // Intel's dot products run at half the rate of float32 products, AMD's at twice that.
    sets.insert(__builtin_cpu_is("amd") ? sets.begin() : sets.end(),
                with_vnni<&kAvx512Bf16Tiles>("avx512_bf16"));
    if (has_amx_bf16()) sets.insert(sets.begin(), with_vnni<&kAmxTiles>("amx"));
  }
#endif
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    sets.push_back(&kAvx2Tiles);
  }
#endif
  sets.push_back(&kBaseTiles);
  return sets;
}

const TileKernels& named(const char* name, const std::string& source) {
  const TileKernels* set = find_tile_kernels(name);
  if (set != nullptr) return *set;
  std::string names;
  for (const TileKernels* known : runnable()) names += std::string("'") + known->name + "', ";
  throw std::invalid_argument(source + " is '" + name + "'; expected one of " + names +
                              "which this machine runs, or nothing for the fastest");
}

const TileKernels& chosen() {
  const char* name = std::getenv(kVariable);
  return name == nullptr || *name == '\0' ? *runnable().front() : named(name, kVariable);
}

std::atomic<const TileKernels*>& current() {
  static std::atomic<const TileKernels*> set = &chosen();
  return set;
}

}  // namespace

const TileKernels* find_tile_kernels(const char* name) {
  Sets sets = runnable();
  sets.insert(sets.end(), {&kDotStandInTiles, &kAmxStandInTiles});
  for (const TileKernels* set : sets) {
    if (std::strcmp(name, set->name) == 0) return set;
  }
  return nullptr;
}

const TileKernels& tile_kernels() { return *current().load(std::memory_order_relaxed); }

void use_tile_kernels(const char* name) {
  current().store(*name == '\0' ? &chosen() : &named(name, "name"), std::memory_order_relaxed);
}

}  // namespace segblocks::cpu
