// Whether this process may use AMX.

#ifndef SEGBLOCKS_CPU_AMX_H_
#define SEGBLOCKS_CPU_AMX_H_

namespace segblocks::cpu {

// Whether the processor has tile products of bfloat16 and the kernel lets this process use them,
// which it is asked for at the first call.
bool has_amx_bf16();
// Likewise, with products of bytes.
bool has_amx_int8();

}  // namespace segblocks::cpu

#endif  // SEGBLOCKS_CPU_AMX_H_
