#pragma once
#include <limits>
#include <span>
#include <vector>

#include <moe/core/elementwise.hpp>
#include <moe/nn/cross_entropy.hpp>
#include <moe/nn/embedding.hpp>
#include <moe/nn/layer.hpp>
#include <moe/nn/linear.hpp>
#include <moe/nn/rms_norm.hpp>

namespace moe::inline MOE_ISA::nn {

struct language_model_config {
  int vocab = 0, d_model = 0;
  bool tied = false;         ///< the unembedding is the embedding
  double embedding_std = 1;  ///< of the initial embedding
  double head_gain = 1;      ///< multiplies the initial standard deviation of the unembedding, 1 / sqrt(d_model)
};

/// Next-token model:  logits = W_head rms_norm(Body(W_embedding[token])).
template <language_model_config C, class Body>
struct language_model {
  static_assert(layer_type<Body>, "moe::nn::language_model: its body is no layer; nn/layer.hpp lists what a layer has");
  static_assert(C.vocab >= 1, "moe::nn::language_model: vocab must be at least 1");
  static_assert(C.d_model == Body::d_model, "moe::nn::language_model: d_model differs from the d_model of its layers");
  static constexpr int vocab = C.vocab, d_model = C.d_model;
  static constexpr index_t group_size = detail::group_size_of<Body>();  ///< sequences that are decoded together: logits_of_group
  static constexpr bool tied = C.tied;
  static constexpr double eps = 1e-5;
  static constexpr auto embedding_parameters =
      parameter_list(parameter<1, vocab, d_model>{"embedding.weight", parameter_group::embedding, {.std = C.embedding_std}});
  static constexpr auto norm_parameters = parameter_list(parameter<1, 1, d_model>{"norm.weight", parameter_group::norm, {.constant = 1}});
  static constexpr auto head_parameters =
      parameter_list(product_weight<1, vocab, d_model>{"head.weight", parameter_group::unembedding, scaled_normal(d_model, C.head_gain)});
  static constexpr index_t body_offset = embedding_parameters.size, norm_offset = body_offset + Body::parameter_count,
                           head_offset = norm_offset + norm_parameters.size;
  static constexpr index_t parameter_count = tied ? head_offset : head_offset + head_parameters.size;

  template <class F>
  static void for_each_parameter(std::string const& prefix, index_t first, F const& f) {
    embedding_parameters.for_each(prefix, first, f);
    Body::for_each_parameter(prefix + "layers.", first + body_offset, f);
    norm_parameters.for_each(prefix, first + norm_offset, f);
    if constexpr (!tied) head_parameters.for_each(prefix, first + head_offset, f);
  }
  /// All parameters, padding of the buffer not counted.
  static index_t parameters() {
    index_t n = 0;
    for_each_parameter("", 0, [&](parameter_info const& p) { n += p.elements(); });
    return n;
  }
  /// Those that one token uses; of the embedding it reads one row.
  static constexpr index_t active_parameters() { return Body::active_parameters() + d_model + d_model + index_t{vocab} * d_model; }
  /// Floating-point operations of a training step (forward and backward) per token.
  static constexpr double flops_per_token(index_t length) { return 3.0 * (Body::flops_per_token(length) + 2.0 * vocab * d_model); }

  template <class T>
  struct activations {
    matrix_view<T> x, y, normed;  // [tokens, d_model]
    vector_view<accumulator<T>> rstd;
    vector_view<double> loss;  // [2]  cross-entropy, targets
    typename Body::template activations<T> inner;
    template <class S>
    activations(S const& space, arena& a, sequence_shape n)
        : x(a.mat<T>(n.tokens(), d_model)), y(a.mat<T>(n.tokens(), d_model)), normed(a.mat<T>(n.tokens(), d_model)),
          rstd(a.vec<accumulator<T>>(n.tokens())), loss(a.vec<double>(2)), inner(space, a, n) {}
  };
  template <class T>
  struct state {
    typename Body::template state<T> inner;
    index_t position = 0, capacity;  ///< capacity: tokens that a sequence may have; no limit where the layers' states do not grow
    template <class S>
    state(S const& space, arena& a, index_t tokens)
        : inner(space, a, tokens), capacity(has_constant_state<Body, T>(space) ? std::numeric_limits<index_t>::max() : tokens) {}
  };

  template <class T, class S>
  static std::size_t scratch_bytes(S const& space, sequence_shape n) {
    return detail::measured([&](arena& a) { a.mat<T>(n.tokens(), d_model), a.mat<T>(n.tokens(), d_model); }) +
           std::max({Body::template scratch_bytes<T>(space, n), cross_entropy_scratch_bytes<T>(space, n.tokens(), d_model, vocab),
                     rms_norm_backward_scratch_bytes<T>(space, n.tokens(), d_model), embedding_backward_scratch_bytes(space, n.tokens(), vocab)});
  }
  template <class T, class S>
  static std::size_t logits_scratch_bytes(S const& space, index_t rows, index_t capacity) {
    return next_rows_bytes<T>(space, rows, Body::template extend_scratch_bytes<T>(space, rows, capacity));
  }
  template <class T, class S>
  static std::size_t logits_of_group_scratch_bytes(S const& space, sequence_shape n, index_t capacity) {
    return next_rows_bytes<T>(space, n.tokens(), detail::extend_group_scratch_bytes<Body, T>(space, n, capacity));
  }

