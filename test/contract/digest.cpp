// Every operator once on fixed inputs of odd sizes; prints "name hash" of what each wrote. Compiled twice, see CMakeLists.txt.
#include <algorithm>
#include <cstdio>

#include <moe/attention/attention.hpp>
#include <moe/attention/rope.hpp>
#include <moe/gemm/grouped_gemm.hpp>
#include <moe/mix/token_mixing.hpp>
#include <moe/nn/activation.hpp>
#include <moe/nn/attention_layer.hpp>
#include <moe/nn/cross_entropy.hpp>
#include <moe/nn/embedding.hpp>
#include <moe/nn/language_model.hpp>
#include <moe/nn/layer_norm.hpp>
#include <moe/nn/mamba.hpp>
#include <moe/nn/moe_ffn.hpp>
#include <moe/nn/residual.hpp>
#include <moe/nn/rms_norm.hpp>
#include <moe/nn/sequence.hpp>
#include <moe/optim/adamw.hpp>
#include <moe/optim/clip.hpp>
#include <moe/optim/schedule.hpp>
#include <moe/routing/balance.hpp>
#include <moe/routing/dispatch.hpp>
#include <moe/routing/topk.hpp>
#include <moe/ssm/selective_scan.hpp>

namespace {

using namespace moe;

cpu const space{.threads = 2};
index_t const tokens = 77, width = 45, inner = 53, experts = 5, rows = 2 * tokens;
double const eps = 1e-5;

/// FNV-1a over everything that is added.
class digest {
 public:
  template <class T, index_t... E>
  void add(tensor<T, E...> const& t) {
    for (index_t r = 0; r < t.rows(); ++r) bytes(t.row(r), static_cast<std::size_t>(t.template extent<sizeof...(E) - 1>()) * sizeof(T));
  }
  void add(double x) { bytes(&x, sizeof x); }
  std::uint64_t value() const { return hash_; }

 private:
  void bytes(void const* p, std::size_t n) {
    for (std::size_t i = 0; i < n; ++i) hash_ = (hash_ ^ static_cast<unsigned char const*>(p)[i]) * 0x100000001b3u;
  }
  std::uint64_t hash_ = 0xcbf29ce484222325u;
};

template <class... Out>
void print(char const* name, Out const&... out) {
  digest d;
  (d.add(out), ...);
  std::printf("%s %016llx\n", name, static_cast<unsigned long long>(d.value()));
}

/// Memory of one group of operators. What it hands out holds numbers in [-2, 2) that no operator has written: sums may start from them.
class operands {
  buffer const data_{std::size_t{8} << 20}, scratch_{std::size_t{8} << 20};

 public:
  template <class T = float>
  matrix_view<T> mat(index_t n, index_t columns) {
    auto const m = memory_.mat<T>(n, columns);
    fill(m.data(), m.size());
    return m;
  }
  template <class T = float>
  vector_view<T> vec(index_t n) {
    auto const v = memory_.vec<T>(n);
    fill(v.data(), n);
    return v;
  }
  template <int K>
  tensor<float, dyn, K> choices(index_t n) {
    return mat(n, K);
  }
  vector_view<int> ids(index_t n, int below) {
    auto const v = memory_.vec<int>(n);
    random_stream const random{2, random_purpose::test, step_++};
    for (index_t i = 0; i < n; ++i) v(i) = static_cast<int>(random.below(static_cast<std::uint64_t>(i), static_cast<std::uint64_t>(below)));
    return v;
  }
  arena& memory() { return memory_; }
  arena scratch{scratch_};

