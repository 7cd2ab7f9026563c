// The Python module of the CPU handlers.

#include <exception>
#include <initializer_list>

#include "bindings/indexed_registrations.h"
#include "cpu/indexed_kernels.h"
#include "cpu/kernels.h"
#include "cpu/label_map.h"
#include "cpu/tiles.h"
#include "cpu/workers.h"

namespace segblocks::bindings {
namespace {

struct Cpu {
  using Tag = ffi::ThreadPool;
  using Context = ffi::ThreadPool;
  static constexpr std::initializer_list<ffi::Traits> kTraits = {};

  static ffi::Error run(Context& pool, const std::string& operation, const SplitCall& call) {
    return guarded(operation, call.layout, call.slots, [&] { cpu::split(pool, call); });
  }
  static ffi::Error run(Context& pool, const std::string& operation, const CombineCall& call) {
    return guarded(operation, call.layout, call.slots, [&] { cpu::combine(pool, call); });
  }
  static ffi::Error run(Context& pool, const std::string& operation, const PadCall& call) {
    return guarded(operation, call.layout.blocks, call.slots, [&] { cpu::pad(pool, call); });
  }
  static ffi::Error run(Context& pool, const std::string& operation, const PadBackwardCall& call) {
    return guarded(operation, call.layout.blocks, call.slots,
                   [&] { cpu::pad_backward(pool, call); });
  }
  static ffi::Error run(Context& pool, const std::string& operation, const IndexedConvCall& call) {
    return solved(pool, operation, [&](cpu::Workers& workers) {
      return cpu::indexed_conv(workers, cpu::tile_kernels(), call);
    });
  }
  static ffi::Error run(Context& pool, const std::string& operation,
                        const IndexedMaxPoolCall& call) {
    return solved(pool, operation, [&](cpu::Workers& workers) {
      return cpu::indexed_max_pool(workers, cpu::tile_kernels(), call);
    });
  }
  static ffi::Error run(Context& pool, const std::string& operation,
                        const IndexedUpsample2Call& call) {
    return solved(pool, operation, [&](cpu::Workers& workers) {
      return cpu::indexed_upsample2(workers, cpu::tile_kernels(), call);
    });
  }
  static ffi::Error run(Context& pool, const std::string& operation, const IndexTablesCall& call) {
    return solved(pool, operation,
                  [&](cpu::Workers& workers) { return cpu::index_tables(workers, call); });
  }
  static ffi::Error run(Context& pool, const std::string& operation, const LabelMapCall& call) {
    return solved(pool, operation, [&](cpu::Workers& workers) {
      cpu::label_map(workers, cpu::tile_kernels(), call);
      return cpu::Problem{};
    });
  }

 private:
  // Runs loops that check their data themselves and may run out of memory.
  template <typename Loops>
  static ffi::Error solved(Context& pool, const std::string& operation, const Loops& loops) {
    cpu::PoolWorkers<Context> workers(pool);
    try {
      const cpu::Problem problem = loops(workers);
      if (!problem.found()) return ffi::Error::Success();
      return invalid(operation, problem.argument, problem.got, problem.expected);
    } catch (const std::exception& error) {
      return ffi::Error(ffi::ErrorCode::kResourceExhausted, operation + ": " + error.what());
    }
  }

  // Runs the loops once every slot is known to lie in the packed list.
  template <typename Loops>
  static ffi::Error guarded(const std::string& operation, const BlockLayout& layout,
                            const int32_t* slots, const Loops& loops) {
    for (int64_t cell = 0; cell < layout.cells(); ++cell) {
      if (layout.has_slot(slots[cell])) continue;
      return invalid(operation, "slots",
                     "slot " + std::to_string(slots[cell]) + " in cell " + std::to_string(cell),
                     "a slot in 0 .. " + std::to_string(layout.cells() - 1));
    }
    loops();
    return ffi::Error::Success();
  }
};

}  // namespace
}  // namespace segblocks::bindings

PYBIND11_MODULE(_ffi_cpu, module) {
  module.doc() = "Compiled handlers of segblocks_jax for the platform cpu.";
  module.def("registrations", &segblocks::bindings::all_registrations<segblocks::bindings::Cpu>,
             "Returns {operation: {FFI target name: capsule}}.");
}