  /// Sums over the batch; `cross_entropy_sum` in nats over the `targets` that are not negative; balance and z summed over the mixture-of-experts layers,
  /// `entropy` of their routers' softmax in nats the mean over layers and tokens.
  struct losses {
    double cross_entropy_sum = 0;
    index_t targets = 0;
    double balance = 0, z = 0, entropy = 0;
  };

  /// One forward pass. target[t] is the token after token[t]; a negative one is ignored. losses_of fetches the result.
  template <class S, class T>
  static void loss(S const& space, T const* w, in<int, dyn> token, in<int, dyn> target, sequence_shape n, activations<T>& a, arena& scratch) {
    check(token, target, n);
    run_body(space, w, token, n, a, scratch);
    cross_entropy_loss<T>(space, a.normed, head(space, w), target, a.loss, scratch);
  }

  /// Forward and backward: g += scale * d(mean cross-entropy + balance + z) / d w. losses_of fetches the loss.
  template <class S, class T>
  static void loss_and_gradient(S const& space, T const* w, accumulator<T>* g, in<int, dyn> token, in<int, dyn> target, sequence_shape n,
                                activations<T>& a, arena& scratch, double scale = 1) {
    check(token, target, n);
    run_body(space, w, token, n, a, scratch);
    arena::scope const scope(scratch);
    auto const d = scratch.mat<T>(n.tokens(), d_model), e = scratch.mat<T>(n.tokens(), d_model);
    cross_entropy<cross_entropy_config{.mean = true}>(space, a.normed, head(space, w), target, static_cast<accumulator<T>>(scale), a.loss, d,
                                                      head(space, g), scratch);
    auto const d_norm = norm_parameters.template at<0>(space, detail::past(g, norm_offset));
    rms_norm_backward(space, d, a.y, norm_parameters.template at<0>(space, detail::past(w, norm_offset)), a.rstd, e, d_norm, scratch);
    Body::backward(space, detail::past(w, body_offset), detail::past(g, body_offset), matrix_view<T const>(e), d, n, a.inner, scale, scratch);
    embedding_backward(space, token, d, embedding_parameters.template at<0>(space, g), scratch);
  }

  /// What the last pass found, fetched from the space's memory: waits for it.
  template <class S, class T>
  static losses losses_of(S const& space, activations<T>& a) {
    std::size_t routers = 0, i = 2;
    for_each_router(a, [&](auto const&) { ++routers; });
    std::vector<double> fetched(2 + 3 * routers);
    auto const fetch = [&](vector_view<double> from, std::size_t to, index_t n) {
      moe::detail::check_vector("language_model", "losses of the activations", from, n);
      copy(space, fetched.data() + to, static_cast<double const*>(from.data()), static_cast<std::size_t>(n));
    };
    fetch(a.loss, 0, 2);
    for_each_router(a, [&](auto const& routed) { fetch(routed.losses, i, 3), i += 3; });
    space.wait();
    losses l{.cross_entropy_sum = fetched[0], .targets = static_cast<index_t>(fetched[1])};
    for (i = 2; i < fetched.size(); i += 3)
      l.balance += fetched[i], l.z += fetched[i + 1], l.entropy += fetched[i + 2] / static_cast<double>(routers);
    return l;
  }

  /// Logits [n, vocab] of the next n tokens of a sequence, as they were summed; the state remembers the tokens. Bit for bit the rows that a forward
  /// pass over the whole sequence gives, unless a layer has a capacity, as decoding drops nothing, or a router that decodes by another rule
  /// (expert_choice_router).
  template <class S, class T>
  static void logits(S const& space, T const* w, in<int, dyn> token, state<T>& s, matrix_view<accumulator<T>> out, arena& scratch) {
    index_t const rows = token.template extent<0>();
    check_next(rows, s);
    next_rows(space, w, token, out, scratch, [&](matrix_view<T const> x, matrix_view<T> y) {
      Body::extend(space, detail::past(w, body_offset), x, y, s.position, s.inner, scratch);
    });
    s.position += rows;
  }

