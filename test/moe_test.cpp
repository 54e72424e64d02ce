// The whole library in one training step: from tokens to new weights. Nothing in between waits for the space, so that a CUDA graph holds the step.
#include <moe/moe.hpp>

#include <test/support.hpp>

using namespace moe::nn;
using moe::arena;
using moe::index_t;

namespace {

constexpr attention_config heads{.d_model = 8, .heads = 2, .kv_heads = 1};
constexpr moe_ffn_config sparse{.d_model = 8, .d_ff = 8, .experts = 2, .granularity = 2, .losses = {.balance = 0.05, .z = 0.02}};
constexpr language_model_config ends{.vocab = 11, .d_model = 8, .embedding_std = 0.7};
using model = language_model<ends, repeat<2, sequence<residual<attention_layer<heads>>, residual<moe_ffn<sparse>>>>>;

constexpr sequence_shape shape{3, 19};
constexpr index_t n = model::parameter_count, targets = shape.sequences * shape.length;
constexpr double max_norm = 0.25;  // below the norm of these gradients

// Memory that only the space is sure to reach, full of NaN and -1.
#if defined(MOE_TEST_CUDA)
using memory_of_space = moe::device_buffer;
memory_of_space poisoned(std::size_t bytes) {
  moe::device_buffer b(bytes);
  moe::cuda_check(cudaMemset(b.data(), 0xff, bytes), "cudaMemset");
  moe::cuda_check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  return b;
}
#else
using memory_of_space = moe::buffer;
memory_of_space poisoned(std::size_t bytes) {
  moe::buffer b(bytes);
  std::memset(b.data(), 0xff, bytes);
  return b;
}
#endif

/// All that a step reads and writes.
template <class T>
struct step_memory {
  moe::vector_view<T> w, g, m, v;
  moe::vector_view<double> norm, scale;  // [1]
  moe::vector_view<int> token, target;
  typename model::template activations<T> kept;
  std::size_t scratch_bytes;
  moe::vector_view<std::byte> scratch;
  step_memory(test::space const& s, arena& a)
      : w(a.vec<T>(n)), g(a.vec<T>(n)), m(a.vec<T>(n)), v(a.vec<T>(n)), norm(a.vec<double>(1)), scale(a.vec<double>(1)), token(a.vec<int>(targets)),
        target(a.vec<int>(targets)), kept(s, a, shape),
        scratch_bytes(std::max(model::template scratch_bytes<T>(s, shape), moe::global_norm_scratch_bytes(s, n))),
        scratch(a.vec<std::byte>(static_cast<index_t>(scratch_bytes))) {}
};

template <class T>
struct trainer {
  test::space s;
  memory_of_space memory;
  arena all;
  step_memory<T> on;
  std::vector<moe::parameter_span> spans = moe::parameter_spans(parameters_of<model, test::space>());
  moe::group_schedule rates = moe::group_schedule(moe::warmup_cosine(0.02, 4, 20, 0.002), 0.1).scaled(moe::parameter_group::router, 0.5);

  static std::size_t bytes(test::space const& s) {
    arena measure;
    step_memory<T>(s, measure);
    return measure.peak();
  }
  explicit trainer(test::space const& where) : s(where), memory(poisoned(bytes(where))), all(memory.data(), memory.bytes()), on(s, all) {}

