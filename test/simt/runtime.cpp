// The calls of the CUDA runtime that the library and its tests use.
#include <cuda_runtime.h>
#include <sys/mman.h>
#include <unistd.h>
#include <algorithm>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "test/simt/device.hpp"
#include "test/simt/machine.hpp"

struct CUstream_st {};
struct CUevent_st {};
struct CUgraph_st {
  std::vector<std::function<void()>> nodes;
};
struct CUgraphExec_st {
  std::vector<std::function<void()>> nodes;
};

namespace simt {
namespace {

constexpr std::size_t most_without_attribute = 48 * 1024;

cudaError_t last_error = cudaSuccess;
/// Memory of the device: pages of its own that end where it ends, with one behind them that nobody may touch.
struct device_pages {
  std::size_t bytes, pages;  // asked for; to map, without the last one
  std::byte* first;
};
std::map<void*, device_pages> allocations;
std::map<void const*, std::size_t> shared_limits;

struct capture_state {
  cudaStream_t stream = nullptr;  // nullptr: none
  bool valid = true;
  std::unique_ptr<CUgraph_st> graph;
} capture;

cudaError_t remember(cudaError_t e) {
  if (e != cudaSuccess) last_error = e;
  return e;
}
/// What a call returns whatever it asks for.
cudaError_t trouble() { return device().present != cudaSuccess ? device().present : device().lost; }

std::size_t page_size() { return static_cast<std::size_t>(sysconf(_SC_PAGESIZE)); }
/// nullptr: the system has no more.
void* map_device_pages(std::size_t bytes) {
  std::size_t const usable = (bytes + 255) / 256 * 256, pages = (usable + page_size() - 1) / page_size() * page_size();
  void* const p = mmap(nullptr, pages + page_size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) return nullptr;
  auto* const first = static_cast<std::byte*>(p);
  mprotect(first + pages, page_size(), PROT_NONE);
  void* const data = first + pages - usable;
  allocations[data] = {bytes, pages, first};
  return data;
}
/// While a stream is captured the host cannot touch device memory: nothing has been computed yet, so a look at it is a mistake. It ends the test at
/// the very access, as it would on a machine with a GPU.
void let_host_touch_device_memory(bool yes) {
  for (auto const& [p, a] : allocations) mprotect(a.first, a.pages, yes ? PROT_READ | PROT_WRITE : PROT_NONE);
}

/// A call that a stream under capture does not allow: it spoils the capture.
cudaError_t spoil(cudaError_t e) {
  capture.valid = false;
  return remember(e);
}
/// A call that would have to wait for, or touch, all work of the device.
cudaError_t check_unsafe() {
  if (cudaError_t const e = trouble(); e != cudaSuccess) return remember(e);
  return capture.stream != nullptr ? spoil(cudaErrorStreamCaptureUnsupported) : cudaSuccess;
}

}  // namespace

device_state& device() {
  static device_state d;
  return d;
}
void leave_error(cudaError_t e) { last_error = e; }
std::size_t allocated_bytes() {
  std::size_t n = 0;
  for (auto const& [p, a] : allocations) n += a.bytes;
  return n;
}

bool records(cudaStream_t stream) { return capture.stream != nullptr && stream == capture.stream; }

cudaError_t submit(cudaStream_t stream, std::function<void()> const& work) {
  if (cudaError_t const e = trouble(); e != cudaSuccess) return remember(e);
  if (capture.stream != nullptr && stream == nullptr) return spoil(cudaErrorStreamCaptureImplicit);  // the default stream waits for all others
  if (records(stream)) {
    if (!capture.valid) return remember(cudaErrorStreamCaptureInvalidated);
    capture.graph->nodes.push_back(work);
  } else {  // of another stream, if one is captured
    if (capture.stream != nullptr) let_host_touch_device_memory(true);
    work();
    if (capture.stream != nullptr) let_host_touch_device_memory(false);
  }
  return cudaSuccess;
}

cudaError_t set_shared_limit(void const* kernel, cudaFuncAttribute, int bytes) {
  if (cudaError_t const e = trouble(); e != cudaSuccess) return remember(e);
  if (bytes < 0 || static_cast<std::size_t>(bytes) > device().shared_limit) return remember(cudaErrorInvalidValue);
  shared_limits[kernel] = static_cast<std::size_t>(bytes);
  return cudaSuccess;
}

cudaError_t function_attributes(cudaFuncAttributes* attributes, void const* kernel) {
  if (cudaError_t const e = trouble(); e != cudaSuccess) return remember(e);
  if (device().image != cudaSuccess) return remember(device().image);
  *attributes = {};
  auto const limit = shared_limits.find(kernel);
  attributes->maxDynamicSharedSizeBytes = static_cast<int>(limit == shared_limits.end() ? most_without_attribute : limit->second);
  attributes->maxThreadsPerBlock = 1024;
  return cudaSuccess;
}

cudaError_t check_launch(cudaLaunchConfig_t const& c, void const* kernel) {
  if (cudaError_t const e = trouble(); e != cudaSuccess) return remember(e);
  if (device().image != cudaSuccess) return remember(device().image);
  if (c.numAttrs != 0) return remember(cudaErrorNotSupported);  // no clusters here
  auto const product = [](dim3 d) { return std::uint64_t{d.x} * d.y * d.z; };
  if (product(c.gridDim) == 0 || c.gridDim.x > 0x7fffffffu || c.gridDim.y > 65535 || c.gridDim.z > 65535)
    return remember(cudaErrorInvalidConfiguration);
  if (product(c.blockDim) == 0 || product(c.blockDim) > 1024 || c.blockDim.z > 64) return remember(cudaErrorInvalidConfiguration);
  auto const limit = shared_limits.find(kernel);
  std::size_t const allowed = std::max(most_without_attribute, limit == shared_limits.end() ? 0 : limit->second);
  return c.dynamicSmemBytes > allowed ? remember(cudaErrorInvalidValue) : cudaSuccess;
}

}  // namespace simt

