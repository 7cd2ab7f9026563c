// The CPU's side of indexed operations.
//
// Each returns what is wrong with the call's data, or "" once it has done the work. Data is all
// that shapes don't say: counts, indices, means, slots and cells.

#ifndef SEGBLOCKS_CPU_INDEXED_KERNELS_H_
#define SEGBLOCKS_CPU_INDEXED_KERNELS_H_

#include <string>

#include "cpu/tiles.h"
#include "cpu/workers.h"
#include "segblocks/indexed_calls.h"

namespace segblocks::cpu {

struct Problem {
  std::string argument;  // Empty: no problem.
  std::string got;
  std::string expected;

  bool found() const { return !argument.empty(); }
};

Problem indexed_conv(Workers& workers, const TileKernels& kernels, const IndexedConvCall& call);
Problem indexed_max_pool(Workers& workers, const TileKernels& kernels,
                         const IndexedMaxPoolCall& call);
Problem indexed_upsample2(Workers& workers, const TileKernels& kernels,
                          const IndexedUpsample2Call& call);
Problem index_tables(Workers& workers, const IndexTablesCall& call);

}  // namespace segblocks::cpu

#endif  // SEGBLOCKS_CPU_INDEXED_KERNELS_H_
