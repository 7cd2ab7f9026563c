// The halos of rows found by index, and those that a call lends.

#include <cstdint>

#include "cuda/launch.cuh"
#include "cuda/lent_halos.cuh"
#include "cuda/rows.cuh"

namespace segblocks::cuda {
namespace {

template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads) halos_kernel(const __grid_constant__ HaloRows<T> call) {
  for_each_vector<kWidth>(call.count, call.input.channels, [&](int32_t halo, int32_t channel) {
    average<T, kWidth>(call, halo, channel);
  });
}

template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads)
    lent_halos_kernel(const __grid_constant__ LentRows<T> call) {
  const int32_t cells = call.tables.live().high / 4;
  for_each_vector<kWidth>(cells, call.features, [&](int32_t cell, int32_t channel) {
    lend<T, kWidth>(call, cell, channel);
  });
}

}  // namespace

cudaError_t launch_halos(cudaStream_t stream, const IndexedRows& input) {
  if (input.lent || input.num_halos == 0 || input.channels == 0) return cudaSuccess;
  return with_indexed_vectors(
      input.element, input.channels, {input.rows, input.halos}, [&](auto vector) {
        using V = decltype(vector);
        using T = typename V::Element;
        const LaunchShape shape = item_shape(input.num_halos, input.channels, V::width);
        const HaloRows<T> halos{
            row_list<T>(input), input.means, static_cast<int32_t>(input.halo_reads),
            static_cast<int32_t>(input.num_halos), static_cast<T*>(input.halos)};
        halos_kernel<T, V::width><<<shape.grid, shape.threads, 0, stream>>>(halos);
        return cudaGetLastError();
      });
}

cudaError_t launch_lent_halos(cudaStream_t stream, const IndexedConvCall& call) {
  if (!call.lent.any()) return cudaSuccess;
  const void* from = call.lent.second ? call.out2 : call.out;
  return with_indexed_vectors(
      call.input.element, call.features, {from, call.lent.halos}, [&](auto vector) {
        using V = decltype(vector);
        using T = typename V::Element;
        const int64_t rows = call.units.high.capacity * call.outputs(call.units.high).area();
        const LaunchShape shape = item_shape(rows / 4, call.features, V::width);
        const LentRows<T> lent{window_tables(call), lent_ring<T>(call.lent),
                               static_cast<int32_t>(call.features), static_cast<const T*>(from)};
        lent_halos_kernel<T, V::width><<<shape.grid, shape.threads, 0, stream>>>(lent);
        return cudaGetLastError();
      });
}

}  // namespace segblocks::cuda
