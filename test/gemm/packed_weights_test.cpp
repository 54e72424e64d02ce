#include <moe/gemm/packed_weights.hpp>

#include <test/guarded.hpp>
#include <test/support.hpp>

using moe::bf16;
using moe::index_t;
using moe::packed_weights;
using moe::panel_layout;
using test::array;
using test::contains;
using test::error_of;
using test::same_bits;

namespace {

struct extents {
  index_t count, out, in;
};
extents const shapes[] = {{1, 1, 1}, {1, 32, 2}, {2, 31, 3}, {3, 33, 4}, {1, 64, 17}, {2, 65, 32}, {1, 5, 63}, {2, 96, 1}, {4, 7, 8}, {1, 100, 66}};

/// For every element of a panel in the order of memory, which output and input of the panel it is: the words of panel_layout, written out.
template <class T>
std::vector<std::pair<index_t, index_t>> order_of_panel(index_t in) {
  std::vector<std::pair<index_t, index_t>> order;
  index_t const together = std::is_same_v<T, bf16> ? 2 : 1, padded = in + (in % 2 == 1 ? 1 : 0);
  for (index_t first = 0; first < padded; first += together)
    for (index_t o = 0; o < 32; ++o)
      for (index_t i = first; i < first + together; ++i) order.push_back({o, i});
  return order;
}

template <class T>
moe::tensor<T, moe::dyn, moe::dyn, moe::dyn> three(array<T>& w, extents e) {
  return moe::tensor<T, moe::dyn, moe::dyn, moe::dyn>(w.data(), e.count, e.out, e.in).with_row_stride(w.mat().row_stride());
}

template <class T>
array<T> room_for(extents e) {
  return array<T>(e.count * panel_layout<T>::size(e.out, e.in));
}
template <class T>
packed_weights<T> view(array<T>& memory, extents e) {
  return {memory.data(), e.count, e.out, e.in};
}

/// What memory must hold after packing: panels in order, 0 where no element is.
template <class T, class S>
std::vector<T> packed_by_hand(array<S> const& plain, extents e) {
  std::vector<T> all;
  for (index_t w = 0; w < e.count; ++w)
    for (index_t first = 0; first < e.out; first += 32)
      for (auto [o, i] : order_of_panel<T>(e.in))
        all.push_back(first + o < e.out && i < e.in ? static_cast<T>(plain(w * e.out + first + o, i)) : T(0.0f));
  return all;
}

template <class T, class S>
void check_packing(extents e, index_t stride, index_t offset) {
  array<S> plain(e.count * e.out, e.in, e.in + stride, offset), back(e.count * e.out, e.in, e.in + stride, offset);
  plain.normal(7);
  auto const expected = packed_by_hand<T>(plain, e);
  test::for_each_execution([&](moe::cpu const& space, int) {
    array<T> memory = room_for<T>(e);  // NaN
    auto const packed = view(memory, e);
    moe::pack_weights(space, three(plain, e), packed);
    REQUIRE(same_bits(memory.values(), expected));
    back.poison();
    moe::unpack_weights(space, packed_weights<T const>(packed), three(back, e));
    for (index_t r = 0; r < e.count * e.out; ++r)
      for (index_t i = 0; i < e.in; ++i) REQUIRE(same_bits<S>({back(r, i)}, {static_cast<S>(static_cast<T>(plain(r, i)))}));
  });
}

}  // namespace

