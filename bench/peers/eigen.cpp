// Eigen's product of float matrices, on OpenMP. Compiled where its headers are found.
#include <Eigen/Core>

#include <bench/peers/products.hpp>

namespace bench::peers {
namespace {

using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using stride = Eigen::OuterStride<>;

void multiply(product const& x) {
  auto const view = [](void const* p, index_t rows, index_t columns, index_t ld) {
    return Eigen::Map<matrix const, 0, stride>(static_cast<float const*>(p), rows, columns, stride(ld));
  };
  auto const a = x.transpose_a ? view(x.a, x.k, x.m, x.lda) : view(x.a, x.m, x.k, x.lda);
  auto const b = x.transpose_b ? view(x.b, x.n, x.k, x.ldb) : view(x.b, x.k, x.n, x.ldb);
  Eigen::Map<matrix, 0, stride> c(static_cast<float*>(x.c), x.m, x.n, stride(x.ldc));
  if (x.transpose_a) c.noalias() = a.transpose() * b;
  else if (x.transpose_b) c.noalias() = a * b.transpose();
  else c.noalias() = a * b;
}

class eigen : public peer {
 public:
  std::string name() const override { return "Eigen"; }
  std::string version() const override {
    return "Eigen " + std::to_string(EIGEN_WORLD_VERSION) + "." + std::to_string(EIGEN_MAJOR_VERSION) + "." + std::to_string(EIGEN_MINOR_VERSION);
  }
  bool takes(number factors, number result) const override { return factors == number::fp32 && result == number::fp32; }
  std::function<void()> prepare(products const& p, loop how, int threads) override {
    return [p, how, threads] {
      Eigen::setNbThreads(threads);  // within a parallel region, Eigen uses one
      for_each_product(p, how, threads, [&](std::size_t i) { multiply(p.list[i]); });
    };
  }
};

}  // namespace

std::unique_ptr<peer> find_eigen() { return std::make_unique<eigen>(); }

}  // namespace bench::peers
