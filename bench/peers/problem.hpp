#pragma once
// The operands of one comparison, random, and the same for all contenders; each writes a result of its own.
#include <cmath>
#include <string>
#include <vector>

#include <bench/peers/products.hpp>
#include <moe/core/buffer.hpp>
#include <moe/core/parallel.hpp>
#include <moe/core/random.hpp>

namespace bench::peers {

using moe::bf16;

enum class pass { forward, input_gradient, weight_gradient };

/// k rows per token over `experts` weights [out, in]. A dense product is one expert.
struct shape {
  index_t tokens, in, out, experts = 1, k = 2;
  bool zipf = false;
  index_t rows() const { return tokens * k; }
};

/// Rows per expert: equal up to one row, or in proportion to 1 / rank.
std::vector<index_t> offsets_of(shape const& s);

/// T: of the factors. Weight gradients are float, as training sums them; all other results are T.
template <class T>
class problem {
 public:
  explicit problem(shape const& of) : s(of), offsets(offsets_of(of)) {
    std::uint32_t step = 0;
    for (auto* m : {&x, &d_y, &w}) fill(*m, ++step);
    for (index_t e = 0; e < s.experts; ++e)  // the same weights the other way round, for peers in the forward pass
      for (index_t o = 0; o < s.out; ++o)
        for (index_t i = 0; i < s.in; ++i) at(w_turned, (e * s.in + i) * s.out + o) = at(w, (e * s.out + o) * s.in + i);
  }

  shape const s;
  std::vector<index_t> const offsets;
  index_t const weights = s.experts * s.out * s.in;
  moe::buffer x{bytes<T>(s.rows() * s.in)}, d_y{bytes<T>(s.rows() * s.out)}, w{bytes<T>(weights)}, w_turned{bytes<T>(weights)};

  /// Elements and type of the result.
  index_t result_size(pass p) const { return p == pass::forward ? s.rows() * s.out : p == pass::input_gradient ? s.rows() * s.in : weights; }
  number result_type(pass p) const { return p == pass::weight_gradient || sizeof(T) == 4 ? number::fp32 : number::bf16; }
  double flops() const { return 2.0 * static_cast<double>(offsets.back()) * static_cast<double>(s.in * s.out); }
  /// Operands once: rows, and the weights of the experts that have rows (all of them in the weight gradient, which writes zeros).
  double operand_bytes(pass p) const {
    index_t used = 0;
    for (index_t e = 0; e < s.experts; ++e) used += offsets[static_cast<std::size_t>(e + 1)] > offsets[static_cast<std::size_t>(e)];
    double const rows = static_cast<double>(s.rows() * (s.in + s.out)) * sizeof(T), matrix = static_cast<double>(s.in * s.out);
    return p == pass::weight_gradient ? rows + 4 * matrix * static_cast<double>(s.experts) : rows + sizeof(T) * matrix * static_cast<double>(used);
  }

  /// The products that a peer forms, with the factor on the right never transposed, which suits all of them best: weights are [in, out] in the forward
  /// pass and [out, in] in the input gradient. A model keeps one of the two.
  products for_peers(pass p, void* result) const {
    products list{sizeof(T) == 4 ? number::fp32 : number::bf16, result_type(p), {}};
    for (index_t e = 0; e < s.experts; ++e) {
      index_t const first = offsets[static_cast<std::size_t>(e)], m = offsets[static_cast<std::size_t>(e + 1)] - first, matrix = s.in * s.out;
      T const *const x_e = x.as<T>() + first * s.in, *const d_y_e = d_y.as<T>() + first * s.out;
      if (p == pass::forward)
        list.list.push_back(
            {false, false, m, s.out, s.in, x_e, s.in, w_turned.as<T>() + e * matrix, s.out, result_at(p, result, first * s.out), s.out});
      if (p == pass::input_gradient)
        list.list.push_back({false, false, m, s.in, s.out, d_y_e, s.out, w.as<T>() + e * matrix, s.in, result_at(p, result, first * s.in), s.in});
      if (p == pass::weight_gradient)
        list.list.push_back({true, false, s.out, s.in, m, d_y_e, s.out, x_e, s.in, result_at(p, result, e * matrix), s.in});
    }
    std::erase_if(list.list, [](product const& q) { return q.m == 0; });
    return list;
  }

 private:
  template <class U>
  static std::size_t bytes(index_t n) {
    return static_cast<std::size_t>(n) * sizeof(U);
  }
  static T& at(moe::buffer const& b, index_t i) { return b.as<T>()[i]; }
  void* result_at(pass p, void* result, index_t i) const {
    return static_cast<std::byte*>(result) + bytes_of(result_type(p)) * static_cast<std::size_t>(i);
  }
  static void fill(moe::buffer const& b, std::uint32_t step) {
    moe::random_stream const random{1, moe::random_purpose::test, step};
    auto const n = static_cast<index_t>(b.bytes() / sizeof(T));
    moe::parallel_chunks(moe::cpu{}, n, 4096, 10.0, [&](index_t, index_t begin, index_t end) {
      for (index_t i = begin; i < end; i += 4) {
        auto const words = random.words(static_cast<std::uint64_t>(i));
        for (int j = 0; j < 4 && i + j < end; ++j) at(b, i + j) = T(static_cast<float>(static_cast<std::int32_t>(words[j])) * 0x1p-31f);
      }
    });
  }
};

/// The largest difference from a product in double, over samples of the result, and the largest element sampled.
struct deviation {
  double error = 0, largest = 0;
  /// float sums, rounded once to the result's type: float errors grow with the chain, far below 1e-4 of the largest element; bf16 rounds to 2^-9.
  bool acceptable(number result) const { return error <= (result == number::fp32 ? 1e-4 : 8e-3) * largest; }
};
template <class T>
deviation deviation_of(problem<T> const& p, pass which, void const* result);

}  // namespace bench::peers
