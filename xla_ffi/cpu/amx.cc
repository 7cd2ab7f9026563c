#include "cpu/amx.h"

#if defined(__x86_64__) && defined(__linux__)

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>

namespace segblocks::cpu {
namespace {

// Tiles are states of the processor that only those pay for who ask.
constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
constexpr long kTileData = 18;               // XFEATURE_XTILEDATA

// Whether the processor has tiles and their products of bfloat16.
bool is_there() {
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d >> 22 & 1) != 0 && (d >> 24 & 1) != 0;
}

// Whether the kernel saves the tiles' configuration and data when threads change.
bool is_saved() {
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0 || (c >> 27 & 1) == 0) return false;
  uint32_t low;
  uint32_t high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (low >> 17 & 3) == 3;
}

}  // namespace

bool has_amx_bf16() {
  static const bool usable =
      is_there() && is_saved() && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return usable;
}

}  // namespace segblocks::cpu

#else

namespace segblocks::cpu {

bool has_amx_bf16() { return false; }

}  // namespace segblocks::cpu

#endif
