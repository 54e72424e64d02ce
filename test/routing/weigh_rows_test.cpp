#include <moe/routing/weigh_rows.hpp>

#include "test/support.hpp"

namespace {
using moe::bf16;
using moe::index_t;

/// A permutation of the slots as a plan would have it, rows with a slot first, -1 behind.
test::array<int> some_slots(index_t slots, index_t kept) {
  test::array<int> slot(slots);
  for (index_t r = 0; r < kept; ++r) slot(r) = static_cast<int>((7 * r + 3) % slots);
  return slot;
}

template <class T>
struct operands {
  test::array<T> weight, h, d_h, d_weight;
  test::array<int> slot;
  operands(index_t tokens, index_t k, index_t kept, index_t width, index_t stride = 0, index_t offset = 0)
      : weight(tokens, k, k + offset), h(tokens * k, width, stride, offset), d_h(tokens * k, width, stride, offset), d_weight(tokens, k, k + offset),
        slot(some_slots(tokens * k, kept)) {}
  void run(test::space const& s) {
    moe::weigh_rows<T>(s, slot.vec(), weight.mat(), h.mat(), d_h.mat(), d_weight.mat());
    s.wait();
  }
};

template <class T>
T product(T a, T b) {
  return T(static_cast<moe::accumulator<T>>(a) * static_cast<moe::accumulator<T>>(b));
}
}  // namespace

TEST_CASE_TEMPLATE("weigh_rows: integers give the sums of the definition, rows without a slot stay, choices without a row are 0", T, float, double,
                   bf16) {
  test::for_each_execution([](test::space const& s, int i) {
    for (index_t width : {1, 3, 8, 31, 64, 257})
      for (index_t kept : {0, 1, 10}) {  // 10 of 10, of 15 with k = 3: 7 and 15 have no common factor, nor have 7 and 10
        index_t const tokens = 5, k = kept == 10 ? 2 + i % 2 : 2;
        operands<T> o(tokens, k, kept, width, width + i % 3 * 4, i % 2);
        o.weight.integers(1), o.h.integers(2, 2), o.d_h.integers(3, 2);
        auto const h = o.h, d_h = o.d_h;
        o.run(s);
        std::vector<double> expected(std::size_t(tokens * k), 0.0);
        for (index_t r = 0; r < tokens * k; ++r) {
          double sum = 0;
          for (index_t c = 0; c < width; ++c) {
            index_t const at = o.slot(r);
            T const w = at < 0 ? T(1.0f) : o.weight(at / k, at % k);
            sum += double(h(r, c)) * double(d_h(r, c));
            CHECK(o.h(r, c) == product(h(r, c), w));
            CHECK(o.d_h(r, c) == product(d_h(r, c), w));
          }
          if (o.slot(r) >= 0) expected[std::size_t(o.slot(r))] = sum;
        }
        for (index_t at = 0; at < tokens * k; ++at) CHECK(o.d_weight(at / k, at % k) == T(expected[std::size_t(at)]));
      }
  });
}

TEST_CASE_TEMPLATE("weigh_rows: within rounding of the sum in double; the same bits for every execution, alignment and company", T, float, double,
                   bf16) {
  index_t const tokens = test::on_cuda ? 9 : 100, k = 3, width = 203, slots = tokens * k;
  std::vector<T> first_h, first_d_weight;
  test::for_each_execution([&](test::space const& s, int i) {
    operands<T> o(tokens, k, slots - 4, width, i % 2 == 0 ? 208 : 211, i % 3);
    o.weight.normal(4), o.h.normal(5), o.d_h.normal(6);
    auto const h = o.h, d_h = o.d_h;
    o.run(s);
    if (i == 0) first_h = o.h.values(), first_d_weight = o.d_weight.values();
    CHECK(test::same_bits(first_h, o.h.values()));
    CHECK(test::same_bits(first_d_weight, o.d_weight.values()));
    for (index_t r = 0; i == 0 && r < slots - 4; ++r) {
      double sum = 0, size = 0;
      for (index_t c = 0; c < width; ++c) sum += double(h(r, c)) * double(d_h(r, c)), size += std::abs(double(h(r, c)) * double(d_h(r, c)));
      double const unit = std::is_same_v<T, double> ? 1e-15 : std::is_same_v<T, float> ? 1e-6 : 1.0 / 512;
      CHECK(std::abs(double(o.d_weight(o.slot(r) / k, o.slot(r) % k)) - sum) <= unit * size);
    }
  });
  operands<T> o(tokens, k, slots - 4, width), one(tokens, k, 1, width);
  o.h.normal(5), o.d_h.normal(6), one.weight.normal(4);
  one.slot(0) = o.slot(7);
  std::copy_n(&o.h(7), width, one.h.data());
  std::copy_n(&o.d_h(7), width, one.d_h.data());
  for (index_t r = 1; r < slots; ++r) one.slot(r) = -1;
  one.run(test::on());
  CHECK(std::memcmp(&one.d_weight(o.slot(7) / k, o.slot(7) % k), &first_d_weight[std::size_t(o.slot(7))], sizeof(T)) == 0);
  CHECK(std::memcmp(one.h.data(), &first_h[std::size_t(7 * width)], width * sizeof(T)) == 0);
}

