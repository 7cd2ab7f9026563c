// AMX's products of unsigned and signed bytes (TDPBUSD).

#include "cpu/products_amx.h"
#include "cpu/tiles_bytes_writer.h"

namespace segblocks::cpu {
namespace {

struct AmxByteUnit : AmxRegisters {
  using Outputs = ByteOutputs;

  class Writer {
   public:
    Writer() = default;
    explicit Writer(const ByteOutputs& o) : first_(o, 0), second_(o, kPanel) {}
    void write(const ByteOutputs& o, int64_t pixel) const {
      first_.write<int32_t>(o, pixel);
      second_.write<int32_t>(o, pixel);
    }

   private:
    ByteWriter first_;
    ByteWriter second_;
  };
  using Rows = WholeRows<Outputs, Writer>;

  template <int kSums, int kPixels, int kWeights>
  SEGBLOCKS_INLINE static void dot() {
    asm volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSums), "i"(kPixels), "i"(kWeights)
                 : "memory");
  }
};

}  // namespace

constinit const Products<ByteOutputs> kAmxBytes =
    tile_products<AmxByteUnit>("amx_int8", &masked_copy);

}  // namespace segblocks::cpu
