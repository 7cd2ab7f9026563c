// Which terms of an indexed convolution's sums a thread loads, and in which order.

#ifndef SEGBLOCKS_CUDA_INDEXED_CONV_WALK_CUH_
#define SEGBLOCKS_CUDA_INDEXED_CONV_WALK_CUH_

#include <cstdint>

#include "cuda/indexed_conv_tile.cuh"

namespace segblocks::cuda {

// Runs through the terms of a convolution's sums, ordered as (window row, window column, channel).
// kChannels: how many there are, 0 where that is known at run time only.
template <int kChannels = 0>
class TermWalk {
 public:
  __device__ TermWalk(const TileConvolution& call, bool high, int32_t first_term, int32_t step)
      : channels_(call.channels.value()),
        window_width_(call.window_width.value()),
        dilation_(call.tables.dilation) {
    const int32_t patch_width = (high ? call.tables.high : call.tables.low).patch_width;
    next_row_ = dilation_ * (patch_width - window_width_);
    step_taps_ = call.channels.divide(step, &step_rest_);
    tap_ = call.channels.divide(first_term, &channel_);
    if constexpr (kChannels > 0) {
      step_taps_ = step / kChannels;
      step_rest_ = step % kChannels;
      channel_ = first_term % kChannels;
    }
    const int32_t y = call.window_width.divide(tap_, &column_);
    offset_ = dilation_ * (y * patch_width + column_);
  }

  __device__ int32_t channel() const { return channel_; }
  __device__ int32_t tap() const { return tap_; }
  // The tap's index behind the window's first one.
  __device__ int32_t offset() const { return offset_; }

  // By `step` terms, or by fewer than there are channels. Whether that led to another tap.
  __device__ bool advance() { return advance(step_taps_, step_rest_); }
  __device__ void advance(int32_t channels) { advance(0, channels); }

 private:
  __device__ bool advance(int32_t taps, int32_t channels) {
    const int32_t all = kChannels > 0 ? kChannels : channels_;
    if (kChannels > 0 && channels % all == 0) {
      taps += channels / all;
    } else {
      channel_ += channels;
      if (channel_ >= all) {
        channel_ -= all;
        ++taps;
      }
    }
    tap_ += taps;
    column_ += taps;
    offset_ += taps * dilation_;
    while (column_ >= window_width_) {
      column_ -= window_width_;
      offset_ += next_row_;
    }
    return taps > 0;
  }

  int32_t channels_;
  int32_t window_width_;
  int32_t dilation_;
  int32_t next_row_;   // From a window row's end to the next one's begin.
  int32_t step_taps_;  // A step: whole taps,
  int32_t step_rest_;  // and channels.
  int32_t tap_;
  int32_t channel_;
  int32_t column_;
  int32_t offset_;
};

// What loads of rows have in common: each thread has one chunk of each kStep-th row.
template <class Tile>
struct RowShare {
  static constexpr int kChunks = Tile::kDepth / Tile::kChunk;
  static constexpr int kStep = Tile::kThreads / kChunks;
  static constexpr int kMine = Tile::kRows / kStep;
  static_assert(kStep % 8 == 0, "the swizzle of a thread's rows is the same");
};

}  // namespace segblocks::cuda

#endif  // SEGBLOCKS_CUDA_INDEXED_CONV_WALK_CUH_
