// The Python module of the CUDA handlers.

#include <cuda_runtime_api.h>

#include <initializer_list>
#include <string>

#include "bindings/registrations.h"
#include "cuda/kernels.h"
#include "cuda/window_tables.h"

namespace segblocks::bindings {
namespace {

struct Cuda {
  using Tag = ffi::PlatformStream<cudaStream_t>;
  using Context = cudaStream_t;
  static constexpr std::initializer_list<ffi::Traits> kTraits = {ffi::Traits::kCmdBufferCompatible};
  static constexpr bool kIsCpu = false;

  // XLA refuses a call that was to be captured and has launched nothing.
  static ffi::Error nothing(Context stream, const char* operation) {
    return error_of(operation, cuda::launch_nothing(stream));
  }

  template <typename Call>
  static ffi::Error run(Context stream, const char* operation, const Call& call) {
    if constexpr (requires { call.units; }) {
      if (!fits_int32(call)) {
        return ffi::Error::InvalidArgument(
            std::string(operation) +
            ": got index tables or outputs of 2^31 entries or more, expected fewer; " +
            "split the batch");
      }
    }
    if constexpr (requires { call.winograd; }) {
      if (call.winograd || call.pairs) {
        const std::string got = call.winograd ? "'winograd': got 1, expected 0"
                                              : "'weights': got pairs of inputs, expected none";
        return ffi::Error::InvalidArgument(std::string(operation) + ": argument " + got +
                                           " on a GPU; pack the kernel for it");
      }
    }
    return error_of(operation, cuda::launch(stream, call));
  }

 private:
  static ffi::Error error_of(const char* operation, cudaError_t status) {
    if (status == cudaSuccess) return ffi::Error::Success();
    return ffi::Error::Internal(std::string(operation) + ": launching the CUDA kernel failed: " +
                                cudaGetErrorString(status));
  }
};

}  // namespace
}  // namespace segblocks::bindings

PYBIND11_MODULE(_ffi_cuda, module) {
  using namespace segblocks::bindings;
  module.doc() = "Compiled handlers of segblocks_jax for the platform CUDA.";
  module.def("registrations", &registrations<Cuda>, "Returns {operation: {FFI target: capsule}}.");
}
