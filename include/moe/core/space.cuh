#pragma once
#include <cuda_runtime.h>

#include <moe/core/space.hpp>

namespace moe::inline MOE_ISA {

namespace detail {

/// The architectures that this translation unit's kernels are compiled for: "sm_80, sm_90". The compiler does not tell sm_90a from sm_90.
inline std::string compiled_architectures() {
  std::string text;
#if defined(__CUDA_ARCH_LIST__)
  for (int const a : {__CUDA_ARCH_LIST__}) text += (text.empty() ? "sm_" : ", sm_") + std::to_string(a / 10);
#endif
  return text.empty() ? "unknown architectures" : text;
}

struct device_name {
  std::string text = "no device that answers";
  int architecture = 0;  ///< 90 for sm_90; 0: unknown
};
/// Of the current device, for messages: not for speed.
inline device_name describe_device() {
  int number = 0;
  cudaDeviceProp p{};
  if (cudaGetDevice(&number) != cudaSuccess || cudaGetDeviceProperties(&p, number) != cudaSuccess) {
    cudaGetLastError();
    return {};
  }
  int const architecture = 10 * p.major + p.minor;
  return {"device " + std::to_string(number) + " (" + p.name + ", sm_" + std::to_string(architecture) + ")", architecture};
}

/// Whether the error took the context with it: every later call of the process fails alike.
inline bool context_lost(cudaError_t e) {
  switch (e) {
    case cudaErrorECCUncorrectable:
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchTimeout:
    case cudaErrorAssert:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorLaunchFailure:
      return true;
    default:
      return false;
  }
}

/// What can be done about the error; its first word says how it follows the runtime's text.
inline std::string remedy(cudaError_t e) {
  if (e == cudaErrorInsufficientDriver) return "; install an NVIDIA driver as new as this CUDA runtime, or use moe::cpu";
  if (e == cudaErrorNoDevice) return "; see that one is there and CUDA_VISIBLE_DEVICES does not hide it, or use moe::cpu";
  if (context_lost(e))
    return "; a kernel of this process failed, and its context is lost: no call succeeds any more, only a new process can use the device "
           "(compute-sanitizer names the kernel)";
  device_name const device = describe_device();
  std::string const where = ": " + device.text + ", kernels compiled for " + compiled_architectures();
  bool const image = e == cudaErrorNoKernelImageForDevice || e == cudaErrorInvalidDeviceFunction || e == cudaErrorUnsupportedPtxVersion;
  if (!image || device.architecture == 0) return where;
  std::string const a = std::to_string(device.architecture) + (device.architecture == 90 ? "a" : "");  // 90a: with wgmma and TMA
  return where + "; compile with -gencode arch=compute_" + a + ",code=sm_" + a;
}

inline errc code_of(cudaError_t e) {
  switch (e) {
    case cudaErrorMemoryAllocation:
      return errc::out_of_memory;
    case cudaErrorNoDevice:
    case cudaErrorInsufficientDriver:
      return errc::no_device;
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorInvalidDeviceFunction:
    case cudaErrorUnsupportedPtxVersion:
      return errc::unsupported_machine;
    default:
      return errc::cuda;
  }
}

}  // namespace detail

/// Throws moe::error unless the CUDA runtime reports success: `call`, the runtime's words, `more`, the device and what its kernels were compiled for,
/// and what can be done. An earlier asynchronous failure surfaces here too.
template <class... More>
void cuda_check(cudaError_t status, char const* call, More const&... more) {
  if (status == cudaSuccess) [[likely]]
    return;
  cudaGetLastError();  // clear it: the next call reports its own
  fail(detail::code_of(status), call, ": ", cudaGetErrorString(status), more..., detail::remedy(status));
}

/// Work on a GPU, ordered on `stream`: operators return at once, their views are device memory, and `wait` returns when all work is done.
struct cuda {
  cudaStream_t stream = nullptr;  ///< the caller owns it; nullptr is the default stream
  void wait() const { cuda_check(cudaStreamSynchronize(stream), "cuda::wait"); }
};

/// What launchers ask of the current device.
struct cuda_device {
  int number = 0, multiprocessors = 0;
  int major = 0, minor = 0;  ///< of its compute capability
  int shared_bytes = 0;      ///< the most dynamic shared memory of a block
};
inline cuda_device current_device(char const* call) {
  cuda_device d;
  cuda_check(cudaGetDevice(&d.number), call);
  auto const ask = [&](int& value, cudaDeviceAttr attribute) { cuda_check(cudaDeviceGetAttribute(&value, attribute, d.number), call); };
  ask(d.multiprocessors, cudaDevAttrMultiProcessorCount);
  ask(d.major, cudaDevAttrComputeCapabilityMajor);
  ask(d.minor, cudaDevAttrComputeCapabilityMinor);
  ask(d.shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin);
  return d;
}

}  // namespace moe::inline MOE_ISA
