#pragma once
// What a peer is given: products of matrices as BLAS says them, and how to go through them.
#include <omp.h>

#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <moe/core/tensor.hpp>

namespace bench::peers {

using moe::index_t;

enum class number { fp32, bf16 };
constexpr std::size_t bytes_of(number n) { return n == number::fp32 ? 4 : 2; }

/// c[m, n] = op(a)[m, k] op(b)[k, n], all row-major.
struct product {
  bool transpose_a = false, transpose_b = false;
  index_t m, n, k;
  void const* a;
  index_t lda;
  void const* b;
  index_t ldb;
  void* c;
  index_t ldc;
};
struct products {
  number factors, result;
  std::vector<product> list;
};

/// How several products go to the threads: `in`, one after the other, each on all threads; `out`, as many at a time as there are threads.
enum class loop { in, out };

struct peer {
  virtual ~peer() = default;
  virtual std::string name() const = 0;
  virtual std::string version() const = 0;
  virtual bool takes(number factors, number result) const = 0;
  /// A function that forms all products. What a user would make once is made here, outside of the timing.
  virtual std::function<void()> prepare(products const& p, loop how, int threads) = 0;
};
/// The peers that this machine has. Of each that is missing, one line on stderr says which Debian package has it.
std::vector<std::unique_ptr<peer>> find_peers();
std::unique_ptr<peer> find_openblas();
std::unique_ptr<peer> find_blis();
std::unique_ptr<peer> find_onednn();
std::unique_ptr<peer> find_eigen();

/// one(i) for each product i; empty sums are zeros by definition, and not every peer takes them.
template <class F>
void for_each_product(products const& p, loop how, int threads, F const& one) {
  auto const item = [&](std::size_t i) {
    product const& x = p.list[i];
    if (x.k > 0) return one(i);
    std::memset(x.c, 0, static_cast<std::size_t>(x.m * x.ldc) * bytes_of(p.result));
  };
  std::size_t const n = p.list.size();
  if (how == loop::in) {
    for (std::size_t i = 0; i < n; ++i) item(i);
    return;
  }
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
  for (std::size_t i = 0; i < n; ++i) item(i);
}

}  // namespace bench::peers
