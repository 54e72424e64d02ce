#include <examples/common/sampler.hpp>

#include <algorithm>
#include <cmath>

namespace trainer {

using moe::errc;
using moe::expects;

sampler::sampler(double temperature, double top_p) : temperature_(temperature), top_p_(top_p) {
  expects(temperature >= 0 && std::isfinite(temperature), errc::bad_argument, "sampler: temperature is ", temperature, ", needs to be at least 0");
  expects(top_p >= 0 && top_p <= 1, errc::bad_argument, "sampler: top-p is ", top_p, ", needs to be from 0 to 1");
}

int sampler::draw(moe::in<float, moe::dyn> logits, double uniform) {
  index_t const n = logits.extent<0>();
  expects(n > 0, errc::bad_argument, "sampler: no logits");
  ranked_.clear();
  for (index_t i = 0; i < n; ++i) {
    expects(!std::isnan(logits(i)), errc::bad_argument, "sampler: the logit of token ", i, " is NaN");
    ranked_.emplace_back(logits(i), static_cast<int>(i));
  }
  auto const first = [](auto const& a, auto const& b) { return a.first != b.first ? a.first > b.first : a.second < b.second; };
  auto const best = *std::min_element(ranked_.begin(), ranked_.end(), first);
  expects(std::isfinite(best.first), errc::bad_argument, "sampler: the largest logit is ", best.first);
  if (temperature_ == 0 || top_p_ == 0) return best.second;

  double total = 0;
  for (auto& [p, token] : ranked_) total += p = std::exp((p - best.first) / temperature_);
  std::sort(ranked_.begin(), ranked_.end(), first);
  double kept = 0;
  std::size_t count = 0;
  while (count < ranked_.size() && (count == 0 || kept < top_p_ * total)) kept += ranked_[count++].first;
  double rest = uniform * kept;
  for (std::size_t i = 0; i + 1 < count; ++i) {
    rest -= ranked_[i].first;
    if (rest < 0) return ranked_[i].second;
  }
  return ranked_[count - 1].second;
}

}  // namespace trainer