  void load() {
    std::vector<T> w(static_cast<std::size_t>(n)), zeros(w.size());
    initialise<model, test::space>(w.data(), 4);
    moe::copy<T>(s, on.w.data(), w.data(), n);
    moe::copy<T>(s, on.m.data(), zeros.data(), n);
    moe::copy<T>(s, on.v.data(), zeros.data(), n);
    s.wait();
  }
  void load_batch(std::uint64_t number) {
    moe::random_stream const random{number, moe::random_purpose::test, 0};
    std::vector<int> token, target;
    for (std::uint64_t t = 0; t < static_cast<std::uint64_t>(targets); ++t) {
      token.push_back(static_cast<int>(random.below(2 * t, model::vocab)));
      target.push_back(t % 5 == 3 ? -1 : static_cast<int>(random.below(2 * t + 1, model::vocab)));
    }
    moe::copy<int>(s, on.token.data(), token.data(), targets);
    moe::copy<int>(s, on.target.data(), target.data(), targets);
    s.wait();
  }
  void gradient() {
    arena scratch(on.scratch.data(), on.scratch_bytes);
    moe::fill(s, moe::mat(on.g.data(), 1, n), T(0));
    model::loss_and_gradient(s, static_cast<T const*>(on.w.data()), on.g.data(), on.token, on.target, shape, on.kept, scratch);
    moe::global_norm<T>(s, on.g, on.norm, scratch);
  }
  /// One training step as a trainer takes it: the host waits for nothing.
  void step(index_t t) {
    gradient();
    moe::clip_scale(s, on.norm, max_norm, on.scale);
    moe::adamw_by_group(s, spans, rates, on.w, on.m, on.v, on.g, on.scale, t);
  }
  /// The same by way of the host, which knows the factor.
  void waiting_step(index_t t) {
    gradient();
    double const factor = moe::clip_scale(fetched(on.norm)[0], max_norm);
    CHECK(factor < 1);
    moe::adamw_by_group(s, spans, rates, on.w, on.m, on.v, on.g, factor, t);
  }
  template <class U>
  std::vector<U> fetched(moe::vector_view<U> from) {
    std::vector<U> to(static_cast<std::size_t>(from.size()));
    moe::copy<U>(s, to.data(), from.data(), from.size());
    s.wait();
    return to;
  }
  std::vector<T> state() {
    std::vector<T> values;
    moe::vector_view<T> const parts[] = {on.w, on.m, on.v, on.g};  // nvcc cannot read it as a list in the loop
    for (auto const& x : parts)
      for (T const y : fetched(x)) values.push_back(y);
    return values;
  }
};

}  // namespace

TEST_CASE("training step: the factor of the gradient can stay in the memory of the space, for the same bits") {
  trainer<float> expected(test::on());
  expected.load();
  for (index_t t = 1; t <= 2; ++t) expected.load_batch(static_cast<std::uint64_t>(t)), expected.waiting_step(t);
  test::for_each_execution([&](test::space const& s, int) {
    trainer<float> r(s);
    r.load();
    for (index_t t = 1; t <= 2; ++t) r.load_batch(static_cast<std::uint64_t>(t)), r.step(t);
    CHECK(test::same_bits(r.state(), expected.state()));
  });
}

#if defined(MOE_TEST_CUDA)
namespace {
/// A stream, and a graph of what is captured on it.
struct captured {
  moe::cuda s;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  captured() { moe::cuda_check(cudaStreamCreateWithFlags(&s.stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags"); }
  captured(captured const&) = delete;
  ~captured() {
    if (executable != nullptr) cudaGraphExecDestroy(executable);
    if (graph != nullptr) cudaGraphDestroy(graph);
    cudaStreamDestroy(s.stream);
  }
  template <class F>
  void capture(F const& work) {
    moe::cuda_check(cudaStreamBeginCapture(s.stream, cudaStreamCaptureModeGlobal), "cudaStreamBeginCapture");
    std::string const text = test::error_of(work);
    cudaError_t const status = cudaStreamEndCapture(s.stream, &graph);
    cudaGetLastError();  // a capture that was spoilt fails this test, not the next
    REQUIRE_MESSAGE(text.empty(), text);
    moe::cuda_check(status, "cudaStreamEndCapture");
    moe::cuda_check(cudaGraphInstantiate(&executable, graph, 0), "cudaGraphInstantiate");
  }
  void replay() const {
    moe::cuda_check(cudaGraphLaunch(executable, s.stream), "cudaGraphLaunch");
    s.wait();
  }
};
}  // namespace

// Captured before there are weights and tokens: device memory then holds NaN and -1, and it is memory that the host cannot touch without a
// crash (in the stand-in: not during the capture). A step that looked at an operand, waited or allocated could not end up with the bits of the direct
// one.
TEST_CASE_TEMPLATE("training step: captured in a graph before there is data, replayed for each batch, it gives the bits of a direct step", T, float,
                   double) {
  captured c;
  trainer<T> graph(c.s), direct(test::on());
  constexpr index_t t = 3;  // a graph keeps the rates and the step it was captured with
  c.capture([&] { graph.step(t); });
  graph.load(), direct.load();
  auto const before = graph.state();
  for (std::uint64_t batch = 1; batch <= 3; ++batch) {
    graph.load_batch(batch), direct.load_batch(batch);
    c.replay();
    direct.step(t);
    CHECK(test::same_bits(graph.state(), direct.state()));
    auto const a = model::losses_of(graph.s, graph.on.kept), b = model::losses_of(direct.s, direct.on.kept);
    CHECK((a.cross_entropy_sum == b.cross_entropy_sum && a.targets == b.targets && a.balance == b.balance && a.z == b.z));
    CHECK(std::isfinite(a.cross_entropy_sum));
  }
  CHECK_FALSE(test::same_bits(graph.state(), before));
}
#endif
