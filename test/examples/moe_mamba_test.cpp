// The models of examples/moe_mamba: their sizes are the published ones, and decoding needs no more memory and no capacity, however many tokens there are.
#include <test/support.hpp>

#include <cmath>

#include <examples/moe_mamba/model.hpp>

namespace {

using moe::index_t;
using namespace moe_mamba;

struct counts {
  index_t all, active;
};
/// As the paper counts: without embedding, unembedding and norms, with the router.
template <class Preset>
counts published() {
  using M = typename Preset::model;
  index_t all = 0, outside = 0;  // outside: active, but not counted
  M::for_each_parameter("", 0, [&](moe::nn::parameter_info const& p) {
    bool const counted =
        p.group != moe::parameter_group::embedding && p.group != moe::parameter_group::unembedding && p.group != moe::parameter_group::norm;
    if (counted) all += p.elements();
    else outside += p.group == moe::parameter_group::embedding ? M::d_model : p.elements();
  });
  return {all, M::active_parameters() - outside};
}
template <class Preset>
index_t active_of() {
  return published<Preset>().active;
}

constexpr shape small_shape(arm kind) { return {.kind = kind, .vocab = 37, .d_model = 16, .blocks = 2, .heads = 2, .experts = 4}; }
template <arm Kind>
using model_of = typename arms<small_shape(Kind)>::model;

/// A model with its memory and a batch of random tokens.
template <class M, class T>
struct run {
  moe::nn::sequence_shape shape;
  moe::cpu space{1};
  std::vector<T> w = std::vector<T>(static_cast<std::size_t>(M::parameter_count)), g = w;
  std::vector<int> token, target;
  moe::buffer memory, scratch_memory;
  moe::arena kept, scratch;
  typename M::template activations<T> a;

  static std::size_t bytes(moe::nn::sequence_shape n) {
    return moe::nn::detail::measured([&](moe::arena& m) { typename M::template activations<T>(moe::cpu{1}, m, n); });
  }
  explicit run(moe::nn::sequence_shape n)
      : shape(n), memory(bytes(n)), scratch_memory(M::template scratch_bytes<T>(space, n)), kept(memory), scratch(scratch_memory), a(space, kept, n) {
    moe::nn::initialise<M>(w.data(), 5);
    moe::random_stream const random{6, moe::random_purpose::test, 0};
    for (index_t t = 0; t < n.tokens(); ++t) token.push_back(static_cast<int>(random.below(static_cast<std::uint64_t>(t), M::vocab)));
    for (index_t t = 0; t < n.tokens(); ++t) target.push_back(token[static_cast<std::size_t>((t + 1) % n.tokens())]);
  }
  auto tokens() const { return moe::vec(token.data(), shape.tokens()); }
  double total(typename M::losses const& l) const { return l.cross_entropy_sum / static_cast<double>(l.targets) + l.balance + l.z; }
  double loss() {
    M::loss(space, static_cast<T const*>(w.data()), tokens(), moe::vec(target.data(), shape.tokens()), shape, a, scratch);
    return total(M::losses_of(space, a));
  }
  double gradient() {
    std::fill(g.begin(), g.end(), T(0));
    M::loss_and_gradient(space, static_cast<T const*>(w.data()), g.data(), tokens(), moe::vec(target.data(), shape.tokens()), shape, a, scratch);
    return total(M::losses_of(space, a));
  }
  /// Logits of all tokens, decoded in pieces of `rows`, with a state made for `capacity` tokens.
  std::vector<T> decoded(index_t rows, index_t capacity) {
    using state = typename M::template state<T>;
    moe::buffer state_memory(moe::nn::detail::measured([&](moe::arena& m) { state(space, m, capacity); }));
    moe::buffer work(M::template logits_scratch_bytes<T>(space, rows, capacity));
    moe::arena own(state_memory), around(work);
    state s(space, own, capacity);
    std::vector<T> out(token.size() * M::vocab);
    for (index_t t = 0; t < shape.tokens(); t += rows) {
      index_t const n = std::min(rows, shape.tokens() - t);
      M::logits(space, static_cast<T const*>(w.data()), moe::vec<int const>(token.data() + t, n), s, moe::mat(out.data() + t * M::vocab, n, M::vocab),
                around);
    }
    return out;
  }
};

}  // namespace