using simt::check_unsafe;
using simt::remember;
using simt::trouble;

// Errors

cudaError_t cudaPeekAtLastError() { return trouble() != cudaSuccess ? trouble() : simt::last_error; }
cudaError_t cudaGetLastError() {
  cudaError_t const e = std::exchange(simt::last_error, cudaSuccess);
  return trouble() != cudaSuccess ? trouble() : e;
}
char const* cudaGetErrorString(cudaError_t e) {
  struct text {
    cudaError_t code;
    char const* words;
  };
  static constexpr text texts[] = {
      {cudaSuccess, "no error"},
      {cudaErrorInvalidValue, "invalid argument"},
      {cudaErrorMemoryAllocation, "out of memory"},
      {cudaErrorInvalidConfiguration, "invalid configuration argument"},
      {cudaErrorInsufficientDriver, "CUDA driver version is insufficient for CUDA runtime version"},
      {cudaErrorInvalidDeviceFunction, "invalid device function"},
      {cudaErrorNoDevice, "no CUDA-capable device is detected"},
      {cudaErrorInvalidDevice, "invalid device ordinal"},
      {cudaErrorNoKernelImageForDevice, "no kernel image is available for execution on the device"},
      {cudaErrorInvalidPtx, "a PTX JIT compilation failed"},
      {cudaErrorUnsupportedPtxVersion, "the provided PTX was compiled with an unsupported toolchain."},
      {cudaErrorECCUncorrectable, "uncorrectable ECC error encountered"},
      {cudaErrorIllegalAddress, "an illegal memory access was encountered"},
      {cudaErrorLaunchOutOfResources, "too many resources requested for launch"},
      {cudaErrorLaunchTimeout, "the launch timed out and was terminated"},
      {cudaErrorAssert, "device-side assert triggered"},
      {cudaErrorHardwareStackError, "hardware stack error"},
      {cudaErrorIllegalInstruction, "an illegal instruction was encountered"},
      {cudaErrorMisalignedAddress, "misaligned address"},
      {cudaErrorInvalidAddressSpace, "operation not supported on global/shared address space"},
      {cudaErrorInvalidPc, "invalid program counter"},
      {cudaErrorLaunchFailure, "unspecified launch failure"},
      {cudaErrorNotSupported, "operation not supported"},
      {cudaErrorStreamCaptureUnsupported, "operation not permitted when stream is capturing"},
      {cudaErrorStreamCaptureInvalidated, "operation failed due to a previous error during capture"},
      {cudaErrorStreamCaptureImplicit, "operation would make the legacy stream depend on a capturing blocking stream"},
  };
  for (text const& t : texts)
    if (t.code == e) return t.words;
  return "unrecognized error code";
}

// Devices

