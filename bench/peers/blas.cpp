// OpenBLAS and BLIS. Both export the names of cblas, so they are opened at run time, each with its own names before those of the process.
#include <dlfcn.h>

#include <cstdint>
#include <cstdio>

#include <bench/peers/products.hpp>

namespace bench::peers {
namespace {

constexpr int row_major = 101, plain = 111, transposed = 112;
using sgemm = void (*)(int, int, int, int, int, int, float, float const*, int, float const*, int, float, float*, int);

class blas : public peer {
 public:
  blas(std::string name, std::string version, sgemm multiply, std::function<void(int)> set_threads)
      : name_(std::move(name)), version_(std::move(version)), multiply_(multiply), set_threads_(std::move(set_threads)) {}
  std::string name() const override { return name_; }
  std::string version() const override { return version_; }
  bool takes(number factors, number result) const override { return factors == number::fp32 && result == number::fp32; }
  std::function<void()> prepare(products const& p, loop how, int threads) override {
    return [this, p, how, threads] {
      set_threads_(how == loop::in ? threads : 1);
      for_each_product(p, how, threads, [&](std::size_t i) {
        product const& x = p.list[i];
        multiply_(row_major, x.transpose_a ? transposed : plain, x.transpose_b ? transposed : plain, static_cast<int>(x.m), static_cast<int>(x.n),
                  static_cast<int>(x.k), 1.0f, static_cast<float const*>(x.a), static_cast<int>(x.lda), static_cast<float const*>(x.b),
                  static_cast<int>(x.ldb), 0.0f, static_cast<float*>(x.c), static_cast<int>(x.ldc));
      });
      omp_set_num_threads(threads);  // OpenBLAS sets it as well
    };
  }

 private:
  std::string name_, version_;
  sgemm multiply_;
  std::function<void(int)> set_threads_;
};

void* open(std::initializer_list<char const*> names) {
  for (char const* name : names)
    if (void* library = dlopen(name, RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND)) return library;
  return nullptr;
}
template <class F>
F function(void* library, char const* name) {
  return reinterpret_cast<F>(dlsym(library, name));
}

}  // namespace

std::unique_ptr<peer> find_openblas() {
  void* const library = open({"libopenblas.so.0", "libopenblas.so"});
  auto const multiply = library ? function<sgemm>(library, "cblas_sgemm") : nullptr;
  auto const set_threads = library ? function<void (*)(int)>(library, "openblas_set_num_threads") : nullptr;
  auto const config = library ? function<char const* (*)()>(library, "openblas_get_config") : nullptr;
  auto const parallel = library ? function<int (*)()>(library, "openblas_get_parallel") : nullptr;
  if (!multiply || !set_threads || !config || !parallel || parallel() != 2) {
    std::fprintf(stderr, "peers: no OpenBLAS on OpenMP (Debian: libopenblas0-openmp)\n");
    return nullptr;
  }
  return std::make_unique<blas>("OpenBLAS", config(), multiply, set_threads);
}

std::unique_ptr<peer> find_blis() {
  void* const library = open({"libblis.so.4", "libblis.so.3", "libblis.so"});
  auto const multiply = library ? function<sgemm>(library, "cblas_sgemm") : nullptr;
  auto const set_threads = library ? function<void (*)(std::int64_t)>(library, "bli_thread_set_num_threads") : nullptr;
  auto const version = library ? function<char const* (*)()>(library, "bli_info_get_version_str") : nullptr;
  if (!multiply || !set_threads || !version) {
    std::fprintf(stderr, "peers: no BLIS (Debian: libblis4-openmp)\n");
    return nullptr;
  }
  return std::make_unique<blas>("BLIS", std::string("BLIS ") + version(), multiply, [set_threads](int n) { set_threads(n); });
}

}  // namespace bench::peers
