// cuBLAS at the shapes of our products: the limit of matrix products, and a peer. Experts are a loop, one call each, as a user without a grouped kernel
// writes it; the number of rows of each is known on the host, which ours does not need.
#include <bench/cuda/bench.hpp>
#include <bench/cuda/experts.hpp>

#include <cublas_v2.h>

#include <algorithm>

namespace {

using bench::bf16;
using bench::index_t;

void cublas_check(cublasStatus_t status, char const* call) {
  if (status != CUBLAS_STATUS_SUCCESS) moe::fail(moe::errc::cuda, call, ": ", cublasGetStatusString(status));
}

class handle {
 public:
  handle() { cublas_check(cublasCreate(&handle_), "cublasCreate"); }
  handle(handle const&) = delete;
  ~handle() { cublasDestroy(handle_); }

  /// c = a op(b), row-major, sums in float.
  template <class T>
  void product(moe::cuda const& space, T const* a, T const* b, bool transpose_b, T* c, index_t m, index_t n, index_t k) const {
    cublas_check(cublasSetStream(handle_, space.stream), "cublasSetStream");
    cudaDataType_t const type = sizeof(T) == 2 ? CUDA_R_16BF : CUDA_R_32F;
    float const one = 1, zero = 0;
    int const rows = static_cast<int>(m), columns = static_cast<int>(n), depth = static_cast<int>(k);
    // Column-major c^T = op(b)^T a^T.
    cublas_check(cublasGemmEx(handle_, transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N, CUBLAS_OP_N, columns, rows, depth, &one, b, type,
                              transpose_b ? depth : columns, a, type, depth, &zero, c, type, columns, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
                 "cublasGemmEx");
  }

 private:
  cublasHandle_t handle_ = nullptr;
};

handle const& cublas() {
  static handle const h;
  return h;
}

template <class T>
void dense(bench::run& r) {
  auto const m = r["m"], n = r["n"], k = r["k"];
  auto const a = r.mat<T>(m, k), b = r.mat<T>(n, k), c = r.empty<T>(m, n);
  auto const f = [&](moe::cuda const& s) { cublas().product(s, a.data(), b.data(), true, c.data(), m, n, k); };
  r.first(f);
  bench::error e;
  for (auto const i : bench::some_rows(m))
    for (auto const j : bench::some_rows(n)) e.add(r.host(c.row(i) + j, 1)[0], bench::dot(r.host_row(a, i), r.host_row(b, j)));
  r.check(e);
  r.time({.bytes = static_cast<double>(m * k + n * k + m * n) * sizeof(T), .flops = 2.0 * static_cast<double>(m) * static_cast<double>(n * k)}, f);
}

template <class T>
void experts_loop(bench::run& r) {
  bench::expert_shape const shape(r);
  auto const x = r.mat<T>(shape.rows, shape.in), w = r.mat<T>(shape.experts * shape.out, shape.in), y = r.empty<T>(shape.rows, shape.out);
  auto const f = [&](moe::cuda const& s) {
    for (index_t e = 0; e < shape.experts; ++e)
      if (index_t const first = shape.offsets[static_cast<std::size_t>(e)], rows = shape.offsets[static_cast<std::size_t>(e) + 1] - first; rows > 0)
        cublas().product(s, x.row(first), w.row(e * shape.out), true, y.row(first), rows, shape.out, shape.in);
  };
  r.first(f);
  bench::check_grouped(r, shape, x, w, y, {});
  r.time(shape.forward_work(sizeof(T)), f);
}

double rate(std::string const& dtype, index_t size) {
  bench::run r({{"m", size, size}, {"n", size, size}, {"k", size, size}}, 2);
  dtype == "bf16" ? dense<bf16>(r) : dense<float>(r);
  return r.done.flops / (1e-6 * r.microseconds[r.microseconds.size() / 2]);
}

bench::group const cases([](bench::group& g) {
  bench::matrix_rate = rate;
  for (auto const& shape : bench::dense_shapes)
    g.add_peer<bf16>("cuBLAS", "gemm", shape, dense<bf16>), g.add_peer<float>("cuBLAS", "gemm", shape, dense<float>);
  for (auto const& shape : bench::expert_shapes) {
    g.add_peer<bf16>("cuBLAS, a loop over experts", "grouped_gemm", shape, experts_loop<bf16>);
    g.add_peer<float>("cuBLAS, a loop over experts", "grouped_gemm", shape, experts_loop<float>);
  }
});

}  // namespace
