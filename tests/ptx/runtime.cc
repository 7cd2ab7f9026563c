// The part of the CUDA runtime that the launchers call, for emulated kernels.
//
// nvcc's host code registers every kernel by the address of its stub and its name in PTX.

#include <cuda_runtime_api.h>

#include <algorithm>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "ptx/emulator.h"

namespace {

using segblocks::ptx::Dim3;
using segblocks::ptx::Kernel;

constexpr int kMaxSharedBytes = 232448;  // Of a block, on sm_90; 166912 on sm_80.
constexpr int kArchitecture = 90;
constexpr int kProcessorBytes = 233472;
constexpr int kProcessorThreads = 2048;
constexpr int kDefaultSharedBytes = 48 << 10;
constexpr unsigned kMaxCluster = 8;  // That all GPUs with clusters have.

struct Stub {
  std::string name;
  int max_dynamic_bytes = kDefaultSharedBytes;
};
std::map<const void*, Stub>& stubs() {
  static std::map<const void*, Stub> all;
  return all;
}

struct Configuration {
  dim3 grid;
  dim3 block;
  size_t shared_bytes;
};
std::vector<Configuration>& configurations() {
  static std::vector<Configuration> all;
  return all;
}

cudaError_t last = cudaSuccess;

cudaError_t keep(cudaError_t status) {
  if (status != cudaSuccess) last = status;
  return status;
}

cudaError_t launch(const void* stub, dim3 grid, dim3 block, void** arguments, size_t bytes,
                   unsigned cluster = 1) {
  const auto found = stubs().find(stub);
  if (found == stubs().end()) return keep(cudaErrorInvalidDeviceFunction);
  const auto kernel = segblocks::ptx::kernels().find(found->second.name);
  if (kernel == segblocks::ptx::kernels().end()) return keep(cudaErrorNoKernelImageForDevice);
  const uint64_t threads = static_cast<uint64_t>(block.x) * block.y * block.z;
  const bool fits = grid.x >= 1 && grid.y >= 1 && grid.z >= 1 && threads >= 1 &&
                    grid.x <= 2147483647u && grid.y <= 65535 && grid.z <= 65535 && block.z <= 64 &&
                    threads <= 1024 && threads <= static_cast<uint64_t>(kernel->second.max_threads);
  const bool clusters = cluster >= 1 && cluster <= kMaxCluster && grid.x % cluster == 0;
  if (!fits || !clusters) return keep(cudaErrorInvalidConfiguration);
  if (bytes + kernel->second.shared_bytes > static_cast<size_t>(found->second.max_dynamic_bytes)) {
    return keep(cudaErrorInvalidValue);
  }
  segblocks::ptx::run_grid(kernel->second, {grid.x, grid.y, grid.z}, {block.x, block.y, block.z},
                           arguments, bytes, static_cast<int>(cluster));
  return cudaSuccess;
}

// Blocks of a cluster, 0 where it is none along x.
unsigned cluster_of(const cudaLaunchConfig_t& config) {
  unsigned cluster = 1;
  for (unsigned i = 0; i < config.numAttrs; ++i) {
    if (config.attrs[i].id != cudaLaunchAttributeClusterDimension) return 0;
    const auto& size = config.attrs[i].val.clusterDim;
    cluster = size.y == 1 && size.z == 1 ? size.x : 0;
  }
  return cluster;
}

}  // namespace

extern "C" {

void** __cudaRegisterFatBinary(void*) {
  static void* none = nullptr;
  return &none;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}
void __cudaRegisterFunction(void**, const char* stub, char*, const char* name, int, void*, void*,
                            void*, void*, int*) {
  stubs()[stub] = {name};
}
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t bytes, struct CUstream_st*) {
  configurations().push_back({grid, block, bytes});
  return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* bytes, void* stream) {
  *grid = configurations().back().grid;
  *block = configurations().back().block;
  *bytes = configurations().back().shared_bytes;
  *static_cast<cudaStream_t*>(stream) = nullptr;
  configurations().pop_back();
  return cudaSuccess;
}
// What CUDA 13 calls: a kernel's handle is its stub here.
cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* stub) {
  *kernel = reinterpret_cast<cudaKernel_t>(const_cast<void*>(stub));
  return cudaSuccess;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** arguments,
                               size_t bytes, cudaStream_t) {
  return launch(kernel, grid, block, arguments, bytes);
}
cudaError_t cudaLaunchKernel(const void* stub, dim3 grid, dim3 block, void** arguments,
                             size_t bytes, cudaStream_t) {
  return launch(stub, grid, block, arguments, bytes);
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* stub,
                                void** arguments) {
  return launch(stub, config->gridDim, config->blockDim, arguments, config->dynamicSmemBytes,
                cluster_of(*config));
}

cudaError_t cudaGetLastError() { return std::exchange(last, cudaSuccess); }
cudaError_t cudaPeekAtLastError() { return last; }
const char* cudaGetErrorString(cudaError_t error) {
  static std::string text;
  text = "emulated CUDA error " + std::to_string(error);
  return text.c_str();
}
cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      *value = segblocks::ptx::settings().processors;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
      *value = segblocks::ptx::settings().capability / 10;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
      *value = segblocks::ptx::settings().capability % 10;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = kMaxSharedBytes;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = kProcessorBytes;
      return cudaSuccess;
    default:
      return keep(cudaErrorInvalidValue);
  }
}
cudaError_t cudaFuncSetAttribute(const void* stub, cudaFuncAttribute attribute, int value) {
  const auto found = stubs().find(stub);
  if (found == stubs().end()) return keep(cudaErrorInvalidDeviceFunction);
  if (attribute == cudaFuncAttributePreferredSharedMemoryCarveout) return cudaSuccess;
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || value > kMaxSharedBytes) {
    return keep(cudaErrorInvalidValue);
  }
  found->second.max_dynamic_bytes = value;
  return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void* stub,
                                                                   int threads, size_t bytes,
                                                                   unsigned) {
  if (!stubs().contains(stub)) return keep(cudaErrorInvalidDeviceFunction);
  *blocks =
      std::min(kProcessorThreads / threads, kProcessorBytes / (static_cast<int>(bytes) + 1024));
  return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* stub,
                                                          int threads, size_t bytes) {
  return cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, stub, threads, bytes, 0);
}
cudaError_t cudaOccupancyMaxActiveClusters(int* clusters, const void* stub,
                                           const cudaLaunchConfig_t* config) {
  const unsigned cluster = cluster_of(*config);
  if (cluster < 1 || cluster > kMaxCluster) return keep(cudaErrorInvalidConfiguration);
  int blocks = 0;
  const auto threads = static_cast<int>(config->blockDim.x);
  const cudaError_t status = cudaOccupancyMaxActiveBlocksPerMultiprocessor(
      &blocks, stub, threads, config->dynamicSmemBytes);
  *clusters = blocks * segblocks::ptx::settings().processors / static_cast<int>(cluster);
  return status;
}
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* stub) {
  if (!stubs().contains(stub)) return keep(cudaErrorInvalidDeviceFunction);
  *attributes = {};
  attributes->ptxVersion = attributes->binaryVersion = kArchitecture;
  return cudaSuccess;
}

}  // extern "C"
