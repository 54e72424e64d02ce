#pragma once
#include <moe/core/buffer.hpp>
#include <moe/core/space.cuh>

namespace moe::inline MOE_ISA {

/// Memory of the current device, not initialised. An arena stands on it: arena(b.data(), b.bytes()). Freeing it waits for all work of the device, so
/// that no kernel is left with the memory of another; neither it nor an allocation may happen while a stream of the device is captured.
///
/// Throws  out_of_memory with the bytes asked, free and in all; a smaller buffer can still be had then.
class device_buffer {
 public:
  device_buffer() = default;
  explicit device_buffer(std::size_t bytes) : bytes_(bytes) {
    if (bytes == 0) return;
    void* p = nullptr;
    cudaError_t const status = cudaMalloc(&p, bytes);
    if (status == cudaErrorMemoryAllocation) {
      std::size_t free = 0, total = 0;
      cudaMemGetInfo(&free, &total);
      cuda_check(status, "device_buffer", " (", bytes, " bytes asked, ", free, " of ", total, " free)");
    }
    cuda_check(status, "device_buffer");
    data_ = static_cast<std::byte*>(p);
  }
  device_buffer(device_buffer&& b) noexcept : data_(std::exchange(b.data_, nullptr)), bytes_(std::exchange(b.bytes_, 0)) {}
  device_buffer& operator=(device_buffer&& b) noexcept {
    std::swap(data_, b.data_);
    std::swap(bytes_, b.bytes_);
    return *this;
  }
  ~device_buffer() {
    if (data_ != nullptr && cudaFree(data_) != cudaSuccess) cudaGetLastError();  // a destructor cannot report, and leaves no error for others
  }
  std::byte* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }

 private:
  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
};

/// Copies n elements between host and device, in either direction, ordered on space.stream.
template <class T>
void copy(cuda const& space, T* to, T const* from, index_t n) {
  if (n > 0) cuda_check(cudaMemcpyAsync(to, from, static_cast<std::size_t>(n) * sizeof(T), cudaMemcpyDefault, space.stream), "copy");
}

}  // namespace moe::inline MOE_ISA
