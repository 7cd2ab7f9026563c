// The inner loops for AVX-512 (F, BW, DQ, VL).

#define SEGBLOCKS_LANES 16
#define SEGBLOCKS_PANELS 4
#define SEGBLOCKS_PIXELS_1 12
#define SEGBLOCKS_PIXELS_2 12
#define SEGBLOCKS_PIXELS_3 8
#define SEGBLOCKS_PIXELS_4 6
#define SEGBLOCKS_ROW_VECTORS 2

#include "cpu/tiles_body.h"

namespace segblocks::cpu {

constinit const TileKernels kAvx512Tiles = tiles("avx512");

}  // namespace segblocks::cpu
