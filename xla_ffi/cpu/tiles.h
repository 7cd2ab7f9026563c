// The inner loops of indexed operations, one set for each instruction set.
//
// Plain structs and function pointers only: the sets are compiled with flags of their own, and an
// inline function shared with other files could carry their instructions to where they don't run.

#ifndef SEGBLOCKS_CPU_TILES_H_
#define SEGBLOCKS_CPU_TILES_H_

#include <stdint.h>

namespace segblocks::cpu {

constexpr int kPanel = 16;           // Channels in a panel of packed weights.
constexpr int kMaxPanels = 4;        // In a tile.
constexpr int kRowPixels = 8;        // In a depthwise tile whose pixels are neighbors in rows.
constexpr int kRuns[3] = {8, 4, 2};  // So many of them lie in one row.

// A table of rows holds their addresses; the loops know the element type. An entry points into the
// table.
using TableRow = const void*;
using TableEntry = const TableRow*;

// Some output pixels by some panels of output channels.
//
// sums[p * pitch + k] (+)= sum over taps t and depths d of
//   entries[p][offsets[t]][d] * weights[(k / 16) * panel_stride + (t * depth + d) * 16 + k % 16]
// where depthwise
//   entries[p][offsets[t]][k] * weights[t * depth + k]
struct Tile {
  const TableEntry* entries;  // Of each pixel.
  const int64_t* offsets;     // Of each tap, in that table.
  int64_t taps;
  int64_t depth;
  const float* weights;
  int64_t panel_stride;
  int64_t channel;  // Depthwise: the first one.
  bool start;       // The sums start from zero, else from what they are.
  float* sums;
  int64_t pitch;
  // Where not null, finished rows of the loops' type go there, straight from the registers, not to
  // `sums`: sums * scale + bias + residual, between `min` and `max`.
  void* out;
  const void* residual;  // null: none.
  int64_t out_pitch;     // Of out and residual.
  const float* scale;
  const float* bias;
  float min;
  float max;
};

// y = activation(sums * scale + bias + residual); out = y; out2 = relu(y * scale2 + bias2).
//
// Pointers are those of the first pixel and channel; null: absent. T is float or bfloat16's bits.
struct Outputs {
  int64_t pixels;
  int64_t channels;
  const float* sums;
  int64_t sums_pitch;
  const float* scale;  // Never null, like bias.
  const float* bias;
  const float* scale2;
  const float* bias2;
  const void* residual;
  void* out;
  void* out2;
  int64_t pitch;   // Of residual, out and out2.
  int activation;  // 0: none, 1: ReLU, 2: ReLU6.
};

// Along one axis of a Winograd convolution: how many outputs a square has; of how many inputs there
// are transformed taps, one an input; at how many points sums of products are formed; and which
// taps each sums up.
struct WinogradAxis {
  int outputs;
  int inputs;
  int points;
  int first[6];
  int taps[6];
};

// Of stride 1, of stride 2, and of stride 1 in larger squares. In both axes together, the taps of a
// point follow each other, row by row.
constexpr int kWinograds = 3;
constexpr int kLargeSquares = 2;
constexpr WinogradAxis kWinograd[kWinograds] = {
    {2, 4, 4, {0, 1, 2, 3}, {1, 1, 1, 1}},
    {2, 5, 3, {0, 2, 3}, {2, 1, 2}},
    {4, 6, 6, {0, 1, 2, 3, 4, 5}, {1, 1, 1, 1, 1, 1}},
};

// Transforms what a square of outputs reads: tap t goes to out + t * pitch.
struct WinogradInput {
  const void* const* rows;  // (inputs, inputs)
  int64_t channels;
  float* out;
  int64_t pitch;
};

// Makes outputs of the sums at the points: outputs.sums + point * point_pitch + square *
// sums_pitch.
struct WinogradOutput {
  Outputs outputs;  // Its pointers are those of the call's first pixel.
  int64_t point_pitch;
  int64_t squares;
  const int64_t* corners;  // (squares, pixels): output rows; negative: outside of the unit.
};

// Pixels of a depthwise convolution, whose windows begin at `entries` and whose taps lie at
// `offsets` from there: sums[t][k] += sum over pixels of cotangents[pixel][k] * what tap t reads.
struct GradientTile {
  const TableEntry* entries;
  const int64_t* offsets;
  int64_t taps;
  int64_t pixels;
  int64_t channels;
  const float* cotangents;  // (pixels, channels)
  float* sums;              // (taps, channels)
};

// The four pixels that x2 upsampling makes of the middle one of 3 x 3 source pixels.
struct UpsampledSquare {
  const void* sources[9];
  int64_t channels;
  const void* residuals[4];  // All null: none.
  const float* scale2;       // null: none, like bias2.
  const float* bias2;
  void* outs[4];
};

// A row of pixels of logits, to be laid out as planes, one a class: planes[k * pitch + pixel].
struct LogitsRow {
  const void* row;
  int64_t pixels;
  int64_t classes;
  float* planes;
  int64_t pitch;
};

// The best classes of some phases of a row of corners; see segblocks/corners.h.
//
// Corner c lies between elements c and c + 1 of each plane. The last vector of corners runs over
// their end: planes and labels have room for it, in multiples of 16 corners.
struct LabelRows {
  const float* above;
  const float* below;
  int64_t pitch;  // From class to class.
  int64_t classes;
  int64_t corners;
  int64_t first_phase;
  int64_t phases;
  int64_t factor;   // 2, 4 or 8.
  uint8_t* labels;  // (phases, factor * corners)
  int64_t label_pitch;
};

struct ArgmaxLoops {
  void (*read_float32)(const LogitsRow& row);
  void (*read_bfloat16)(const LogitsRow& row);
  void (*read_float16)(const LogitsRow& row);
  void (*label)(const LabelRows& rows);
};

struct SizedTile {
  int pixels;
  void (*accumulate)(const Tile& tile);
};

constexpr int kTileSizes = 3;

// Depthwise convolutions that read rows of one element type; weights and sums are float32.
struct DepthwiseLoops {
  // Of each number of panels (1 .. kMaxPanels, at n - 1): tiles of ever fewer pixels.
  SizedTile tiles[kMaxPanels][kTileSizes];
  // At [width == 5][stride - 1][run]: of kRowPixels pixels in runs of kRuns[run], and of windows 3
  // or 5 wide. A run's entries are a stride apart, the offsets of a kernel row follow each other.
  // The sums are the same, in the same order.
  void (*row[2][2][3])(const Tile& tile, int panels);
  // `channels` < kPanel of them, of the pixels of a tile.
  void (*rest)(const Tile& tile, int64_t pixels, int64_t channels);
};

// Functions on rows of one element type.
struct RowLoops {
  void (*write)(const Outputs& outputs);
  // out[k] = max over rows r of rows[r][k]; NaN where one is NaN.
  void (*max)(const void* const* rows, int64_t num_rows, int64_t channels, void* out);
  void (*upsample)(const UpsampledSquare& square);
  void (*mean)(const void* const* rows, int64_t num_rows, int64_t channels, void* out);
  void (*to_float)(const void* row, int64_t count, float* out);
  void (*winograd_input[kWinograds])(const WinogradInput& in);
  void (*winograd_output[kWinograds])(const WinogradOutput& out);
};

template <typename T>
struct Products;   // See cpu/products.h.
struct ByteLoops;  // Of int8; see tiles_bytes.h.

struct TileKernels {
  const char* name;
  // For convolutions in bfloat16 of one group; null: these are widened to float32.
  const Products<Outputs>* pairs;
  // Of each number of panels (1 .. kMaxPanels, at n - 1): tiles of ever fewer pixels.
  SizedTile conv[kMaxPanels][kTileSizes];
  DepthwiseLoops depthwise_float32;
  DepthwiseLoops depthwise_bfloat16;
  DepthwiseLoops depthwise_uint8;  // They write only sums: `out` of their tiles is null.
  void (*depthwise_gradient)(const GradientTile& tile);
  RowLoops float32;
  RowLoops bfloat16;
  ArgmaxLoops argmax;
  const ByteLoops* bytes;
};

extern const TileKernels kBaseTiles;
// The base set with stand-ins for instructions that few machines have: for tests.
extern const TileKernels kDotStandInTiles;
extern const TileKernels kAmxStandInTiles;
#ifdef SEGBLOCKS_X86_TILES
extern const TileKernels kAvx2Tiles;
extern const TileKernels kAvx512Tiles;
#endif
#ifdef SEGBLOCKS_PAIR_TILES
extern const TileKernels kAvx512Bf16Tiles;
extern const TileKernels kAmxTiles;
#endif

// The set that calls run on: at first the fastest that this machine runs, or the one that the
// environment variable SEGBLOCKS_CPU_TILES names: amx, avx512_bf16, avx512_vnni, avx512, avx2,
// base, or a stand-in, avx512_bf16_standin or amx_standin. Throws std::invalid_argument where it
// names none of those that this machine runs.
const TileKernels& tile_kernels();

// Makes calls that begin from now on run on the set of that name; throws as above.
void use_tile_kernels(const char* name);

// The set of that name, or null where it wasn't built or this machine doesn't run it.
const TileKernels* find_tile_kernels(const char* name);

}  // namespace segblocks::cpu

#endif  // SEGBLOCKS_CPU_TILES_H_