TEST_CASE_TEMPLATE("packed_weights: every element has a place of its own, in the order that is documented; the rest is padding", T, float, double,
                   bf16) {
  for (extents const e : shapes) {
    index_t const size = panel_layout<T>::size(e.out, e.in);
    CHECK(size == (e.out + 31) / 32 * 32 * (e.in + e.in % 2));
    CHECK(moe::packed_weights_bytes<T>(e.count, e.out, e.in) == static_cast<std::size_t>(e.count * size) * sizeof(T));
    auto const order = order_of_panel<T>(e.in);
    std::vector<int> used(static_cast<std::size_t>(size));
    for (index_t o = 0; o < e.out; ++o)
      for (index_t i = 0; i < e.in; ++i) {
        index_t const at = panel_layout<T>::offset(e.out, e.in, o, i);
        REQUIRE((at >= 0 && at < size));
        REQUIRE(used[static_cast<std::size_t>(at)]++ == 0);
        index_t const panel = static_cast<index_t>(order.size());
        REQUIRE(at / panel == o / 32);
        REQUIRE(order[static_cast<std::size_t>(at % panel)] == std::pair(o % 32, i));
      }
    array<T> memory = room_for<T>(e);
    auto const w = view(memory, e);
    CHECK(w.panel_size() == static_cast<index_t>(order.size()));
    CHECK(w.matrix_size() == size);
    CHECK((w.template extent<0>() == e.count && w.template extent<1>() == e.out && w.template extent<2>() == e.in));
    CHECK(&w(e.count - 1, e.out - 1, e.in - 1) == memory.data() + (e.count - 1) * size + panel_layout<T>::offset(e.out, e.in, e.out - 1, e.in - 1));
  }
  CHECK(panel_layout<T>::size(0, 5) == 0);
  CHECK(panel_layout<T>::size(5, 0) == 0);
  CHECK(moe::packed_weights_bytes<T>(0, 5, 5) == 0);
}

TEST_CASE_TEMPLATE("pack_weights: into dirty memory, padding 0, and back bit for bit; rows may be strided", T, float, double, bf16) {
  for (extents const e : shapes) {
    check_packing<T, T>(e, 0, 0);
    check_packing<T, T>(e, 3, 1);
  }
  check_packing<bf16, float>({2, 33, 7}, 1, 1);
  check_packing<float, bf16>({2, 33, 7}, 1, 1);
  check_packing<float, double>({2, 33, 7}, 0, 0);
}

TEST_CASE_TEMPLATE("pack_weights: NaN, infinity and the sign of zero arrive", T, float, double, bf16) {
  extents const e{1, 3, 3};
  array<T> plain(3, 3), memory = room_for<T>(e), back(3, 3);
  plain.integers(1);
  plain(0, 1) = test::quiet_nan<T>(), plain(1, 2) = T(-0.0f), plain(2, 2) = T(-std::numeric_limits<float>::infinity());
  moe::pack_weights(test::on(), three(plain, e), view(memory, e));
  moe::unpack_weights(test::on(), view(memory, e), three(back, e));
  CHECK(same_bits(back.values(), plain.values()));
}

TEST_CASE("pack_weights: nothing to pack writes nothing") {
  for (extents const e : {extents{0, 5, 5}, {3, 0, 5}, {3, 5, 0}}) {
    array<float> plain(e.count * e.out, e.in), memory = room_for<float>(e);
    moe::pack_weights(test::on(), three(plain, e), view(memory, e));
    moe::unpack_weights(test::on(), view(memory, e), three(plain, e));
  }
  CHECK(packed_weights<float>().count() == 0);
  CHECK_NOTHROW(packed_weights<bf16>(nullptr, 3, 0, 5));
}

TEST_CASE_TEMPLATE("pack_weights: reads and writes nothing before the first and behind the last element", T, float, double, bf16) {
  for (auto where : {test::guard::after, test::guard::before})
    for (extents const e : shapes) {
      index_t const size = panel_layout<T>::size(e.out, e.in);
      test::guarded<T> plain(e.count * e.out * e.in, where), memory(e.count * size, where);
      for (index_t i = 0; i < e.count * e.out * e.in; ++i) plain[i] = T(static_cast<float>(i % 7 - 3));
      moe::tensor<T, moe::dyn, moe::dyn, moe::dyn> const w(plain.data(), e.count, e.out, e.in);
      packed_weights<T> const packed(memory.data(), e.count, e.out, e.in);
      moe::pack_weights(test::on(), w, packed);
      moe::unpack_weights(test::on(), packed, w);
    }
}

