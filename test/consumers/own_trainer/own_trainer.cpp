// One layer of the library in a trainer that is not the library's: own memory, own data, own loss, own SGD.
#include <algorithm>
#include <cstdio>
#include <vector>

#include <moe/nn/moe_ffn.hpp>

using layer = moe::nn::moe_ffn<moe::nn::moe_ffn_config{.d_model = 16, .d_ff = 64, .experts = 4, .granularity = 2}>;  // 8 experts of width 32, k = 2

constexpr moe::index_t tokens = 256, width = layer::d_model, values = tokens * width;
constexpr float rate = 1;
constexpr moe::nn::sequence_shape shape{.sequences = 1, .length = tokens};

/// Uniform in [-1, 1).
float next(unsigned& state) {
  state = state * 1664525u + 1013904223u;
  return static_cast<float>(state >> 8) / 8388608.0f - 1.0f;
}

int main() {
  moe::cpu const space;
  std::vector<float> w(layer::parameter_count), g(layer::parameter_count), x(values), wanted(values), y(values), d_y(values), d_x(values);
  moe::arena measure;
  layer::activations<float>(space, measure, shape);
  std::vector<std::byte> kept(measure.peak()), work(layer::scratch_bytes<float>(space, shape));
  moe::arena memory(kept.data(), kept.size()), scratch(work.data(), work.size());
  layer::activations<float> activations(space, memory, shape);

  unsigned state = 1;
  for (float& v : w) v = 0.3f * next(state);
  // What is to be learnt: the token reversed or negated, as the sign of its first element says.
  for (float& v : x) v = next(state);
  for (moe::index_t t = 0; t < tokens; ++t)
    for (moe::index_t i = 0; i < width; ++i) wanted[t * width + i] = x[t * width] > 0 ? x[t * width + width - 1 - i] : -x[t * width + i];

  double first = 0, loss = 0;
  for (int step = 0; step <= 200; ++step) {
    layer::forward(space, w.data(), moe::mat<float const>(x.data(), tokens, width), moe::mat(y.data(), tokens, width), shape, activations, scratch);
    loss = 0;
    for (std::size_t i = 0; i < y.size(); ++i) {
      float const difference = y[i] - wanted[i];
      loss += 0.5 * difference * difference / tokens;
      d_y[i] = difference / tokens;
    }
    if (step == 0) first = loss;
    if (step % 50 == 0) std::printf("step %3d  loss %.4f\n", step, loss);

    std::fill(g.begin(), g.end(), 0.0f);  // the layer adds
    layer::backward(space, w.data(), g.data(), moe::mat<float const>(d_y.data(), tokens, width), moe::mat(d_x.data(), tokens, width), shape, activations,
                    1.0, scratch);
    for (std::size_t i = 0; i < w.size(); ++i) w[i] -= rate * g[i];
  }
  return loss < 0.25 * first ? 0 : 1;
}