 private:
  template <class T>
  void fill(T* p, index_t n) {
    random_stream const random{1, random_purpose::test, step_++};
    for (index_t i = 0; i < n; ++i) p[i] = T(4 * random.uniform(static_cast<std::uint64_t>(i)) - 2);  // 4 x is exact
  }
  arena memory_{data_};
  std::uint32_t step_ = 0;
};

void random_numbers() {
  operands o;
  auto const z = o.vec<double>(1000);
  random_stream const random{3, random_purpose::initialisation, 0};
  for (index_t i = 0; i < z.size(); ++i) z(i) = random.normal(static_cast<std::uint64_t>(i));
  print("random.normal", z);
}

template <class T>
void products(char const* plain, char const* transposed) {
  operands o;
  auto const a = o.mat<T>(tokens, inner), b = o.mat<T>(inner, width), c = o.mat<T>(tokens, width), d = o.mat<T>(inner, tokens),
             e = o.mat<T>(width, inner), f = o.mat<T>(tokens, width);
  gemm(space, a, b, c, o.scratch);
  print(plain, c);
  gemm<gemm_config{.transpose_a = true, .transpose_b = true, .accumulate = true}>(space, d, e, f, o.scratch);
  print(transposed, f);
}

vector_view<index_t> offsets_of(operands& o) {  // one expert has none, one has one
  auto const offsets = o.memory().vec<index_t>(experts + 1);
  index_t const at[] = {0, 31, 31, 32, 101, rows};
  std::copy_n(at, experts + 1, offsets.data());
  return offsets;
}

void grouped_products() {
  operands o;
  auto const x = o.mat(rows, width), y = o.mat(rows, inner), d_x = o.mat(rows, width), all = o.mat(experts * inner, width),
             d_all = o.mat(experts * inner, width);
  auto const offsets = offsets_of(o);
  tensor<float, dyn, dyn, dyn> const w(all.data(), experts, inner, width), d_w(d_all.data(), experts, inner, width);
  grouped_gemm(space, x, offsets, w, y, o.scratch);
  print("grouped_gemm", y);
  grouped_gemm<grouped_gemm_config{.transpose_w = false, .accumulate = true}>(space, y, offsets, w, d_x, o.scratch);
  print("grouped_gemm input gradient", d_x);
  grouped_gemm_weight_gradient<weight_gradient_config{.accumulate = true}>(space, y, x, offsets, d_w, o.scratch);
  print("grouped_gemm_weight_gradient", d_w);
}

template <topk_config C, class T>
void choices(char const* forward, char const* backward) {
  operands o;
  auto const logits = o.mat<T>(tokens, 37), d_logits = o.mat<T>(tokens, 37), gradient = o.mat<T>(tokens, C.k), weights = o.mat<T>(tokens, C.k);
  tensor<T, dyn, C.k> const weight = weights, d_weight = gradient;
  tensor<int, dyn, C.k> const expert = o.memory().mat<int, C.k>(tokens);
  topk<C, T>(space, logits, weight, expert);
  print(forward, weight, expert);
  topk_backward<C, T>(space, logits, weight, expert, d_weight, d_logits);
  print(backward, d_logits);
}

void balance() {
  operands o;
  auto const logits = o.mat(tokens, experts), d_logits = o.mat(tokens, experts);
  auto const counts = o.memory().vec<index_t>(experts);
  index_t const count[] = {31, 0, 1, 69, rows - 101};
  std::copy_n(count, experts, counts.data());
  balance_config const config{.balance = 50, .z = 20};  // so that the gradient is not lost in what it is added to
  double losses[3];
  balance_losses<float>(space, logits, counts, 2, config, view<3>(losses, 3), o.scratch);
  print("balance_losses", losses[0], losses[1], losses[2]);
  balance_losses_backward(space, logits, counts, 2, config, 0.7f, d_logits, o.scratch);
  print("balance_losses_backward", d_logits);
}

void dispatching() {
  operands o;
  auto const x = o.mat(tokens, width), xs = o.mat(rows, width), y = o.mat(tokens, width), d_x = o.mat(tokens, width), d_xs = o.mat(rows, width),
             weight = o.mat(tokens, 2), d_weight = o.mat(tokens, 2);
  auto const first = o.ids(tokens, 2), second = o.ids(tokens, 3);
  auto const expert = o.memory().mat<int>(tokens, 2);
  for (index_t t = 0; t < tokens; ++t) expert(t, 0) = first(t), expert(t, 1) = 2 + second(t);
  dispatch_plan const plan = dispatch_plan::take(o.memory(), tokens, 2, experts);
  make_dispatch(space, expert, 35, plan, o.scratch);
  print("make_dispatch", plan.offsets, plan.position);
  dispatch(space, x, plan, xs);
  print("dispatch", rows_of(xs, 0, plan.rows()));
  dispatch_backward(space, xs, plan, 2, d_x);
  print("dispatch_backward", d_x);
  combine(space, xs, weight, plan, y);
  print("combine", y);
  combine_backward(space, y, xs, weight, plan, d_xs, d_weight);
  print("combine_backward", rows_of(d_xs, 0, plan.rows()), d_weight);
}

template <class T>
void mixing(char const* name) {
  token_groups const groups = groups_of({7, 11}, 7);
  operands o;
  auto const x = o.mat<T>(tokens, width), y = o.mat<T>(tokens, width), mixed = o.mat<T>(experts * groups.count(), width);
  auto const logits = o.mat(tokens, experts), weight = o.mat(tokens, experts), d_weight = o.mat(tokens, experts);
  group_softmax(space, logits, groups, 0.7, weight);
  mix_tokens<T>(space, x, weight, groups, mixed);
  redistribute_tokens<T>(space, mixed, weight, groups, y);
  mixing_weight_gradient<mixing_weight_gradient_config{.accumulate = true}>(space, x, mixed, groups, d_weight);
  group_softmax_backward(space, weight, d_weight, groups, 0.7, logits);
  print(name, weight, mixed, y, d_weight, logits);
}

void attending() {
  constexpr attention_shape shape{.heads = 4, .kv_heads = 2, .d_head = 20};
  constexpr rope_config turn{.d_head = 20};
  index_t const seq = 91, n = 2 * seq;
  operands o;
  auto const q = o.mat(n, 80), k = o.mat(n, 40), v = o.mat(n, 40), out = o.mat(n, 80), lse = o.mat(n, 4), d_o = o.mat(n, 80), d_q = o.mat(n, 80),
             d_k = o.mat(n, 40), d_v = o.mat(n, 40), cached = o.mat(7, 80);
  auto const table = rope_table<float>::take(o.memory(), seq, turn.d_head);
  auto const position = o.memory().vec<index_t>(n);
  for (index_t t = 0; t < n; ++t) position(t) = t % seq;
  fill_rope_table<turn>(space, table);
  print("fill_rope_table", table.rows);
  rope<turn, float>(space, q, table, position);
  print("rope", q);
  attention<shape>(space, q, k, v, seq, out, lse, o.scratch);
  print("attention", out, lse);
  attention_backward<shape>(space, q, k, v, out, lse, d_o, seq, d_q, d_k, d_v, o.scratch);
  print("attention_backward", d_q, d_k, d_v);
  rope_backward<turn, float>(space, d_q, table, position);
  print("rope_backward", d_q);
  attention_cached<shape>(space, rows_of(q, seq - 7, seq), rows_of(k, 0, seq), rows_of(v, 0, seq), seq - 7, cached, o.scratch);
  print("attention_cached", cached);
}

void norms() {
  operands o;
  auto const x = o.mat(tokens, width), y = o.mat(tokens, width), d_y = o.mat(tokens, width), d_x = o.mat(tokens, width);
  auto const weight = o.vec(width), bias = o.vec(width), d_weight = o.vec(width), d_bias = o.vec(width), mean = o.vec(tokens), rstd = o.vec(tokens);
  rms_norm(space, x, weight, float(eps), y, rstd);
  print("rms_norm", y, rstd);
  rms_norm_backward(space, d_y, x, weight, rstd, d_x, d_weight, o.scratch);
  print("rms_norm_backward", d_x, d_weight);
  layer_norm(space, x, weight, bias, float(eps), y, mean, rstd);
  print("layer_norm", y, mean, rstd);
  layer_norm_backward(space, d_y, x, weight, mean, rstd, d_x, d_weight, d_bias, o.scratch);
  print("layer_norm_backward", d_x, d_weight, d_bias);
}

void activations() {
  operands o;
  auto const x = o.mat(tokens, width), up = o.mat(tokens, width), d_y = o.mat(tokens, width), y = o.mat(tokens, width), d_x = o.mat(tokens, width),
             d_up = o.mat(tokens, width);
  silu(space, x, y), print("silu", y);
  silu_backward(space, x, d_y, d_x), print("silu_backward", d_x);
  gelu(space, x, y), print("gelu", y);
  gelu_backward(space, x, d_y, d_x), print("gelu_backward", d_x);
  relu(space, x, y), print("relu", y);
  relu_backward(space, x, d_y, d_x), print("relu_backward", d_x);
  swiglu(space, x, up, y), print("swiglu", y);
  swiglu_backward(space, x, up, d_y, d_x, d_up), print("swiglu_backward", d_x, d_up);
}

void ends() {
  int const vocab = 301;
  operands o;
  auto const table = o.mat(vocab, width), d_table = o.mat(vocab, width), y = o.mat(tokens, width), d_x = o.mat(tokens, width);
  auto const token = o.ids(tokens, vocab), target = o.ids(tokens, vocab);
  target(3) = -1;
  embedding(space, token, table, y);
  print("embedding", y);
  embedding_backward(space, token, y, d_table, o.scratch);
  print("embedding_backward", d_table);
  tensor<double, 2> const loss = o.vec<double>(2);
  cross_entropy_loss(space, y, table, target, loss, o.scratch);
  print("cross_entropy_loss", loss);
  cross_entropy<cross_entropy_config{.mean = true}>(space, y, table, target, 0.013f, loss, d_x, d_table, o.scratch);
  print("cross_entropy", loss, d_x, d_table);
}

void optimiser() {
  index_t const n = 20011;
  operands o;
  auto const w = o.vec(n), m = o.vec(n), v = o.vec(n), g = o.vec(n);
  for (index_t i = 0; i < n; ++i) v(i) = v(i) < 0 ? -v(i) : v(i);
  double const norm = global_norm(space, g, o.scratch), scale = clip_scale(norm, 1.0);
  print("global_norm", norm);
  print("clip_scale", scale);
  adamw(space, w, m, v, g, 1e-3, 0.1, scale, 7);
  print("adamw", w, m, v);
  warmup_cosine const schedule{1e-3, 10, 100, 1e-4};
  auto const rate = o.vec<double>(100);
  for (index_t step = 1; step <= 100; ++step) rate(step - 1) = schedule.at(step);
  print("warmup_cosine", rate);
}

template <class T>
void scanning(char const* forward, char const* backward) {
  static constexpr selective_scan_config two_groups{.d_state = 17, .groups = 2};
  index_t const channels = 46, columns = 2 * 17;
  operands o;
  auto const wide = [&] { return o.mat<T>(tokens, channels); };
  auto const narrow = [&] { return o.mat<T>(tokens, columns); };
  auto const states = [&] { return scan_states<float>(o.mat(2 * channels, 17).data(), 2, channels, 17); };
  auto const a = o.mat(channels, 17);
  for (index_t i = 0; i < a.size(); ++i) a.data()[i] = a.data()[i] > 0 ? -a.data()[i] : a.data()[i];
  vector_view<index_t> const offsets = o.memory().vec<index_t>(3);
  offsets(0) = 0, offsets(1) = 5, offsets(2) = tokens;
  selective_scan_inputs<T> const in{wide(), wide(), a, narrow(), narrow(), o.vec(channels), o.vec(channels), wide()};
  auto const out = wide();
  auto const first = states(), last = states(), d_first = states();
  auto const kept = selective_scan_checkpoints<T>::take(o.memory(), tokens, 2, channels, 17);
  selective_scan<two_groups>(space, in, packed_sequences(offsets), first, out, last, kept, o.scratch);
  print(forward, out, last);
  selective_scan_gradients<T> const g{wide(), wide(), o.mat(channels, 17), narrow(), narrow(), o.vec(channels), o.vec(channels), wide()};
  selective_scan_backward<two_groups>(space, in, packed_sequences(offsets), first, kept, wide(), last, g, d_first, o.scratch);
  print(backward, g.d_u, g.d_delta, g.d_a, g.d_b, g.d_c, g.d_skip, g.d_delta_bias, g.d_z, d_first);
}

void whole_model() {
  using namespace moe::nn;
  constexpr moe_ffn_config sparse{.d_model = 48, .d_ff = 44, .experts = 3, .granularity = 2, .shared_experts = 1, .capacity_factor = 1.25};
  using attend = residual<attention_layer<attention_config{.d_model = 48, .heads = 4}>>;
  using block = sequence<attend, residual<moe_ffn<sparse>>, residual<mamba<mamba_config{.d_model = 48}>>>;
  using model = language_model<language_model_config{.vocab = 61, .d_model = 48}, block>;
  sequence_shape const n{.sequences = 2, .length = 39};
  operands o;
  auto const w = o.memory().vec<float>(model::parameter_count), g = o.vec(model::parameter_count);
  initialise<model>(w.data(), 5);
  print("initialise", w);
  auto const token = o.ids(n.tokens(), 61), target = o.ids(n.tokens(), 61);
  model::activations<float> a(space, o.memory(), n);
  model::loss_and_gradient(space, w.data(), g.data(), token, target, n, a, o.scratch, 0.3);
  auto const l = model::losses_of(space, a);
  print("language_model", l.cross_entropy_sum, l.balance, l.z, g);
}

}  // namespace

int main() {
  random_numbers();
  products<float>("gemm", "gemm transposed");
  products<bf16>("gemm bf16", "gemm transposed bf16");
  grouped_products();
  choices<topk_config{.k = 3}, float>("topk", "topk_backward");
  choices<topk_config{.k = 3, .renormalise = false}, float>("topk of all", "topk_backward of all");
  choices<topk_config{.k = 3}, bf16>("topk bf16", "topk_backward bf16");
  balance();
  dispatching();
  mixing<float>("token_mixing");
  mixing<bf16>("token_mixing bf16");
  attending();
  norms();
  activations();
  ends();
  optimiser();
  scanning<float>("selective_scan", "selective_scan_backward");
  scanning<bf16>("selective_scan bf16", "selective_scan_backward bf16");
  whole_model();
}
