#pragma once
// The device that the runtime calls of the stand-in speak of, and the faults that a test can give it.
#include <cuda_runtime.h>

namespace simt {

struct device_state {
  int major = 9, minor = 0, multiprocessors = 4;
  std::size_t shared_limit = 232448;           ///< bytes of a block that opted in
  std::size_t memory = std::size_t{64} << 30;  ///< bytes; an allocation that does not fit fails
  cudaError_t present = cudaSuccess;           ///< no device, no driver: what every call then returns
  cudaError_t image = cudaSuccess;             ///< what the launch of a kernel returns, such as cudaErrorNoKernelImageForDevice
  cudaError_t lost = cudaSuccess;              ///< an error of earlier work that took the context with it: every call returns it, for ever
  bool hopper_code = true;                     ///< whether the kernels run their sm_90a parts
  bool encodes_tensor_maps = true;             ///< whether the driver knows cuTensorMapEncodeTiled
  int successful_allocations = -1;             ///< so many succeed, then one fails; -1: none fails
};
/// One for the program; a test that changes it restores it (`simt::device() = {}`).
device_state& device();
/// Leaves an error that the next call to ask for it finds, as earlier work of somebody else would.
void leave_error(cudaError_t e);
/// Bytes allocated on the device and not freed.
std::size_t allocated_bytes();

}  // namespace simt
