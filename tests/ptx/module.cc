// The Python module of the emulated CUDA handlers: what cuda_module.cc is, for the platform cpu.
//
// Every call declares its buffers, so that each access can be checked.

#include <cuda_runtime_api.h>
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <exception>
#include <initializer_list>
#include <mutex>
#include <string>

#include "bindings/registrations.h"
#include "cuda/kernels.h"
#include "cuda/window_tables.h"
#include "ptx/emulator.h"

namespace segblocks::bindings {
namespace {

class Buffers {
 public:
  explicit Buffers(const char* operation) : memory_(operation) { ptx::current_memory() = &memory_; }
  ~Buffers() { ptx::current_memory() = nullptr; }

  void operand(const char* name, const void* begin, int64_t count, int64_t bytes) {
    memory_.add_buffer(name, begin, count * bytes, bytes, false);
  }
  void result(const char* name, const void* begin, int64_t count, int64_t bytes) {
    memory_.add_buffer(name, begin, count * bytes, bytes, true);
  }
  void in_place(const char* name, const void* begin, int64_t count, int64_t bytes) {
    memory_.add_buffer_in_place(name, begin, count * bytes, bytes);
  }

 private:
  ptx::Memory memory_;
};

int64_t bytes(Element element) { return element == Element::kFloat32 ? 4 : 2; }

void declare(Buffers& buffers, const SplitCall& call) {
  const BlockLayout& layout = call.layout;
  buffers.operand("slots", call.slots, layout.cells(), 4);
  buffers.operand("image", call.image, layout.num_image_pixels() * layout.channels,
                  bytes(call.element));
  buffers.result("pixels", call.pixels, layout.num_pixels() * layout.channels, bytes(call.element));
}

void declare(Buffers& buffers, const CombineCall& call) {
  const BlockLayout& layout = call.layout;
  buffers.operand("slots", call.slots, layout.cells(), 4);
  buffers.operand("pixels", call.pixels, layout.num_pixels() * layout.channels,
                  bytes(call.element));
  buffers.result("image", call.image, layout.num_image_pixels() * layout.channels,
                 bytes(call.element));
}

void declare(Buffers& buffers, const PadCall& call) {
  const BlockLayout& layout = call.layout.blocks;
  const int64_t channels = layout.channels;
  buffers.operand("slots", call.slots, layout.cells(), 4);
  buffers.operand("pixels", call.pixels, layout.num_pixels() * channels, bytes(call.element));
  buffers.result("high", call.high, call.layout.num_padded_pixels(true) * channels,
                 bytes(call.element));
  buffers.result("low", call.low, call.layout.num_padded_pixels(false) * channels,
                 bytes(call.element));
}

void declare(Buffers& buffers, const PadBackwardCall& call) {
  const BlockLayout& layout = call.layout.blocks;
  const int64_t channels = layout.channels;
  buffers.operand("slots", call.slots, layout.cells(), 4);
  buffers.operand("high", call.high, call.layout.num_padded_pixels(true) * channels,
                  bytes(call.element));
  buffers.operand("low", call.low, call.layout.num_padded_pixels(false) * channels,
                  bytes(call.element));
  buffers.result("pixels", call.pixels, layout.num_pixels() * channels, bytes(call.element));
}

void declare(Buffers& buffers, const UpsampleArgmaxCall& call) {
  const int64_t pixels = call.images * call.height * call.width;
  buffers.operand("logits", call.logits, pixels * call.classes, bytes(call.element));
  buffers.result("labels", call.labels, pixels * call.factor * call.factor, 1);
}

void declare(Buffers& buffers, const LayerTablesCall& all) {
  const IndexTablesCall& call = all.layers[0];
  const BlockLayout& blocks = call.layout.blocks;
  buffers.operand("mask", call.mask, blocks.cells(), 1);
  buffers.operand("slots", call.slots, blocks.cells(), 4);
  buffers.operand("high_cells", call.high_cells, blocks.num_high, 4);
  buffers.operand("low_cells", call.low_cells, blocks.num_low(), 4);
  for (int k = 0; k < all.count; ++k) {
    const IndexTablesCall& one = all.layers[k];
    const IndexTableLayout& layout = one.layout;
    buffers.result("high", one.high, blocks.num_high * layout.patch_area(true), 4);
    buffers.result("low", one.low, blocks.num_low() * layout.patch_area(false), 4);
    buffers.result("means", one.means, layout.num_halos() * blocks.factor * blocks.factor, 4);
  }
}

void declare(Buffers& buffers, const MaskTablesCall& call) {
  const MaskTableLayout& layout = call.layout;
  buffers.operand("mask", call.mask, layout.num_pixels(), 1);
  buffers.result("first", call.first, layout.num_dilated() * layout.first.area(), 4);
  buffers.result("second", call.second, layout.num_pixels() * layout.second.area(), 4);
  buffers.result("sites", call.sites, layout.num_pixels(), 4);
  buffers.result("rows", call.rows, layout.num_dilated(), 4);
  buffers.result("dilated_counts", call.dilated_counts, 2, 4);
  buffers.result("counts", call.counts, 2, 4);
  buffers.result("parts", call.parts, layout.num_parts(), 4);
}

void declare(Buffers& buffers, const MaskAddCall& call) {
  const int64_t size = bytes(call.element);
  buffers.operand("rows", call.rows, call.pixels * call.channels, size);
  buffers.operand("mask", call.mask, call.pixels, 1);
  buffers.operand("sites", call.sites, call.pixels, 4);
  buffers.operand("counts", call.counts, 2, 4);
  buffers.in_place("out", call.out, call.pixels * call.channels, size);
}

// What all operations on rows have in common; returns the bytes of an element.
template <typename Call>
int64_t declare_rows(Buffers& buffers, const Call& call) {
  const IndexedRows& input = call.input;
  const int64_t size = bytes(input.element);
  buffers.operand("rows", input.rows, input.num_rows * input.channels, size);
  buffers.operand("means", input.means, input.num_halos * input.halo_reads, 4);
  const int64_t halos = input.num_halos * input.channels;
  if (input.lent) {
    buffers.operand("lent halos", input.halos, halos, size);
  } else {
    buffers.result("halos", input.halos, halos, size);
  }
  buffers.operand("high", call.units.high.indices,
                  call.units.high.capacity * call.units.high.area(), 4);
  buffers.operand("low", call.units.low.indices, call.units.low.capacity * call.units.low.area(),
                  4);
  buffers.operand("counts", call.units.counts, 2, 4);
  return size;
}

void declare_lent(Buffers& buffers, const LentHalos& lent, const Units& units, int64_t features,
                  int64_t size) {
  const int64_t count = units.high.capacity * ring_size(lent.side, lent.edge) * features;
  buffers.result("lent halos", lent.halos, count, size);
}

void declare(Buffers& buffers, const IndexedConvCall& call) {
  const int64_t size = declare_rows(buffers, call);
  const int64_t outputs = max_output_rows(call) * call.features;
  const int64_t weights =
      call.depthwise ? call.taps() * call.features
                     : call.panels() * call.taps() * call.input.channels * IndexedConvCall::kPanel;
  buffers.operand("weights", call.weights, weights, size);
  for (const float* vector : {call.scale, call.bias, call.scale2, call.bias2}) {
    buffers.operand("scale or bias", vector, call.features, 4);
  }
  buffers.operand("residual", call.residual, outputs, size);
  buffers.result("out", call.out, outputs, size);
  buffers.result("out2", call.out2, outputs, size);
  declare_lent(buffers, call.lent, call.units, call.features, size);
}

void declare(Buffers& buffers, const MaxPoolCall& call) {
  const int64_t size = declare_rows(buffers, call);
  buffers.result("out", call.out, max_output_rows(call) * call.input.channels, size);
}

void declare(Buffers& buffers, const Upsample2Call& call) {
  const int64_t size = declare_rows(buffers, call);
  const int64_t channels = call.input.channels;
  buffers.operand("residual", call.residual, max_output_rows(call) * channels, size);
  buffers.operand("scale2", call.scale2, channels, 4);
  buffers.operand("bias2", call.bias2, channels, 4);
  buffers.result("out", call.out, max_output_rows(call) * channels, size);
  declare_lent(buffers, call.lent, call.units, channels, size);
}

// JAX calls handlers in several threads.
std::mutex one_at_a_time;

struct Emulated {
  using Tag = ffi::ThreadPool;
  using Context = ffi::ThreadPool;
  static constexpr std::initializer_list<ffi::Traits> kTraits = {};
  static constexpr bool kIsCpu = false;

