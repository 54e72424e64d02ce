// Small fixed workloads whose instructions are counted: see instructions.py. One thread, AVX2 on every machine.
//   perf_workloads        calls each twice, the second time by measured_call
//   perf_workloads list   prints a line per workload: name, units of one call, what the unit is
#include <cstdio>
#include <cstring>

#include <moe/attention/attention.hpp>
#include <moe/core/buffer.hpp>
#include <moe/core/random.hpp>
#include <moe/gemm/grouped_gemm.hpp>
#include <moe/mix/token_mixing.hpp>
#include <moe/nn/activation.hpp>
#include <moe/nn/cross_entropy.hpp>
#include <moe/nn/hidden_backward.hpp>
#include <moe/nn/rms_norm.hpp>
#include <moe/optim/adamw.hpp>
#include <moe/routing/biased_topk.hpp>
#include <moe/routing/dispatch.hpp>
#include <moe/routing/topk.hpp>
#include <moe/ssm/selective_scan.hpp>

/// A name that valgrind waits for; nobody may inline or clone it.
extern "C" __attribute__((noinline, used)) void measured_call(void (*f)(void const*), void const* argument) {
  f(argument);
  asm volatile("" : : : "memory");  // no tail call: this function ends after f
}

namespace {

using namespace moe;

bool only_list = false;
cpu const one{.threads = 1};
buffer const storage(std::size_t{64} << 20);

/// Memory for one workload, uniform in [-1, 1).
class operands {
 public:
  template <class T = float>
  matrix_view<T> mat(index_t rows, index_t columns) {
    auto const m = memory_.mat<T>(rows, columns);
    for (index_t i = 0; i < m.size(); ++i) m.data()[i] = T(static_cast<float>(random_.uniform(static_cast<std::uint64_t>(next_++)) * 2 - 1));
    return m;
  }
  vector_view<float> vec(index_t n) { return vector_view<float>(mat(1, n).data(), n); }
  matrix_view<int> ids(index_t rows, index_t columns, index_t below) {
    auto const m = memory_.mat<int>(rows, columns);
    for (index_t i = 0; i < m.size(); ++i) m.data()[i] = static_cast<int>((i * 7 + i / columns) % below);
    return m;
  }
  arena scratch(std::size_t bytes) { return {memory_.take<std::byte>(static_cast<index_t>(bytes)), bytes}; }
  arena& memory() { return memory_; }

 private:
  arena memory_{storage};
  random_stream random_{1, random_purpose::test, 0};
  index_t next_ = 0;
};

/// Calls f twice; the second call is counted.
template <class F>
void workload(char const* name, double units, char const* unit, F const& f) {
  if (only_list) return void(std::printf("%s %.0f %s\n", name, units, unit));
  f();
  measured_call([](void const* g) { (*static_cast<F const*>(g))(); }, &f);
}

template <class T>
struct experts {
  static constexpr index_t count = 8, rows = 256, in = 128, out = 192;
  operands o;
  matrix_view<T> x = o.mat<T>(rows, in), d_x = o.mat<T>(rows, in), y = o.mat<T>(rows, out);
  tensor<T, dyn, dyn, dyn> plain{o.mat<T>(count * out, in).data(), count, out, in};
  matrix_view<T> first{plain.data(), out, in};
  packed_weights<T> w{o.memory().take<T>(count * panel_layout<T>::size(out, in)), count, out, in};
  packed_weights<float> d_w{o.memory().take<float>(count * panel_layout<float>::size(out, in)), count, out, in};
  vector_view<index_t> offsets = o.memory().vec<index_t>(count + 1);
  arena scratch = o.scratch(std::max(packed_gemm_scratch_bytes<T>(one, count, rows, out, in), gemm_scratch_bytes<T>(one, rows, out, in)));
  double flops = 2.0 * rows * in * out;

