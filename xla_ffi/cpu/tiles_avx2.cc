// The inner loops for AVX2 and FMA.

#define SEGBLOCKS_LANES 8
#define SEGBLOCKS_PANELS 1
#define SEGBLOCKS_PIXELS_1 6
#define SEGBLOCKS_PIXELS_2 6
#define SEGBLOCKS_PIXELS_3 6
#define SEGBLOCKS_PIXELS_4 6
#define SEGBLOCKS_ROW_VECTORS 1

#include "cpu/tiles_body.h"

namespace segblocks::cpu {

constinit const TileKernels kAvx2Tiles = tiles("avx2");

}  // namespace segblocks::cpu
