// AMX's tile registers, for files that have one of its products; see cpu/products_tiles.h.
//
// The compilers' intrinsics of some versions tell neither that a load reads memory nor how much of
// it the configuration is; hence instructions of our own.

#ifndef SEGBLOCKS_CPU_PRODUCTS_AMX_H_
#define SEGBLOCKS_CPU_PRODUCTS_AMX_H_

#include <stdint.h>

#include "cpu/products.h"
#include "cpu/products_copies.h"
#include "cpu/products_rows.h"
#include "cpu/products_tiles.h"

namespace segblocks::cpu {
namespace {

// As LDTILECFG reads it.
struct alignas(64) TileConfiguration {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileConfiguration) == 64);

// Registers of AMX; a unit adds its product.
struct AmxRegisters {
  static void begin() {
    static constexpr TileConfiguration kConfiguration;
    asm volatile("ldtilecfg %0" ::"m"(kConfiguration) : "memory");
  }
  static void end() { asm volatile("tilerelease" ::: "memory"); }

  template <int kTo>
  SEGBLOCKS_INLINE static void zero() {
    asm volatile("tilezero %%tmm%c0" ::"i"(kTo) : "memory");
  }
  template <int kTo>
  SEGBLOCKS_INLINE static void load(const void* rows, int64_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(rows), "r"(stride), "i"(kTo) : "memory");
  }
  template <int kFrom>
  SEGBLOCKS_INLINE static void store(void* rows, int64_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(rows), "r"(stride), "i"(kFrom) : "memory");
  }
};

}  // namespace
}  // namespace segblocks::cpu

#endif  // SEGBLOCKS_CPU_PRODUCTS_AMX_H_
