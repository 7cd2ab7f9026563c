// Launchers of the CUDA kernels. They use the given stream only, allocate nothing and don't wait.
//
// Slots out of range are skipped: what they would have written stays undefined.

#ifndef SEGBLOCKS_CUDA_KERNELS_H_
#define SEGBLOCKS_CUDA_KERNELS_H_

#include <cuda_runtime_api.h>

#include "segblocks/calls.h"
#include "segblocks/indexed_calls.h"
#include "segblocks/label_map.h"

namespace segblocks::cuda {

cudaError_t launch(cudaStream_t stream, const SplitCall& call);
cudaError_t launch(cudaStream_t stream, const CombineCall& call);
cudaError_t launch(cudaStream_t stream, const PadCall& call);
cudaError_t launch(cudaStream_t stream, const PadBackwardCall& call);

// For calls that aren't empty.
cudaError_t launch(cudaStream_t stream, const LabelMapCall& call);

// Of indexed operations: for calls that have outputs and for which fits_int32() holds. Which units
// are live is read on the GPU. Indices out of range stand for rows of zeros.
cudaError_t launch(cudaStream_t stream, const IndexedConvCall& call);
cudaError_t launch(cudaStream_t stream, const IndexedMaxPoolCall& call);
cudaError_t launch(cudaStream_t stream, const IndexedUpsample2Call& call);
cudaError_t launch(cudaStream_t stream, const IndexTablesCall& call);

}  // namespace segblocks::cuda

#endif  // SEGBLOCKS_CUDA_KERNELS_H_
