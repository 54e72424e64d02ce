#include <bench/peers/problem.hpp>

namespace bench::peers {

std::vector<index_t> offsets_of(shape const& s) {
  double total = 0, sum = 0;
  for (index_t e = 0; e < s.experts; ++e) total += s.zipf ? 1.0 / static_cast<double>(e + 1) : 1.0;
  std::vector<index_t> offsets{0};
  for (index_t e = 0; e < s.experts; ++e) {
    sum += s.zipf ? 1.0 / static_cast<double>(e + 1) : 1.0;
    offsets.push_back(static_cast<index_t>(std::llround(static_cast<double>(s.rows()) * sum / total)));
  }
  return offsets;
}

namespace {

/// Element i of the result, in double.
template <class T>
double element(problem<T> const& p, pass which, index_t i) {
  shape const& s = p.s;
  auto const value = [](moe::buffer const& b, index_t at) { return static_cast<double>(static_cast<float>(b.as<T>()[at])); };
  index_t const columns = which == pass::forward ? s.out : s.in, row = i / columns, column = i % columns;
  double sum = 0;
  if (which == pass::weight_gradient) {
    auto const e = static_cast<std::size_t>(row / s.out);
    for (index_t r = p.offsets[e]; r < p.offsets[e + 1]; ++r) sum += value(p.d_y, r * s.out + row % s.out) * value(p.x, r * s.in + column);
    return sum;
  }
  index_t const e = std::upper_bound(p.offsets.begin(), p.offsets.end(), row) - p.offsets.begin() - 1;
  index_t const depth = which == pass::forward ? s.in : s.out;
  for (index_t j = 0; j < depth; ++j)
    sum += which == pass::forward ? value(p.x, row * s.in + j) * value(p.w, (e * s.out + column) * s.in + j)
                                  : value(p.d_y, row * s.out + j) * value(p.w, (e * s.out + j) * s.in + column);
  return sum;
}

}  // namespace

template <class T>
deviation deviation_of(problem<T> const& p, pass which, void const* result) {
  deviation d;
  moe::random_stream const random{2, moe::random_purpose::test, 0};
  auto const size = static_cast<std::uint64_t>(p.result_size(which));
  for (std::uint64_t sample = 0; sample < 4000; ++sample) {
    auto const i = static_cast<index_t>(random.below(sample, size));
    double const want = element(p, which, i);
    double const got =
        p.result_type(which) == number::fp32 ? static_cast<float const*>(result)[i] : static_cast<float>(static_cast<bf16 const*>(result)[i]);
    double const error = std::abs(got - want);
    d.error = std::isnan(d.error) || error <= d.error ? d.error : error;  // NaN stays
    d.largest = std::max(d.largest, std::abs(want));
  }
  return d;
}
template deviation deviation_of(problem<float> const&, pass, void const*);
template deviation deviation_of(problem<bf16> const&, pass, void const*);

}  // namespace bench::peers
