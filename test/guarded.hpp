#pragma once
// Memory that ends, or starts, at a page which may not be touched: a read or a write of one byte beyond is a crash.
#include <sys/mman.h>
#include <unistd.h>

#include <doctest/doctest.h>

#include <cstddef>

#include <moe/core/types.hpp>

namespace test {

enum class guard { after, before };

/// n elements of T between two forbidden pages, adjacent to the one that `where` names.
template <class T>
class guarded {
 public:
  explicit guarded(moe::index_t n, guard where = guard::after) : bytes_(static_cast<std::size_t>(n) * sizeof(T)) {
    page_ = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    inside_ = (bytes_ + page_ - 1) / page_ * page_;
    void* p = mmap(nullptr, inside_ + 2 * page_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(p != MAP_FAILED);
    start_ = static_cast<std::byte*>(p);
    if (inside_ > 0) REQUIRE(mprotect(start_ + page_, inside_, PROT_READ | PROT_WRITE) == 0);
    data_ = reinterpret_cast<T*>(start_ + page_ + (where == guard::after ? inside_ - bytes_ : 0));
  }
  guarded(guarded const&) = delete;
  ~guarded() { munmap(start_, inside_ + 2 * page_); }
  T* data() const { return data_; }
  T& operator[](moe::index_t i) const { return data_[i]; }

 private:
  std::size_t bytes_, page_ = 0, inside_ = 0;
  std::byte* start_ = nullptr;
  T* data_ = nullptr;
};

}  // namespace test
