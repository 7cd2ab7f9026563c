// AMX's products of bfloat16 (TDPBF16PS).

#define SEGBLOCKS_LANES 16

#include "cpu/products_amx.h"
#include "cpu/tiles_pair_writer.h"

namespace segblocks::cpu {
namespace {

static_assert(kBlockPanels * kPanel == 2 * kLanes);

struct AmxUnit : AmxRegisters {
  using Outputs = segblocks::cpu::Outputs;
  using Rows = WholeRows<Outputs, PairWriter<BFloat16>>;

  template <int kSums, int kPixels, int kWeights>
  SEGBLOCKS_INLINE static void dot() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSums), "i"(kPixels), "i"(kWeights)
                 : "memory");
  }
};

}  // namespace

constinit const Products<Outputs> kAmxPairs = tile_products<AmxUnit>("amx", &masked_copy);

}  // namespace segblocks::cpu
