// Launchers of the CUDA kernels. They use the given stream only, allocate nothing and don't wait.
//
// Slots out of range are skipped: what they would have written stays undefined.

#ifndef SEGBLOCKS_CUDA_KERNELS_H_
#define SEGBLOCKS_CUDA_KERNELS_H_

#include <cuda_runtime_api.h>

#include "segblocks/calls.h"

namespace segblocks::cuda {

// A kernel that does nothing.
cudaError_t launch_nothing(cudaStream_t stream);

// For calls that aren't empty.
cudaError_t launch(cudaStream_t stream, const SplitCall& call);
cudaError_t launch(cudaStream_t stream, const CombineCall& call);
cudaError_t launch(cudaStream_t stream, const PadCall& call);
cudaError_t launch(cudaStream_t stream, const PadBackwardCall& call);
cudaError_t launch(cudaStream_t stream, const UpsampleArgmaxCall& call);
cudaError_t launch(cudaStream_t stream, const LayerTablesCall& call);
cudaError_t launch(cudaStream_t stream, const MaskTablesCall& call);
cudaError_t launch(cudaStream_t stream, const MaskAddCall& call);

// Only where fits_int32() holds, too. Which units are live is read on the GPU. Indices out of range
// stand for rows of zeros.
cudaError_t launch(cudaStream_t stream, const IndexedConvCall& call);
cudaError_t launch(cudaStream_t stream, const MaxPoolCall& call);
cudaError_t launch(cudaStream_t stream, const Upsample2Call& call);

}  // namespace segblocks::cuda

#endif  // SEGBLOCKS_CUDA_KERNELS_H_
