// Operators that bench/peers/torch_ops.py also runs, by the same names, on demand: a program that is asked on stdin and answers on stdout, so that
// torch_compare.py can let it and PyTorch take turns, pair by pair.
//   <name>: <calls>    calls the operator so often; answers the seconds per call
//   probe              answers the joint rate of float madd of all threads and that many times the rate of one, as torch_compare.py wants them
#include <chrono>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <string>

#include <bench/limits.hpp>
#include <bench/operands.hpp>
#include <moe/attention/attention.hpp>
#include <moe/mix/token_mixing.hpp>
#include <moe/nn/moe_ffn.hpp>
#include <moe/optim/adamw.hpp>
#include <moe/routing/biased_topk.hpp>
#include <moe/routing/dispatch.hpp>
#include <moe/routing/expert_choice.hpp>
#include <moe/routing/topk.hpp>
#include <moe/ssm/causal_conv1d.hpp>

namespace {

using namespace moe;
using call = std::function<void()>;

/// 32 experts of width 512, two per token.
struct experts {
  using layer = nn::moe_ffn<nn::moe_ffn_config{.d_model = 512, .d_ff = 1024, .experts = 16, .granularity = 2}>;
  nn::sequence_shape shape;
  bench::operands o{1024};
  vector_view<float> w = o.memory().vec<float>(layer::parameter_count), g = o.memory().vec<float>(layer::parameter_count);
  matrix_view<float> x = o.mat(shape.tokens(), layer::d_model), y = o.mat(shape.tokens(), layer::d_model),
                     d_x = o.mat(shape.tokens(), layer::d_model);
  layer::activations<float> activations{bench::space(), o.memory(), shape};
  arena scratch = o.scratch(layer::scratch_bytes<float>(bench::space(), shape));

  explicit experts(index_t tokens) : shape{1, tokens} { nn::initialise<layer>(w.data(), 1); }
  void forward() { layer::forward(bench::space(), w.data(), matrix_view<float const>(x), y, shape, activations, scratch); }
  void backward() { layer::backward(bench::space(), w.data(), g.data(), matrix_view<float const>(y), d_x, shape, activations, 1.0, scratch); }
};
call moe_ffn(index_t tokens, bool backward) {
  auto const e = std::make_shared<experts>(tokens);
  return [e, backward] {
    e->forward();
    if (backward) e->backward();
  };
}

/// q, k and v are columns of one matrix, as a layer has them.
template <attention_shape Shape>
struct heads {
  static constexpr index_t width = Shape.heads * Shape.d_head;
  index_t length, tokens;
  bench::operands o{512};
  matrix_view<float> qkv = o.mat(tokens, 3 * width), d_qkv = o.mat(tokens, 3 * width), out = o.mat(tokens, width), d_out = o.mat(tokens, width),
                     lse = o.mat(tokens, Shape.heads);
  arena scratch = o.scratch(attention_scratch_bytes<Shape, float>(bench::space(), tokens, length));