  experts() {
    index_t const begin[count + 1] = {0, 1, 4, 20, 20, 84, 148, 200, rows};  // rows by all kernels: 1, 3, 16, none, more
    std::copy_n(begin, count + 1, offsets.data());
    pack_weights(one, plain, w);
  }
};

void products() {
  experts<float> e;
  workload("gemm", e.flops, "flop", [&] { gemm<gemm_config{.transpose_b = true}>(one, e.x, e.first, e.y, e.scratch); });
  workload("grouped_gemm", e.flops, "flop", [&] { grouped_gemm(one, e.x, e.offsets, e.w, e.y, e.scratch); });
  workload("grouped_gemm_input_gradient", e.flops, "flop",
           [&] { grouped_gemm<grouped_gemm_config{.transpose_w = false}>(one, e.y, e.offsets, e.w, e.d_x, e.scratch); });
  workload("grouped_gemm_weight_gradient", e.flops, "flop", [&] { grouped_gemm_weight_gradient(one, e.y, e.x, e.offsets, e.d_w, e.scratch); });
}
void products_bf16() {
  experts<bf16> e;
  workload("grouped_gemm_bf16", e.flops, "flop", [&] { grouped_gemm(one, e.x, e.offsets, e.w, e.y, e.scratch); });
}

void heads() {
  static constexpr attention_shape shape{.heads = 2, .kv_heads = 2, .d_head = 32};
  constexpr index_t length = 128, tokens = 2 * length, width = shape.heads * shape.d_head;
  operands o;
  auto const q = o.mat(tokens, width), k = o.mat(tokens, width), v = o.mat(tokens, width), out = o.mat(tokens, width),
             lse = o.mat(tokens, shape.heads), d_out = o.mat(tokens, width), d_q = o.mat(tokens, width), d_k = o.mat(tokens, width),
             d_v = o.mat(tokens, width);
  arena scratch = o.scratch(attention_scratch_bytes<shape, float>(one, tokens, length));
  double const pairs = 0.5 * (length + 1) * tokens * width;
  workload("attention", pairs, "pair", [&] { attention<shape>(one, q, k, v, length, out, lse, scratch); });
  workload("attention_backward", pairs, "pair", [&] { attention_backward<shape>(one, q, k, v, out, lse, d_out, length, d_q, d_k, d_v, scratch); });
}

void routing() {
  constexpr index_t tokens = 256, experts = 64, width = 64;
  operands o;
  auto const logits = o.mat(tokens, experts), x = o.mat(tokens, width), rows = o.mat(2 * tokens, width);
  tensor<float, dyn, 2> const weight{o.mat(tokens, 2).data(), tokens, 2};
  tensor<int, dyn, 2> const expert{o.ids(tokens, 2, experts).data(), tokens, 2};
  matrix_view<int> const choices{expert.data(), tokens, 2};
  auto const plan = dispatch_plan::take(o.memory(), tokens, 2, experts);
  arena scratch = o.scratch(make_dispatch_scratch_bytes(one, tokens, experts));
  workload("topk", tokens, "token", [&] { (topk<topk_config{}, float>(one, logits, weight, expert)); });
  workload("make_dispatch", tokens, "token", [&] { make_dispatch(one, choices, 0, plan, scratch); });
  workload("dispatch", tokens * width, "element", [&] { dispatch(one, x, plan, rows); });
  workload("combine", tokens * width, "element", [&] { combine(one, rows, matrix_view<float>(weight.data(), tokens, 2), plan, x); });
  static constexpr biased_topk_config sigmoid{}, groups{.k = 8, .groups = 8, .kept_groups = 4};
  auto const bias = o.vec(experts);
  tensor<float, dyn, 8> const weights{o.mat(tokens, 8).data(), tokens, 8};
  tensor<int, dyn, 8> const chosen{o.ids(tokens, 8, experts).data(), tokens, 8};
  workload("biased_topk", tokens, "token", [&] { (biased_topk<sigmoid, float>(one, logits, bias, weight, expert)); });
  workload("biased_topk_of_groups", tokens, "token", [&] { (biased_topk<groups, float>(one, logits, bias, weights, chosen)); });
}

void mixing() {
  constexpr index_t size = 32, experts = 32, length = 4, tokens = size * length, d = 256;
  token_groups const groups = groups_of({size, length}, size);
  operands o;
  auto const x = o.mat(tokens, d), mixed = o.mat(experts * length, d), weight = o.mat(tokens, experts), d_weight = o.mat(tokens, experts);
  workload("group_softmax", tokens * experts, "weight", [&] { group_softmax(one, weight, groups, 0.5, d_weight); });
  workload("mix_tokens", 2.0 * tokens * experts * d, "flop", [&] { mix_tokens<float>(one, x, weight, groups, mixed); });
  workload("redistribute_tokens", 2.0 * tokens * experts * d, "flop", [&] { redistribute_tokens<float>(one, mixed, weight, groups, x); });
  workload("mixing_weight_gradient", 2.0 * tokens * experts * d, "flop", [&] { mixing_weight_gradient(one, x, mixed, groups, d_weight); });
}

void rows() {
  constexpr index_t tokens = 64, d = 256;
  operands o;
  auto const gate = o.mat(tokens, d), up = o.mat(tokens, d), h = o.mat(tokens, d), d_gate = o.mat(tokens, d), d_up = o.mat(tokens, d);
  auto const weight = o.vec(d), rstd = o.vec(tokens);
  matrix_view<float> const choice = o.mat(tokens, 1), d_choice = o.mat(tokens, 1);
  vector_view<int> const slot(o.ids(tokens, 1, 1).data(), tokens);
  for (index_t r = 0; r < tokens; ++r) slot(r) = static_cast<int>(r);
  workload("swiglu", tokens * d, "element", [&] { swiglu(one, gate, up, h); });
  workload("swiglu_backward", tokens * d, "element", [&] { swiglu_backward(one, gate, up, h, d_gate, d_up); });
  matrix_view<float> const pre = o.mat(tokens, 2 * d), d_pre = o.mat(tokens, 2 * d);
  workload("hidden_backward", tokens * d, "element",
           [&] { (hidden_backward<activation_kind::swiglu, float>(one, slot, choice, pre, up, h, d_pre, d_choice)); });
  workload("rms_norm", tokens * d, "element", [&] { rms_norm(one, gate, weight, 1e-5f, h, rstd); });
}

void scans() {
  static constexpr selective_scan_config config{};
  constexpr index_t channels = 32, tokens = 2 * 96, n = config.d_state;
  operands o;
  auto const rows = [&] { return o.mat(tokens, channels); };
  auto const a = o.mat(channels, n);
  for (index_t i = 0; i < a.size(); ++i) a.data()[i] -= 1;
  selective_scan_inputs<float> const in{rows(), rows(), a, o.mat(tokens, n), o.mat(tokens, n), o.vec(channels), o.vec(channels), rows()};
  selective_scan_gradients<float> const g{rows(),           rows(),          o.mat(channels, n), o.mat(tokens, n),
                                          o.mat(tokens, n), o.vec(channels), o.vec(channels),    rows()};
  auto const out = rows(), d_out = rows();
  auto const kept = selective_scan_checkpoints<float>::take(o.memory(), tokens, 2, channels, n);
  sequence_rows const where = equal_sequences(2, tokens / 2);
  arena scratch = o.scratch(std::max(selective_scan_scratch_bytes<config, float>(one, tokens, channels, 2),
                                     selective_scan_backward_scratch_bytes<config, float>(one, tokens, channels, 2)));
  workload("selective_scan", tokens * channels * n, "update", [&] { selective_scan<config>(one, in, where, {}, out, {}, kept, scratch); });
  workload("selective_scan_backward", tokens * channels * n, "update",
           [&] { selective_scan_backward<config>(one, in, where, {}, kept, d_out, {}, g, {}, scratch); });
}

void loss() {
  static constexpr cross_entropy_config mean{.mean = true};
  constexpr index_t tokens = 64, vocab = 512, d = 64;
  operands o;
  auto const x = o.mat(tokens, d), d_x = o.mat(tokens, d), w = o.mat(vocab, d), d_w = o.mat(vocab, d);
  vector_view<int> const target{o.ids(1, tokens, vocab).data(), tokens};
  tensor<double, 2> const losses{o.memory().vec<double>(2).data(), 2};
  arena scratch = o.scratch(cross_entropy_scratch_bytes<float>(one, tokens, d, vocab));
  workload("cross_entropy", tokens * vocab, "logit", [&] { cross_entropy<mean>(one, x, w, target, 1.0f, losses, d_x, d_w, scratch); });
}

void optimizer() {
  constexpr index_t n = 65536;
  operands o;
  auto const w = o.vec(n), m = o.vec(n), v = o.vec(n), g = o.vec(n);
  for (index_t i = 0; i < n; ++i) v(i) = v(i) * v(i);
  workload("adamw", n, "element", [&] { adamw(one, w, m, v, g, 1e-3, 0.1, 1.0, 3); });
}

}  // namespace

int main(int count, char** argument) {
  only_list = count > 1 && std::strcmp(argument[1], "list") == 0;
  products();
  products_bf16();
  heads();
  routing();
  mixing();
  rows();
  scans();
  loss();
  optimizer();
}
