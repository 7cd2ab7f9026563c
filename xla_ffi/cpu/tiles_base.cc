// The inner loops for whatever instruction set the compiler targets by default.

// 32 registers of 4 lanes hold a tile of 6 pixels; 16 of them one of 3.
#define SEGBLOCKS_LANES 4
#define SEGBLOCKS_PANELS 1
#if defined(__aarch64__)
#define SEGBLOCKS_BASE_PIXELS 6
#else
#define SEGBLOCKS_BASE_PIXELS 3
#endif
#define SEGBLOCKS_PIXELS_1 SEGBLOCKS_BASE_PIXELS
#define SEGBLOCKS_PIXELS_2 SEGBLOCKS_BASE_PIXELS
#define SEGBLOCKS_PIXELS_3 SEGBLOCKS_BASE_PIXELS
#define SEGBLOCKS_PIXELS_4 SEGBLOCKS_BASE_PIXELS
#define SEGBLOCKS_ROW_VECTORS 1

#include "cpu/products.h"
#include "cpu/tiles_body.h"

namespace segblocks::cpu {

constinit const TileKernels kBaseTiles = tiles("base");
constinit const TileKernels kDotStandInTiles = tiles("avx512_bf16_standin", &kPlainDotPairs);
constinit const TileKernels kAmxStandInTiles =
    tiles("amx_standin", &kPlainTilePairs, &kStandInByteLoops);

}  // namespace segblocks::cpu