  static ffi::Error nothing(Context&, const char* operation) {
    return guarded(operation, [](Buffers&) { return cuda::launch_nothing(nullptr); });
  }

  template <typename Call>
  static ffi::Error run(Context&, const char* operation, const Call& call) {
    if constexpr (requires { call.units; }) {
      if (!fits_int32(call)) return ffi::Error::InvalidArgument("too large");
    }
    if constexpr (requires { call.winograd; }) {
      if (call.winograd || call.pairs) {
        return ffi::Error::InvalidArgument("weights are packed for a CPU");
      }
    }
    return guarded(operation, [&](Buffers& buffers) {
      declare(buffers, call);
      return cuda::launch(nullptr, call);
    });
  }

 private:
  template <typename Launch>
  static ffi::Error guarded(const char* operation, const Launch& launch) {
    const std::lock_guard lock(one_at_a_time);
    try {
      Buffers buffers(operation);
      const cudaError_t status = launch(buffers);
      if (status == cudaSuccess) return ffi::Error::Success();
      return ffi::Error::Internal(std::string(operation) + ": " + cudaGetErrorString(status));
    } catch (const std::exception& error) {
      return ffi::Error::Internal(std::string(operation) + ": " + error.what());
    }
  }
};

// {(operation, kernel): {"launches": ..., "warp_instructions": ..., ...}}
pybind11::dict counts() {
  pybind11::dict all;
  for (const auto& [key, counts] : ptx::counts()) {
    pybind11::dict one;
    one["launches"] = counts.launches;
    one["blocks"] = counts.blocks;
    one["warps"] = counts.warps;
    one["warp_instructions"] = counts.instructions;
    one["products"] = counts.products;
    one["wide_divisions"] = counts.divisions;
    all[pybind11::make_tuple(key.first, key.second)] = one;
  }
  return all;
}

// Runs a kernel of two float arrays on one block of threads, or a cluster of such.
void run(const std::string& name, pybind11::array_t<float> in, pybind11::array_t<float> out,
         uint32_t threads, size_t shared_bytes, uint32_t cluster) {
  Buffers buffers("test");
  buffers.operand("in", in.data(), in.size(), sizeof(float));
  buffers.result("out", out.mutable_data(), out.size(), sizeof(float));
  const void* from = in.data();
  void* to = out.mutable_data();
  void* arguments[] = {&from, &to};
  ptx::run_grid(ptx::kernels().at(name), {cluster}, {threads}, arguments, shared_bytes,
                static_cast<int>(cluster));
}

void configure(uint32_t seed, int processors, const std::string& skip, int capability,
               bool truncating) {
  ptx::settings() = {seed, processors, skip, capability, truncating};
}

}  // namespace
}  // namespace segblocks::bindings

PYBIND11_MODULE(_ffi_ptx, module) {
  using namespace segblocks;
  module.doc() = "The CUDA handlers of segblocks_jax, on an emulator of their PTX.";
  module.def("registrations", &bindings::registrations<bindings::Emulated>,
             "Returns {operation: {FFI target: capsule}}.");
  module.def("counts", &bindings::counts, "Returns what each kernel has executed.");
  module.def("reset", [] { ptx::counts().clear(); }, "Sets all counts to zero.");
  module.def("configure", &bindings::configure, pybind11::arg("seed") = 0,
             pybind11::arg("processors") = 132, pybind11::arg("skip") = "",
             pybind11::arg("capability") = 90, pybind11::arg("truncating") = true);
  module.def("run", &bindings::run, pybind11::arg("name"), pybind11::arg("in"),
             pybind11::arg("out"), pybind11::arg("threads"), pybind11::arg("shared_bytes"),
             pybind11::arg("cluster") = 1, "Runs a kernel of faults.cu on `in` and `out`.");
  module.def(
      "kernels",
      [] {
        std::vector<std::string> names;
        for (const auto& [name, kernel] : ptx::kernels()) names.push_back(name);
        return names;
      },
      "Returns the names of all kernels in PTX.");
}
