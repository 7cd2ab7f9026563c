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

constexpr int kBf16 = 22;
constexpr int kTiles = 24;
constexpr int kInt8 = 25;

// Whether the processor has tiles and the products that a bit stands for.
bool is_there(int products) {
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d >> kTiles & 1) != 0 &&
         (d >> products & 1) != 0;
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
      is_there(kBf16) && is_saved() && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return usable;
}

bool has_amx_int8() {
  static const bool usable = has_amx_bf16() && is_there(kInt8);
  return usable;
}

}  // namespace segblocks::cpu

#else

namespace segblocks::cpu {

bool has_amx_bf16() { return false; }
bool has_amx_int8() { return false; }

}  // namespace segblocks::cpu

#endif