TEST_CASE("weigh_rows: d_weight is the derivative of what is combined") {
  // loss = sum over rows of weight[slot] <u, h[r]>: its gradient with respect to h, the weight left out, is u.
  operands<double> o(4, 2, 6, 9);
  o.h.normal(1), o.d_h.normal(2), o.weight.normal(3);
  auto const h = o.h, u = o.d_h;
  o.run(test::on());
  auto const loss = [&] {
    double sum = 0;
    for (index_t r = 0; r < 6; ++r)
      for (index_t c = 0; c < 9; ++c) sum += o.weight(o.slot(r) / 2, o.slot(r) % 2) * u(r, c) * h(r, c);
    return sum;
  };
  test::check_gradient("weigh_rows weight", loss, o.weight.data(), o.weight.size(), o.d_weight.values());
}

TEST_CASE_TEMPLATE("weigh_rows: NaN is seen in its row, and not in one without a slot", T, float, double, bf16) {
  operands<T> o(2, 2, 2, 5);
  o.weight.fill(T(0.0f)), o.h.fill(T(1.0f)), o.d_h.fill(T(1.0f));
  o.h(1, 4) = test::quiet_nan<T>(), o.h(2, 0) = test::quiet_nan<T>();
  auto const seen = o.slot(1);
  o.run(test::on());
  CHECK(std::isnan(double(o.h(1, 4))));  // also below a weight of 0
  for (index_t at = 0; at < 4; ++at)
    CHECK((at == seen ? std::isnan(double(o.d_weight(at / 2, at % 2))) : o.d_weight(at / 2, at % 2) == T(at == o.slot(0) ? 5.0f : 0.0f)));
}

TEST_CASE("weigh_rows: no rows, no tokens, no columns") {
  operands<float> o(3, 2, 6, 4), none(0, 2, 0, 4), thin(3, 2, 6, 0);
  moe::weigh_rows<float>(test::on(), o.slot.vec(), o.weight.mat(), moe::rows_of(o.h.mat(), 0, 0), moe::rows_of(o.d_h.mat(), 0, 0), o.d_weight.mat());
  for (float x : o.d_weight.values()) CHECK(x == 0.0f);
  none.run(test::on());
  thin.weight.fill(1);
  thin.run(test::on());
  for (float x : thin.d_weight.values()) CHECK(x == 0.0f);
}

TEST_CASE("weigh_rows: wrong arguments") {
  using test::contains;
  using test::error_of;
  operands<float> o(3, 2, 6, 4), other(3, 3, 6, 4);
  auto const call = [&](auto slot, auto d_h, auto d_weight) {
    return error_of([&] { moe::weigh_rows<float>(test::on(), slot, o.weight.mat(), o.h.mat(), d_h, d_weight); });
  };
  auto const few = moe::vec(o.slot.data(), 5);
  CHECK(contains(call(few, o.d_h.mat(), o.d_weight.mat()), "weigh_rows: slot has 5 elements, h has 6 rows"));
  CHECK(contains(call(o.slot.vec(), other.d_h.mat(), o.d_weight.mat()), "weigh_rows: d_h is [9, 4], needs [6, 4]"));
  CHECK(contains(call(o.slot.vec(), o.d_h.mat(), other.d_weight.mat()), "weigh_rows: d_weight is [3, 3], needs [3, 2]"));
  if constexpr (test::on_cuda) return;  // no look at device memory
  for (int wrong : {-2, 6}) {
    o.slot(3) = wrong;
    CHECK(contains(call(o.slot.vec(), o.d_h.mat(), o.d_weight.mat()), "weigh_rows: slot[3] = " + std::to_string(wrong) + ", needs to be in [-1, 6)"));
  }
}

TEST_CASE("weigh_rows: float weights beside rows of bf16 are not rounded, nor is their gradient") {
  test::array<bf16> h(2, 40), d_h(2, 40), ones(2, 40);
  test::array<float> weight(1, 2), d_weight(1, 2);
  h.normal(1), d_h.fill(bf16(1.0f)), ones.fill(bf16(1.0f));
  weight(0, 0) = 1.001f, weight(0, 1) = 0.3337f;  // no numbers of bf16
  auto const before = h;
  test::array<int> slot(2);
  slot(0) = 1, slot(1) = 0;
  moe::weigh_rows<bf16>(test::on(), slot.vec(), weight.mat(), h.mat(), d_h.mat(), d_weight.mat());
  for (int r = 0; r < 2; ++r) {
    double sum = 0;
    for (int c = 0; c < 40; ++c) {
      sum += double(before(r, c));
      CHECK(h(r, c) == bf16(weight(0, slot(r)) * float(before(r, c))));
      CHECK(d_h(r, c) == bf16(weight(0, slot(r))));
    }
    CHECK(d_weight(0, slot(r)) == doctest::Approx(sum).epsilon(1e-5));
    CHECK(float(bf16(d_weight(0, slot(r)))) != d_weight(0, slot(r)));
  }
}
