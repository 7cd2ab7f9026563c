// The Python module of the CPU handlers.

#include <exception>
#include <initializer_list>
#include <stdexcept>

#include "bindings/registrations.h"
#include "cpu/kernels.h"
#include "cpu/products.h"
#include "cpu/tiles.h"
#include "cpu/tiles_bytes.h"
#include "cpu/workers.h"

namespace segblocks::bindings {
namespace {

struct Cpu {
  using Tag = ffi::ThreadPool;
  using Context = ffi::ThreadPool;
  static constexpr std::initializer_list<ffi::Traits> kTraits = {};
  static constexpr bool kIsCpu = true;

  static ffi::Error nothing(Context&, const char*) { return ffi::Error::Success(); }

  template <typename Call>
  static ffi::Error run(Context& pool, const char* operation, const Call& call) {
    if constexpr (requires { call.lent; }) {
      if (call.lent.any()) {
        return invalid(operation, "lent halos", "results", "none: CPUs lend no halos");
      }
    }
    cpu::PoolWorkers<Context> workers(pool);
    try {
      const cpu::Problem problem = cpu::run(workers, cpu::tile_kernels(), call);
      if (!problem.found()) return ffi::Error::Success();
      return invalid(operation, problem.argument, problem.got, problem.expected);
    } catch (const std::exception& error) {
      return ffi::Error(ffi::ErrorCode::kResourceExhausted,
                        std::string(operation) + ": " + error.what());
    }
  }
};

pybind11::dict cpu_registrations() {
  try {
    cpu::tile_kernels();
  } catch (const std::invalid_argument& error) {
    throw pybind11::value_error(error.what());
  }
  return registrations<Cpu>();
}

// (set of inner loops, what multiplies bfloat16, what multiplies bytes)
pybind11::tuple cpu_loops() {
  const cpu::TileKernels& kernels = cpu::tile_kernels();
  return pybind11::make_tuple(kernels.name,
                              kernels.pairs == nullptr ? "float32" : kernels.pairs->name,
                              kernels.bytes->name);
}

}  // namespace
}  // namespace segblocks::bindings

PYBIND11_MODULE(_ffi_cpu, module) {
  module.doc() = "Compiled handlers of segblocks_jax for the platform cpu.";
  module.def("registrations", &segblocks::bindings::cpu_registrations,
             "Returns {operation: {FFI target: capsule}}.");
  module.def(
      "loops", &segblocks::bindings::cpu_loops,
      "Returns the names of the set of inner loops, and of what multiplies bfloat16 and bytes.");
  module.def("use_loops", &segblocks::cpu::use_tile_kernels,
             "Makes calls from now on run on the set of this name, \"\" for the first choice.");
}
