#ifndef SEGBLOCKS_MACROS_H_
#define SEGBLOCKS_MACROS_H_

// Marks an inline function that CPU handlers and CUDA kernels both call.
#ifdef __CUDACC__
#define SEGBLOCKS_HD __host__ __device__ inline
#else
#define SEGBLOCKS_HD inline
#endif

#endif  // SEGBLOCKS_MACROS_H_
