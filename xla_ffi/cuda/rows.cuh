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

}  // namespace segblocks::cuda

#endif  // SEGBLOCKS_CUDA_ROWS_CUH_
