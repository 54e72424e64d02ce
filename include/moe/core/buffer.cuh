#pragma once
#include <moe/core/buffer.hpp>
#include <moe/core/space.cuh>

namespace moe::inline MOE_ISA {

/// Memory of the current device, not initialised. An arena stands on it: arena(b.data(), b.bytes()).
class device_buffer {
 public:
  device_buffer() = default;
  explicit device_buffer(std::size_t bytes) : bytes_(bytes) {
    if (bytes == 0) return;
    void* p = nullptr;
    cuda_check(cudaMalloc(&p, bytes), "device_buffer");
    data_ = static_cast<std::byte*>(p);
  }
  device_buffer(device_buffer&& b) noexcept : data_(std::exchange(b.data_, nullptr)), bytes_(std::exchange(b.bytes_, 0)) {}
  device_buffer& operator=(device_buffer&& b) noexcept {
    std::swap(data_, b.data_);
    std::swap(bytes_, b.bytes_);
    return *this;
  }
  ~device_buffer() {
    if (data_ != nullptr) cudaFree(data_);  // a destructor cannot report
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