cudaError_t cudaGetDeviceCount(int* n) {
  *n = trouble() == cudaSuccess ? 1 : 0;
  return remember(trouble());
}
cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return remember(trouble());
}
cudaError_t cudaSetDevice(int device) { return remember(trouble() != cudaSuccess ? trouble() : device == 0 ? cudaSuccess : cudaErrorInvalidDevice); }
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (cudaError_t const e = trouble(); e != cudaSuccess) return remember(e);
  if (device != 0) return remember(cudaErrorInvalidDevice);
  simt::device_state const& d = simt::device();
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
      *value = 1024;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlock:
      *value = static_cast<int>(simt::most_without_attribute);
      return cudaSuccess;
    case cudaDevAttrWarpSize:
      *value = 32;
      return cudaSuccess;
    case cudaDevAttrMultiProcessorCount:
      *value = d.multiprocessors;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
      *value = d.major;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
      *value = d.minor;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(d.shared_limit);
      return cudaSuccess;
  }
  return remember(cudaErrorInvalidValue);
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int device) {
  if (cudaError_t const e = trouble(); e != cudaSuccess) return remember(e);
  if (device != 0) return remember(cudaErrorInvalidDevice);
  simt::device_state const& d = simt::device();
  *p = {"test/simt, a stand-in", d.memory, simt::most_without_attribute, d.shared_limit, 32, 1024, d.major, d.minor, d.multiprocessors};
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() { return check_unsafe(); }

// Memory

cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  *free = *total = 0;
  if (cudaError_t const e = trouble(); e != cudaSuccess) return remember(e);
  *total = simt::device().memory, *free = *total - std::min(*total, simt::allocated_bytes());
  return cudaSuccess;
}
cudaError_t cudaMalloc(void** p, std::size_t bytes) {
  *p = nullptr;
  if (cudaError_t const e = check_unsafe(); e != cudaSuccess) return e;
  if (bytes == 0) return cudaSuccess;
  int& left = simt::device().successful_allocations;
  bool const fails = left == 0 || bytes > simt::device().memory - std::min(simt::device().memory, simt::allocated_bytes());
  if (left >= 0) --left;
  if (!fails) *p = simt::map_device_pages(bytes);
  if (*p == nullptr) return remember(cudaErrorMemoryAllocation);
  std::memset(*p, simt::poison_byte, bytes);
  return cudaSuccess;
}
cudaError_t cudaFree(void* p) {
  auto const found = simt::allocations.find(p);
  if (found != simt::allocations.end()) {  // also where the call fails: the test's process lives on
    munmap(found->second.first, found->second.pages + simt::page_size());
    simt::allocations.erase(found);
    return check_unsafe();
  }
  if (cudaError_t const e = check_unsafe(); e != cudaSuccess) return e;
  return p == nullptr ? cudaSuccess : remember(cudaErrorInvalidValue);
}
cudaError_t cudaHostAlloc(void** p, std::size_t bytes, unsigned) {
  *p = nullptr;
  if (cudaError_t const e = check_unsafe(); e != cudaSuccess) return e;
  *p = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  return *p == nullptr ? remember(cudaErrorMemoryAllocation) : cudaSuccess;
}
cudaError_t cudaFreeHost(void* p) {
  std::free(p);
  return check_unsafe();
}
cudaError_t cudaMemcpyAsync(void* to, void const* from, std::size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  return simt::submit(stream, [=] {
    if (bytes > 0) std::memmove(to, from, bytes);
  });
}
cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t stream) {
  return simt::submit(stream, [=] {
    if (bytes > 0) std::memset(to, value, bytes);
  });
}
cudaError_t cudaMemcpy(void* to, void const* from, std::size_t bytes, cudaMemcpyKind kind) {
  if (cudaError_t const e = check_unsafe(); e != cudaSuccess) return e;
  return cudaMemcpyAsync(to, from, bytes, kind, nullptr);
}
cudaError_t cudaMemset(void* to, int value, std::size_t bytes) {
  if (cudaError_t const e = check_unsafe(); e != cudaSuccess) return e;
  return cudaMemsetAsync(to, value, bytes, nullptr);
}

// Streams and events: work is done when the call that starts it returns

cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  *stream = new CUstream_st;
  return remember(trouble());
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) { return cudaStreamCreate(stream); }
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return remember(trouble());
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (cudaError_t const e = trouble(); e != cudaSuccess) return remember(e);
  return simt::capture.stream != nullptr && (stream == nullptr || simt::records(stream)) ? simt::spoil(cudaErrorStreamCaptureUnsupported)
                                                                                         : cudaSuccess;
}
cudaError_t cudaStreamQuery(cudaStream_t stream) { return cudaStreamSynchronize(stream); }
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return remember(trouble()); }
cudaError_t cudaEventCreate(cudaEvent_t* event) {
  *event = new CUevent_st;
  return remember(trouble());
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) { return cudaEventCreate(event); }
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return remember(trouble());
}
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return remember(trouble()); }
cudaError_t cudaEventSynchronize(cudaEvent_t) { return remember(trouble()); }
cudaError_t cudaEventQuery(cudaEvent_t) { return remember(trouble()); }
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t, cudaEvent_t) {
  *milliseconds = 0;
  return remember(trouble());
}

// Graphs: a list of closures

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (cudaError_t const e = trouble(); e != cudaSuccess) return remember(e);
  if (stream == nullptr || simt::capture.stream != nullptr) return remember(cudaErrorStreamCaptureUnsupported);
  simt::capture = {stream, true, std::make_unique<CUgraph_st>()};
  simt::let_host_touch_device_memory(false);
  return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  *status = !simt::records(stream) ? cudaStreamCaptureStatusNone
            : simt::capture.valid  ? cudaStreamCaptureStatusActive
                                   : cudaStreamCaptureStatusInvalidated;
  return remember(trouble());
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  *graph = nullptr;
  if (!simt::records(stream)) return remember(cudaErrorInvalidValue);
  simt::capture_state const ended = std::exchange(simt::capture, {});
  simt::let_host_touch_device_memory(true);
  if (!ended.valid) return remember(cudaErrorStreamCaptureInvalidated);
  *graph = new CUgraph_st{ended.graph->nodes};
  return cudaSuccess;
}
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t* nodes, std::size_t* n) {
  if (nodes != nullptr) return remember(cudaErrorNotSupported);
  *n = graph->nodes.size();
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  *executable = new CUgraphExec_st{graph->nodes};
  return remember(trouble());
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  return simt::submit(stream, [nodes = executable->nodes] {
    for (auto const& work : nodes) work();
  });
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete executable;
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
