// What a thread does with rows found by index: loads one, averages the rows of a halo.

#ifndef SEGBLOCKS_CUDA_ROWS_CUH_
#define SEGBLOCKS_CUDA_ROWS_CUH_

#include <cstdint>

#include "cuda/vectors.cuh"
#include "cuda/window_tables.h"

namespace segblocks::cuda {

template <typename T>
struct HaloRows {
  RowList<T> input;
  const int32_t* means;
  int32_t reads;
  int32_t count;
  T* halos;
};

// kWidth channels of a halo.
template <typename T, int kWidth>
__device__ void average(const HaloRows<T>& call, int32_t halo, int32_t channel) {
  const int32_t* means = call.means + static_cast<int64_t>(halo) * call.reads;
  if (means[0] < 0) return;
  VectorSum<T, kWidth> sum;
  for (int32_t read = 0; read < call.reads; ++read) {
    const int32_t index = means[read];
    if (index >= 0 && index < call.input.num_rows) sum.add(call.input.row(index) + channel, 1.0f);
  }
  sum.write(1.0f / static_cast<float>(call.reads),
            call.halos + static_cast<int64_t>(halo) * call.input.channels + channel);
}

// kWidth channels of a row; zeros where there is none.
template <typename T, int kWidth>
__device__ inline Packed<T, kWidth> load_row(const RowList<T>& input, int32_t index,
                                             int32_t channel) {
  Packed<T, kWidth> row{};
  if (input.has(index)) row = load_packed<T, kWidth>(input.at(index, channel));
  return row;
}

// The given rows from a channel on, for indices that all are below their number.
template <typename T>
class GivenRows {
 public:
  __device__ GivenRows(const RowList<T>& input, int32_t channel)
      : first_(reinterpret_cast<const char*>(input.rows + channel)),
        bytes_(input.channels * static_cast<int32_t>(sizeof(T))) {}

  template <int kWidth>
  __device__ Packed<T, kWidth> load(int32_t index) const {
    int64_t offset;
#ifdef __CUDA_ARCH__
    // Else one factor is extended to 64 bits elsewhere, and the product becomes one of 64 bits.
    asm("mul.wide.s32 %0, %1, %2;" : "=l"(offset) : "r"(index), "r"(bytes_));
#else
    offset = int64_t{index} * bytes_;
#endif
    return load_packed<T, kWidth>(reinterpret_cast<const T*>(first_ + offset));
  }

 private:
  const char* first_;
  int32_t bytes_;
};

// Whether indices are those of given rows.
template <int kCount>
__device__ inline bool all_given(const int32_t (&indices)[kCount], int32_t num_rows) {
  uint32_t last = 0;
#pragma unroll
  for (int k = 0; k < kCount; ++k) {
    const auto index = static_cast<uint32_t>(indices[k]);  // What is negative becomes large.
    last = index > last ? index : last;
  }
  return last < static_cast<uint32_t>(num_rows);
}

}  // namespace segblocks::cuda

#endif  // SEGBLOCKS_CUDA_ROWS_CUH_