TEST_CASE_TEMPLATE("packed_weights: parts of the outputs or the inputs are the same elements", T, float, double, bf16) {
  extents const e{2, 100, 71};
  array<T> memory = room_for<T>(e);
  auto const w = view(memory, e);
  auto const upper = w.outputs(32, 99), right = w.inputs(64, 70), both = w.outputs(64, 100).inputs(32, 71);
  CHECK((upper.out() == 67 && upper.in() == 71 && right.out() == 100 && right.in() == 6 && both.out() == 36 && both.in() == 39));
  CHECK((upper.matrix_size() == w.matrix_size() && right.panel_size() == w.panel_size()));
  for (index_t c = 0; c < 2; ++c) {
    for (index_t i : {0, 1, 70}) CHECK(&upper(c, 66, i) == &w(c, 98, i));
    for (index_t i : {0, 5}) CHECK(&right(c, 99, i) == &w(c, 99, 64 + i));
    for (index_t i : {0, 1, 38}) CHECK(&both(c, 35, i) == &w(c, 99, 32 + i));
  }
  CHECK(w.outputs(96, 96).out() == 0);
  CHECK(error_of([&] { w.outputs(31, 40); }) == "packed_weights: outputs [31, 40) of 100, the first must be a multiple of 32");
  CHECK(contains(error_of([&] { w.outputs(0, 101); }), "outputs [0, 101) of 100"));
  CHECK(contains(error_of([&] { w.outputs(-32, 4); }), "outputs [-32, 4)"));
  CHECK(contains(error_of([&] { w.inputs(64, 32); }), "inputs [64, 32)"));
  CHECK(contains(error_of([&] { w.inputs(2, 32); }), "inputs [2, 32)"));
}

TEST_CASE_TEMPLATE("pack_weights: into a part, nothing beside it is written", T, float, double, bf16) {
  extents const e{2, 70, 70};
  array<T> memory = room_for<T>(e), low(2 * 70, 32), right(2 * 70, 6);
  memory.fill(T(5.0f)), low.normal(1), right.normal(2);
  auto const w = view(memory, e);
  moe::pack_weights(test::on(), three(right, {2, 70, 6}), w.inputs(64, 70));
  moe::pack_weights(test::on(), three(low, {2, 32, 32}), w.outputs(32, 64).inputs(32, 64));
  for (index_t c = 0; c < 2; ++c)
    for (index_t o = 0; o < 70; ++o)
      for (index_t i = 0; i < 70; ++i) {
        bool const in_low = o >= 32 && o < 64 && i >= 32 && i < 64;
        T const expected = i >= 64 ? right(c * 70 + o, i - 64) : in_low ? low(c * 32 + o - 32, i - 32) : T(5.0f);
        REQUIRE(same_bits<T>({w(c, o, i)}, {expected}));
      }
}

TEST_CASE("packed_weights: wrong arguments are named, and nothing is written") {
  float x = 0;
  for (extents const e : {extents{-1, 2, 2}, {1, -2, 2}, {1, 2, -2}, {-1, -2, 2}}) {
    CHECK(test::code_of([&] { packed_weights<float>(&x, e.count, e.out, e.in); }) == moe::errc::bad_argument);
    CHECK(test::code_of([&] { packed_weights<bf16>(nullptr, e.count, e.out, e.in); }) == moe::errc::bad_argument);
  }
  CHECK(error_of([] { packed_weights<float>(nullptr, 2, 3, 4); }) == "packed_weights: no data for 2 weights [3, 4]");
  CHECK(test::code_of([] { packed_weights<float>(nullptr, 2, 3, 4); }) == moe::errc::bad_argument);

  extents const e{2, 3, 4};
  array<float> plain(6, 4), memory = room_for<float>(e);
  plain.normal(1);
  for (extents const other : {extents{1, 3, 4}, {2, 2, 4}, {2, 3, 3}}) {
    CHECK(test::code_of([&] { moe::pack_weights(test::on(), three(plain, other), view(memory, e)); }) == moe::errc::shape_mismatch);
    CHECK(test::code_of([&] { moe::unpack_weights(test::on(), view(memory, e), three(plain, other)); }) == moe::errc::shape_mismatch);
  }
  CHECK(error_of([&] {
          moe::pack_weights(test::on(), three(plain, {2, 2, 4}), view(memory, e));
        }) == "pack_weights: plain is [2, 2, 4], packed is [2, 3, 4]");
  for (float v : memory.values()) CHECK(std::isnan(v));
}
