// The loops of the CPU handlers. Every slot must be in range: these functions don't check.

#ifndef SEGBLOCKS_CPU_KERNELS_H_
#define SEGBLOCKS_CPU_KERNELS_H_

#include "segblocks/calls.h"
#include "xla/ffi/api/ffi.h"

namespace segblocks::cpu {

using Pool = xla::ffi::ThreadPool;

void split(Pool& pool, const SplitCall& call);
void combine(Pool& pool, const CombineCall& call);
void pad(Pool& pool, const PadCall& call);
void pad_backward(Pool& pool, const PadBackwardCall& call);

}  // namespace segblocks::cpu

#endif  // SEGBLOCKS_CPU_KERNELS_H_
