#pragma once
#include <cstddef>
#include <cstdint>
#include <new>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <moe/core/detail/check.hpp>
#include <moe/core/tensor.hpp>

namespace moe::inline MOE_ISA {

inline constexpr std::size_t alignment = 64;  ///< of every block an arena hands out: one cache line, one 512-bit vector

constexpr std::size_t aligned(std::size_t bytes) { return (bytes + alignment - 1) / alignment * alignment; }

/// Memory of the CPU, zero at first, huge pages advised (first touch of 4 KiB pages costs four times as much, and so do their TLB misses).
class buffer {
 public:
  buffer() = default;
  explicit buffer(std::size_t bytes) : bytes_(bytes) {
    if (bytes == 0) return;
    constexpr std::size_t page = std::size_t{2} << 20;
    expects(bytes <= SIZE_MAX - page, errc::out_of_memory, "buffer: ", bytes, " bytes are more than this machine can address");
#if defined(__linux__)
    mapped_ = (bytes + page - 1) / page * page;
    void* p = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    expects(p != MAP_FAILED, errc::out_of_memory, "buffer: the system refused ", bytes, " bytes");
    madvise(p, mapped_, MADV_HUGEPAGE);  // advice: a refusal changes nothing but speed
    data_ = static_cast<std::byte*>(p);
#else
    data_ = static_cast<std::byte*>(::operator new(bytes, std::align_val_t{alignment}, std::nothrow));
    expects(data_ != nullptr, errc::out_of_memory, "buffer: the system refused ", bytes, " bytes");
    std::fill_n(data_, bytes, std::byte{});
#endif
  }
  buffer(buffer&& b) noexcept { swap(b); }
  buffer& operator=(buffer&& b) noexcept {
    buffer(std::move(b)).swap(*this);
    return *this;
  }
  ~buffer() {
    if (data_ == nullptr) return;
#if defined(__linux__)
    munmap(data_, mapped_);
#else
    ::operator delete(data_, std::align_val_t{alignment});
#endif
  }
  std::byte* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }

 private:
  void swap(buffer& b) noexcept {
    std::swap(data_, b.data_);
    std::swap(bytes_, b.bytes_);
    std::swap(mapped_, b.mapped_);
  }
  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0, mapped_ = 0;
};

/// Hands out blocks of memory it does not own, one after the other. A default-constructed arena measures: it hands out null pointers and counts, so the
/// function that lays out a thing also says how many bytes the thing needs.
class arena {
 public:
  arena() : bytes_(SIZE_MAX), measuring_(true) {}
  arena(void* data, std::size_t bytes) : data_(static_cast<std::byte*>(data)), bytes_(bytes) {
    expects(data != nullptr || bytes == 0, errc::bad_argument, "arena: no memory, but ", bytes, " bytes of it");
  }
  explicit arena(buffer const& b) : arena(b.data(), b.bytes()) {}

  bool measuring() const { return measuring_; }
  std::size_t used() const { return used_; }
  std::size_t peak() const { return peak_; }
  std::size_t left() const { return bytes_ - used_; }

  /// n elements of T, not initialised, 64-byte aligned when the memory of the arena is.
  template <class T>
  T* take(index_t n) {
    expects(n >= 0 && static_cast<std::size_t>(n) <= (SIZE_MAX - alignment) / sizeof(T), errc::bad_argument, "arena: take of ", n, " elements");
    std::size_t const need = aligned(static_cast<std::size_t>(n) * sizeof(T));
    expects(need <= bytes_ - used_, errc::out_of_memory, "arena: ", need, " bytes asked, ", bytes_ - used_, " of ", bytes_, " left");
    T* p = measuring() ? nullptr : reinterpret_cast<T*>(data_ + used_);
    used_ += need;
    peak_ = used_ > peak_ ? used_ : peak_;
    return p;
  }
  template <class T>
  vector_view<T> vec(index_t n) {
    return make<vector_view<T>>(take<T>(n), n);
  }
  template <class T>
  matrix_view<T> mat(index_t rows, index_t columns) {
    return make<matrix_view<T>>(take<T>(detail::elements(rows, columns)), rows, columns);
  }

  /// A matrix whose number of columns is part of its type.
  template <class T, index_t Columns>
  tensor<T, dyn, Columns> mat(index_t rows) {
    return make<tensor<T, dyn, Columns>>(take<T>(detail::elements(rows, Columns)), rows, Columns);
  }

  /// Gives back, when it ends, all that was taken since it began.
  class scope {
   public:
    explicit scope(arena& a) : arena_(a), used_(a.used_) {}
    scope(scope const&) = delete;
    ~scope() { arena_.used_ = used_; }

   private:
    arena& arena_;
    std::size_t used_;
  };

 private:
  template <class View, class T>
  View make(T* p, std::convertible_to<index_t> auto... n) const {
    return measuring() ? View() : View(p, n...);
  }
  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0, used_ = 0, peak_ = 0;
  bool measuring_ = false;
};

namespace detail {
/// Throws unless an operator finds its scratch, before it does any work.
inline void check_scratch(char const* op, arena const& scratch, std::size_t bytes) {
  expects(bytes == 0 || !scratch.measuring(), errc::out_of_memory, op, ": scratch is a measuring arena, which has no memory");
  expects(bytes <= scratch.left(), errc::out_of_memory, op, ": scratch has ", scratch.left(), " bytes left, needs ", bytes);
}
}  // namespace detail

}  // namespace moe::inline MOE_ISA