  heads(index_t batch, index_t length_of_each) : length(length_of_each), tokens(batch * length_of_each) {}
  static matrix_view<float> part(matrix_view<float> m, index_t i) { return columns_of(m, i * width, (i + 1) * width); }
  void forward() { attention<Shape>(bench::space(), part(qkv, 0), part(qkv, 1), part(qkv, 2), length, out, lse, scratch); }
  void backward() {
    attention_backward<Shape>(bench::space(), part(qkv, 0), part(qkv, 1), part(qkv, 2), out, lse, d_out, length, part(d_qkv, 0), part(d_qkv, 1),
                              part(d_qkv, 2), scratch);
  }
};
template <int DHead>
call attention_of(index_t batch, index_t length, bool backward) {
  auto const h = std::make_shared<heads<attention_shape{.heads = 8, .kv_heads = 8, .d_head = DHead}>>(batch, length);
  return [h, backward] {
    h->forward();
    if (backward) h->backward();
  };
}

template <int K>
struct choices {
  static constexpr index_t tokens = 4096, experts = 64;
  bench::operands o{64};
  matrix_view<float> logits = o.mat(tokens, experts);
  tensor<float, dyn, K> weight = o.mat<K>(tokens);
  tensor<int, dyn, K> expert = o.memory().mat<int, K>(tokens);
  dispatch_plan plan = dispatch_plan::take(o.memory(), tokens, K, experts);
  arena scratch = o.scratch(make_dispatch_scratch_bytes(bench::space(), tokens, experts));
};
template <int K>
call routing(bool sort) {
  auto const c = std::make_shared<choices<K>>();
  return [c, sort] {
    topk<topk_config{.k = K}, float>(bench::space(), c->logits, c->weight, c->expert);
    if (sort) make_dispatch(bench::space(), matrix_view<int>(c->expert.data(), c->tokens, K), 0, c->plan, c->scratch);
  };
}

template <biased_topk_config C>
call biased_routing() {
  auto const c = std::make_shared<choices<C.k>>();
  auto const bias = c->o.vec(c->experts);
  for (index_t e = 0; e < c->experts; ++e) bias(e) *= 0.05f;  // all experts are chosen, as a bias that balances lets them
  return [c, bias] { biased_topk<C, float>(bench::space(), c->logits, bias, c->weight, c->expert); };
}

/// Two experts a token on average, chosen within pools of `size` tokens.
call experts_choose(index_t size) {
  auto const c = std::make_shared<choices<64>>();
  token_groups const pools = size == c->tokens ? one_group(c->tokens) : groups_of({size, c->tokens / size}, size);
  auto const scratch = std::make_shared<arena>(c->o.scratch(expert_choice_scratch_bytes<float, 64>(bench::space(), pools)));
  return [=] {
    expert_choice<float, 64>(bench::space(), c->logits, pools, std::max<index_t>(1, 2 * size / c->experts), c->weight, c->expert, *scratch);
  };
}

/// 4096 tokens of width 512 in groups of `size`, as many experts. Tokens of a group lie as in a batch, far apart: the copy that bmm wants is not counted.
struct mixing {
  static constexpr index_t tokens = 4096, d = 512;
  index_t size;
  token_groups groups = groups_of({size, tokens / size}, size);
  bench::operands o{64};
  matrix_view<float> x = o.mat(tokens, d), y = o.mat(tokens, d), mixed = o.mat(tokens, d), d_mixed = o.mat(tokens, d), d_x = o.mat(tokens, d),
                     weight = o.mat(tokens, size), d_weight = o.mat(tokens, size);

  explicit mixing(index_t size_) : size(size_) {
    mix(), redistribute();
    for (index_t g : {index_t{0}, groups.count() - 1}) {
      double sum = 0, back = 0;  // of the last expert and the last member, in the last column
      for (index_t i = 0; i < size; ++i) {
        sum += double{weight(groups.row(g, i), size - 1)} * double{x(groups.row(g, i), d - 1)};
        back += double{weight(groups.row(g, size - 1), i)} * double{mixed(i * groups.count() + g, d - 1)};
      }
      double const wrong = std::abs(sum - double{mixed((size - 1) * groups.count() + g, d - 1)}) +
                           std::abs(back - double{y(groups.row(g, size - 1), d - 1)});
      expects(wrong < 1e-3, errc::bad_argument, "bench.ops: mixing is wrong by ", wrong);
    }
  }
  void mix() { mix_tokens<float>(bench::space(), x, weight, groups, mixed); }
  void redistribute() { redistribute_tokens<float>(bench::space(), mixed, weight, groups, y); }
  void backward() {
    redistribute_tokens<float>(bench::space(), d_mixed, weight, groups, d_x);
    mixing_weight_gradient(bench::space(), x, d_mixed, groups, d_weight);
  }
};
call mix(index_t size, bool backward) {
  auto const m = std::make_shared<mixing>(size);
  return [m, backward] {
    m->mix();
    if (backward) m->backward();
  };
}
call redistribute(index_t size) {
  auto const m = std::make_shared<mixing>(size);
  return [m] { m->redistribute(); };
}

struct convolution {
  static constexpr causal_conv1d_config config{};
  index_t count = 4, length = 2048, channels = 1024, tokens = count * length;
  bench::operands o{256};
  matrix_view<float> x = o.mat(tokens, channels), y = o.mat(tokens, channels), d_y = o.mat(tokens, channels), d_x = o.mat(tokens, channels);
  matrix_view<float> weight = o.mat(channels, config.width), d_weight = o.mat(channels, config.width);
  vector_view<float> bias = o.vec(channels), d_bias = o.vec(channels);
  arena scratch = o.scratch(causal_conv1d_backward_scratch_bytes<config, float>(bench::space(), tokens, channels, count));
  sequence_rows sequences = equal_sequences(count, length);

