// The CPU's side of label maps.

#ifndef SEGBLOCKS_CPU_LABEL_MAP_H_
#define SEGBLOCKS_CPU_LABEL_MAP_H_

#include "cpu/tiles.h"
#include "cpu/workers.h"
#include "segblocks/label_map.h"

namespace segblocks::cpu {

// For calls that aren't empty.
void label_map(Workers& workers, const TileKernels& kernels, const LabelMapCall& call);

}  // namespace segblocks::cpu

#endif  // SEGBLOCKS_CPU_LABEL_MAP_H_
