// oneDNN's matmul, float and bf16. Compiled where its headers are found.
#include <cstdio>
#include <map>
#include <tuple>

#include <dnnl.hpp>

#include <bench/peers/products.hpp>

namespace bench::peers {
namespace {

using dims = dnnl::memory::dims;

dnnl::memory::desc describe(index_t rows, index_t columns, bool transposed, index_t stride, number type) {
  auto const t = type == number::fp32 ? dnnl::memory::data_type::f32 : dnnl::memory::data_type::bf16;
  return {dims{rows, columns}, t, transposed ? dims{1, stride} : dims{stride, 1}};
}

/// One product: the primitive of its shape, and views of its operands.
struct prepared {
  dnnl::matmul primitive;
  dnnl::memory a, b, c;
};

/// The primitives of all shapes are made once, outside of the timing: 0.15 to 0.2 ms each, which a program whose row counts change pays at every step.
/// Scratch is given by the user, one per thread, so that products can run at the same time.
class plan {
 public:
  plan(dnnl::engine const& engine, products const& p, loop how, int threads) : products_(p), how_(how), threads_(threads) {
    omp_set_num_threads(how == loop::in ? threads : 1);  // a primitive divides its work among as many threads as there are when it is made
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    std::map<std::tuple<index_t, index_t, index_t>, dnnl::matmul> known;
    for (product const& x : p.list) {
      auto const a = describe(x.m, x.k, x.transpose_a, x.lda, p.factors), b = describe(x.k, x.n, x.transpose_b, x.ldb, p.factors);
      auto const c = describe(x.m, x.n, false, x.ldc, p.result);
      dnnl::matmul primitive;
      if (x.m > 0 && x.k > 0) {
        dnnl::matmul::primitive_desc const pd({a, b, c}, attributes, engine);
        auto const place = known.find({x.m, x.n, x.k});
        primitive = place != known.end() ? place->second : known.emplace(std::tuple(x.m, x.n, x.k), dnnl::matmul(pd)).first->second;
        if (pd.scratchpad_desc().get_size() > scratch_.get_size()) scratch_ = pd.scratchpad_desc();
      }
      prepared_.push_back({primitive, dnnl::memory(a, engine, const_cast<void*>(x.a)), dnnl::memory(b, engine, const_cast<void*>(x.b)),
                           dnnl::memory(c, engine, x.c)});
    }
    for (int t = 0; t < threads; ++t) scratchpads_.emplace_back(scratch_, engine), streams_.emplace_back(engine);
    omp_set_num_threads(threads);
  }
  void run() {
    for_each_product(products_, how_, threads_, [&](std::size_t i) {
      prepared const& x = prepared_[i];
      if (!x.primitive) return;
      auto const t = static_cast<std::size_t>(omp_get_thread_num());
      x.primitive.execute(streams_[t], {{DNNL_ARG_SRC, x.a}, {DNNL_ARG_WEIGHTS, x.b}, {DNNL_ARG_DST, x.c}, {DNNL_ARG_SCRATCHPAD, scratchpads_[t]}});
    });
  }

 private:
  products products_;
  loop how_;
  int threads_;
  std::vector<prepared> prepared_;
  dnnl::memory::desc scratch_;
  std::vector<dnnl::memory> scratchpads_;
  std::vector<dnnl::stream> streams_;
};

class onednn : public peer {
 public:
  std::string name() const override { return "oneDNN"; }
  std::string version() const override {
    auto const* v = dnnl_version();
    return "oneDNN " + std::to_string(v->major) + "." + std::to_string(v->minor) + "." + std::to_string(v->patch);
  }
  bool takes(number, number) const override { return true; }
  std::function<void()> prepare(products const& p, loop how, int threads) override {
    auto const made = std::make_shared<plan>(engine_, p, how, threads);
    return [made] { made->run(); };
  }

 private:
  dnnl::engine engine_{dnnl::engine::kind::cpu, 0};
};

}  // namespace

std::unique_ptr<peer> find_onednn() { return std::make_unique<onednn>(); }

}  // namespace bench::peers
