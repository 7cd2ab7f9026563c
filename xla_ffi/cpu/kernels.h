// The CPU's side of all operations: does the work of a call that isn't empty.

#ifndef SEGBLOCKS_CPU_KERNELS_H_
#define SEGBLOCKS_CPU_KERNELS_H_

#include <string>

#include "cpu/tiles.h"
#include "cpu/workers.h"
#include "segblocks/calls.h"

namespace segblocks::cpu {

// What is wrong with a call's data, which is all that shapes don't say: slots, cells, counts,
// indices, means.
struct Problem {
  std::string argument;  // Empty: no problem, the work is done.
  std::string got;
  std::string expected;

  bool found() const { return !argument.empty(); }
};

Problem run(Workers& workers, const TileKernels& kernels, const SplitCall& call);
Problem run(Workers& workers, const TileKernels& kernels, const CombineCall& call);
Problem run(Workers& workers, const TileKernels& kernels, const PadCall& call);
Problem run(Workers& workers, const TileKernels& kernels, const PadBackwardCall& call);
Problem run(Workers& workers, const TileKernels& kernels, const LayerTablesCall& call);
Problem run(Workers& workers, const TileKernels& kernels, const IndexedConvCall& call);
Problem run(Workers& workers, const TileKernels& kernels, const QuantizedConvCall& call);
Problem run(Workers& workers, const TileKernels& kernels, const DepthwiseGradientCall& call);
Problem run(Workers& workers, const TileKernels& kernels, const MaxPoolCall& call);
Problem run(Workers& workers, const TileKernels& kernels, const Upsample2Call& call);
Problem run(Workers& workers, const TileKernels& kernels, const UpsampleArgmaxCall& call);
Problem run(Workers& workers, const TileKernels& kernels, const MaskTablesCall& call);
Problem run(Workers& workers, const TileKernels& kernels, const MaskAddCall& call);

// Whether every slot lies in the packed list.
Problem check_slots(const BlockLayout& layout, const int32_t* slots);

}  // namespace segblocks::cpu

#endif  // SEGBLOCKS_CPU_KERNELS_H_