  void forward() { causal_conv1d<config, float>(bench::space(), x, weight, bias, sequences, {}, y, {}); }
  void backward() {
    causal_conv1d_backward<config, float>(bench::space(), x, weight, bias, sequences, {}, d_y, {}, d_x, d_weight, d_bias, {}, scratch);
  }
};
call convolve(bool backward) {
  auto const c = std::make_shared<convolution>();
  return [c, backward] {
    c->forward();
    if (backward) c->backward();
  };
}

struct parameters {
  index_t n = 42'000'000, step = 0;
  bench::operands o{700};
  vector_view<float> w = o.vec(n), m = o.vec(n), v = o.vec(n), g = o.vec(n);
  parameters() {
    for (index_t i = 0; i < n; ++i) v(i) = v(i) * v(i);
  }
};
call optimizer() {
  auto const p = std::make_shared<parameters>();
  return [p] { adamw(bench::space(), p->w, p->m, p->v, p->g, 1e-3, 0.1, 1.0, ++p->step); };
}

std::map<std::string, std::function<call()>> const operators{
    {"moe_ffn T=4096", [] { return moe_ffn(4096, false); }},
    {"moe_ffn T=512", [] { return moe_ffn(512, false); }},
    {"moe_ffn forward and backward T=4096", [] { return moe_ffn(4096, true); }},
    {"attention B=8 L=256 d_head=32", [] { return attention_of<32>(8, 256, false); }},
    {"attention B=8 L=256 d_head=64", [] { return attention_of<64>(8, 256, false); }},
    {"attention B=4 L=1024 d_head=64", [] { return attention_of<64>(4, 1024, false); }},
    {"attention forward and backward B=8 L=256 d_head=32", [] { return attention_of<32>(8, 256, true); }},
    {"attention forward and backward B=4 L=1024 d_head=64", [] { return attention_of<64>(4, 1024, true); }},
    {"routing E=64 k=2", [] { return routing<2>(false); }},
    {"routing E=64 k=8", [] { return routing<8>(false); }},
    {"routing and sort E=64 k=2", [] { return routing<2>(true); }},
    {"routing and sort E=64 k=8", [] { return routing<8>(true); }},
    {"sigmoid and bias E=64 k=2", [] { return biased_routing<biased_topk_config{.k = 2}>(); }},
    {"sigmoid and bias E=64 k=8", [] { return biased_routing<biased_topk_config{.k = 8}>(); }},
    {"softmax and bias E=64 k=2", [] { return biased_routing<biased_topk_config{.k = 2, .score = score_function::softmax}>(); }},
    {"4 of 8 groups E=64 k=8", [] { return biased_routing<biased_topk_config{.k = 8, .groups = 8, .kept_groups = 4}>(); }},
    {"expert choice E=64 c=2", [] { return experts_choose(4096); }},
    {"expert choice E=64 c=2 pools of 32", [] { return experts_choose(32); }},
    {"mix_tokens g=32 E=32", [] { return mix(32, false); }},
    {"mix_tokens g=8 E=8", [] { return mix(8, false); }},
    {"mix_tokens g=64 E=64", [] { return mix(64, false); }},
    {"redistribute_tokens g=32 E=32", [] { return redistribute(32); }},
    {"redistribute_tokens g=8 E=8", [] { return redistribute(8); }},
    {"redistribute_tokens g=64 E=64", [] { return redistribute(64); }},
    {"mix_tokens forward and backward g=32 E=32", [] { return mix(32, true); }},
    {"mix_tokens forward and backward g=8 E=8", [] { return mix(8, true); }},
    {"mix_tokens forward and backward g=64 E=64", [] { return mix(64, true); }},
    {"causal_conv1d B=4 D=1024 L=2048", [] { return convolve(false); }},
    {"causal_conv1d forward and backward B=4 D=1024 L=2048", [] { return convolve(true); }},
    {"adamw", [] { return optimizer(); }},
};

double seconds_of(int calls, call const& f) {
  auto const start = std::chrono::steady_clock::now();
  for (int i = 0; i < calls; ++i) f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / calls;
}

}  // namespace

int main() try {
  int const threads = thread_count(bench::space());
  bench::limits const limits = bench::measure_limits(threads, std::size_t{1} << 28);
  std::string line, current;
  call f;
  while (std::getline(std::cin, line)) {
    std::size_t const colon = line.find(':');
    std::string const name = line.substr(0, colon);
    if (name == "probe") {
      std::cout << bench::madd_flops(threads, 100000) << " " << threads * limits.madd_one << std::endl;
      continue;
    }
    auto const found = operators.find(name);
    if (found == operators.end() || colon == std::string::npos) {
      std::cerr << "bench.ops: no operator called " << name << "\n";
      return 2;
    }
    if (name != current) f = nullptr, f = found->second(), f(), current = name;
    std::cout << seconds_of(std::stoi(line.substr(colon + 1)), f) << std::endl;
  }
} catch (moe::error const& e) {
  std::cerr << e.what() << "\n";
  return 1;
}
