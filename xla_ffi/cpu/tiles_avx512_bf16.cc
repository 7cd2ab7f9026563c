// The inner loops for AVX-512 (F, BW, DQ, VL) and its bfloat16 (BF16).

#define SEGBLOCKS_LANES 16
#define SEGBLOCKS_PANELS 4
#define SEGBLOCKS_PIXELS_1 12
#define SEGBLOCKS_PIXELS_2 12
#define SEGBLOCKS_PIXELS_3 8
#define SEGBLOCKS_PIXELS_4 6
#define SEGBLOCKS_ROW_VECTORS 2

#include "cpu/products.h"
#include "cpu/tiles_body.h"

namespace segblocks::cpu {

constinit const TileKernels kAvx512Bf16Tiles = tiles("avx512_bf16", &kAvx512DotPairs);
// The same with AMX for products.
constinit const TileKernels kAmxTiles = tiles("amx", &kAmxPairs);

}  // namespace segblocks::cpu