TEST_CASE("moe_mamba: parameters of the paper's models") {
  CHECK(published<moe_mamba_25m>().all == 542212096);
  CHECK(published<moe_mamba_25m>().active == 26312704);
  CHECK(published<mamba_25m>().all == 27115520);
  CHECK(published<mamba_25m>().active == 27115520);
  CHECK(published<transformer_moe_25m>().all == 545390592);
  CHECK(published<transformer_moe_25m>().active == 25296896);  // "25M": 25,165,824 and eight routers of 512 * 32
  CHECK(published<transformer_25m>().all == 25165824);         // "25M"
  CHECK(published<moe_mamba_100m>().all == 2439020544);
  CHECK(published<moe_mamba_100m>().active == 117473280);
  CHECK(published<mamba_100m>().all == 120668160);
  CHECK(published<transformer_moe_100m>().all == 2454061056);
  CHECK(published<transformer_moe_100m>().active == 113639424);  // "114M"
  CHECK(published<transformer_100m>().all == 113246208);
}

TEST_CASE("moe_mamba: the small arms are matched in active parameters as far as width 64 allows: what is not a matrix weighs more in a Mamba layer") {
  index_t const n[] = {active_of<quick>(), active_of<quick_mamba>(), active_of<quick_transformer>(), active_of<quick_transformer_moe>()};
  for (index_t const active : n) CHECK(std::abs(static_cast<double>(active) / static_cast<double>(n[0]) - 1) < 0.16);
  CHECK(published<quick>().all > 5 * published<quick_mamba>().all);
}

TEST_CASE("moe_mamba: the gradient of all weights, with dropped tokens and the balance loss, along random directions") {
  run<model_of<arm::moe_mamba>, double> r({2, 19});
  r.gradient();
  index_t dropped = 0, layers = 0;
  model_of<arm::moe_mamba>::for_each_router(r.a, [&](auto const& routed) { dropped += 38 - routed.plan.offsets(4), ++layers; });
  CHECK(layers == 2);
  CHECK(dropped > 0);
  auto const g = r.g, w = r.w;
  for (int direction = 0; direction < 3; ++direction) {
    moe::random_stream const random{9, moe::random_purpose::test, static_cast<std::uint32_t>(direction)};
    std::vector<double> step(w.size());
    double slope = 0;
    for (auto const& p : moe::nn::parameters_of<model_of<arm::moe_mamba>>())
      for (index_t i = p.offset; i < p.offset + p.size; ++i) {
        auto const at = static_cast<std::size_t>(i);
        step[at] = g[at] == 0 ? 0 : random.normal(at);
        slope += step[at] * g[at];
      }
    auto const loss_at = [&](double x) {
      for (std::size_t i = 0; i < w.size(); ++i) r.w[i] = w[i] + x * step[i];
      return r.loss();
    };
    double const h = 1e-6, found = (loss_at(h) - loss_at(-h)) / (2 * h);
    CHECK(std::abs(found - slope) < 1e-6 * (1 + std::abs(slope)));
  }
}

TEST_CASE_TEMPLATE("moe_mamba: decoding needs no capacity, and any pieces give the same bits", T, float, double) {
  run<model_of<arm::mamba>, T> alone({1, 70});
  run<model_of<arm::moe_mamba>, T> experts({1, 70});
  CHECK(moe::nn::has_constant_state<model_of<arm::mamba>, T>(alone.space));
  CHECK(moe::nn::has_constant_state<model_of<arm::moe_mamba>, T>(alone.space));
  CHECK_FALSE(moe::nn::has_constant_state<model_of<arm::transformer>, T>(alone.space));
  std::vector<T> full(70 * 37);
  model_of<arm::mamba>::logits_of_batch(alone.space, static_cast<T const*>(alone.w.data()), alone.tokens(), alone.shape, alone.a,
                                        moe::mat(full.data(), 70, 37), alone.scratch);
  CHECK(full[69 * 37] == full[69 * 37]);
  for (index_t const rows : {1, 7, 32, 70}) {
    CHECK(test::same_bits(alone.decoded(rows, 1), full));
    CHECK(test::same_bits(experts.decoded(rows, 1), experts.decoded(70, 70)));  // nothing is dropped: no token depends on the others of its call
  }
  run<model_of<arm::transformer>, T> attention({1, 8});
  CHECK(test::contains(test::error_of([&] { attention.decoded(1, 7); }), "1 tokens after 7 exceed the state's capacity of 7"));
}