  /// The same for several sequences side by side, each with n.length tokens more: what a model needs that looks at a group of sequences
  /// (group_size > 1), and decodes sequences of any other model as well. token [n.tokens()] and out [n.tokens(), vocab] have one sequence after the
  /// other; states, one for each sequence, have seen as many tokens.
  template <class S, class T>
  static void logits_of_group(S const& space, T const* w, in<int, dyn> token, sequence_shape n, std::span<state<T>> states,
                              matrix_view<accumulator<T>> out, arena& scratch) {
    detail::check_tokens("language_model", token.template extent<0>(), n);
    expects(static_cast<index_t>(states.size()) == n.sequences, errc::shape_mismatch, "language_model: ", states.size(), " states for ", n.sequences,
            " sequences");
    for (auto const& s : states) {
      expects(s.position == states.front().position, errc::bad_argument, "language_model: sequences of a group have seen ", s.position, " and ",
              states.front().position, " tokens, needs to be the same number");
      check_next(n.length, s);
    }
    next_rows(space, w, token, out, scratch, [&](matrix_view<T const> x, matrix_view<T> y) {
      auto const inner = [&](index_t s) -> auto& { return states[static_cast<std::size_t>(s)].inner; };
      detail::extend_group<Body>(space, detail::past(w, body_offset), x, y, states.front().position, n, inner, scratch);
    });
    for (auto& s : states) s.position += n.length;
  }

  /// Logits of a whole batch, by the forward pass of training.
  template <class S, class T>
  static void logits_of_batch(S const& space, T const* w, in<int, dyn> token, sequence_shape n, activations<T>& a, matrix_view<accumulator<T>> out,
                              arena& scratch) {
    detail::check_tokens("language_model", token.template extent<0>(), n);
    moe::detail::check_matrix("language_model", "out", out, n.tokens(), vocab);
    run_body(space, w, token, n, a, scratch);
    linear<T>(space, a.normed, head(space, w), out, scratch);
  }

  template <class T, class F>
  static void for_each_router(activations<T>& a, F const& f) {
    Body::for_each_router(a.inner, f);
  }

 private:
  template <class T>
  static void check_next(index_t rows, state<T> const& s) {
    expects(rows <= s.capacity - s.position, errc::shape_mismatch, "language_model: ", rows, " tokens after ", s.position,
            " exceed the state's capacity of ", s.capacity);
  }
  /// Logits of rows that `extend` brings through the body.
  template <class S, class T, class F>
  static void next_rows(S const& space, T const* w, in<int, dyn> token, matrix_view<accumulator<T>> out, arena& scratch, F const& extend) {
    index_t const rows = token.template extent<0>();
    moe::detail::check_matrix("language_model", "out", out, rows, vocab);
    if (rows == 0) return;
    arena::scope const scope(scratch);
    auto const x = scratch.mat<T>(rows, d_model), y = scratch.mat<T>(rows, d_model);
    auto const rstd = scratch.vec<accumulator<T>>(rows);
    embedding(space, token, embedding_parameters.template at<0>(space, w), x);
    extend(matrix_view<T const>(x), y);
    rms_norm(space, y, norm_parameters.template at<0>(space, detail::past(w, norm_offset)), accumulator<T>(eps), x, rstd);
    linear<T>(space, x, head(space, w), out, scratch);
  }
  template <class T, class S>
  static std::size_t next_rows_bytes(S const& space, index_t rows, std::size_t body) {
    return detail::measured([&](arena& a) { a.mat<T>(rows, d_model), a.mat<T>(rows, d_model), a.vec<accumulator<T>>(rows); }) +
           std::max(body, linear_scratch_bytes < T, tied ? layout::row_major : layout::product > (space, rows, vocab, d_model));
  }
  static void check(in<int, dyn> token, in<int, dyn> target, sequence_shape n) {
    expects(n.sequences >= 0 && n.length >= 0, errc::bad_argument, "language_model: ", n.sequences, " sequences of ", n.length, " tokens");
    expects(token.template extent<0>() == n.tokens(), errc::shape_mismatch, "language_model: ", token.template extent<0>(),
            " tokens, the shape needs ", n.tokens());
    expects(target.template extent<0>() == n.tokens(), errc::shape_mismatch, "language_model: ", target.template extent<0>(),
            " targets, the shape needs ", n.tokens());
  }
  template <class S, class T>
  static auto head(S const& space, T* w) {
    if constexpr (tied) return embedding_parameters.template at<0>(space, w);
    else return head_parameters.template at<0>(space, detail::past(w, head_offset));
  }
  template <class S, class T>
  static void run_body(S const& space, T const* w, in<int, dyn> token, sequence_shape n, activations<T>& a, arena& scratch) {
    embedding(space, token, embedding_parameters.template at<0>(space, w), a.x);
    Body::forward(space, detail::past(w, body_offset), matrix_view<T const>(a.x), a.y, n, a.inner, scratch);
    rms_norm(space, a.y, norm_parameters.template at<0>(space, detail::past(w, norm_offset)), accumulator<T>(eps), a.normed, a.rstd);
  }
};

}  // namespace moe::inline MOE_ISA::nn
