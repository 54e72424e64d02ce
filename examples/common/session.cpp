#include <examples/common/session.hpp>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include <examples/common/optimizer.hpp>
#include <examples/common/progress.hpp>
#include <examples/common/sampler.hpp>
#include <examples/common/text.hpp>
#include <moe/core/random.hpp>
#include <moe/io/json.hpp>

namespace trainer {

using moe::errc;
using moe::expects;

double evaluation::bits_per_byte() const { return nats / std::log(2.0) / static_cast<double>(std::max<index_t>(bytes, 1)); }

evaluation evaluate(engine& model, sequence_shape n, evaluation_windows const& windows, std::vector<int> const& token_bytes, index_t first,
                    index_t every, index_t count, std::function<bool(index_t done)> const& stop) {
  evaluation e;
  auto const token = model.token(), target = model.target();
  double const start = now();
  // Windows that follow each other are of different groups: the first input of one is the last target of the other.
  index_t const group = model.group_size(), groups = (count + n.sequences - 1) / n.sequences * (n.sequences / group);
  for (index_t done = 0; done < count && !(stop && stop(done)); done += n.sequences) {
    for (index_t s = 0; s < n.sequences; ++s) {
      index_t const nth = (done + s) / group + (done + s) % group * groups, window = nth < count ? first + nth * every : windows.count();
      windows.fill(window, moe::vec(token.data() + s * n.length, n.length), moe::vec(target.data() + s * n.length, n.length));
    }
    losses const l = model.loss();
    e.nats += l.cross_entropy_sum;
    e.tokens += l.targets;
    for (index_t i = 0; i < n.tokens(); ++i)
      if (target(i) >= 0) e.bytes += token_bytes[static_cast<std::size_t>(target(i))];
    model.add_load(e.load);
  }
  e.seconds = now() - start;
  return e;
}

namespace {

/// Feeds tokens in pieces; returns the row of logits behind the last.
moe::in<float, moe::dyn> feed(engine& model, std::vector<int> const& ids) {
  index_t const n = static_cast<index_t>(ids.size());
  moe::in<float, moe::dyn> logits;
  for (index_t at = 0; at < n; at += decode_rows) logits = model.decode(moe::vec(ids.data() + at, std::min(decode_rows, n - at)));
  return logits;
}

}  // namespace

void generate(engine& model, codec const& codec, generation const& g, std::function<bool(std::string const&)> const& piece) {
  std::vector<int> context = codec.encode(g.prompt.empty() ? "\n" : g.prompt);  // what a new start would read: nothing where there is no limit
  index_t const longest = model.longest_context();
  bool const limited = longest < std::numeric_limits<index_t>::max();
  auto const start = [&] {
    if (limited && static_cast<index_t>(context.size()) > longest / 2 + 1) context.erase(context.begin(), context.end() - (longest / 2 + 1));
    model.start_decoding();
    return feed(model, context);
  };
  sampler draw(g.temperature, g.top_p);
  moe::random_stream const random{g.seed, moe::random_purpose::sampling, 0};
  auto logits = start();
  index_t bytes = 0;
  for (std::uint64_t i = 0; bytes < g.characters; ++i) {
    auto const usable = moe::vec(logits.data(), codec.size());  // a model may have more rows than the tokenizer has tokens
    int const id = draw.draw(usable, random.uniform(i));
    bytes += static_cast<index_t>(codec.token(id).size());
    if (!piece(codec.token(id))) break;
    if (limited) context.push_back(id);
    bool const full = limited && static_cast<index_t>(context.size()) > longest;
    logits = full ? start() : model.decode(moe::vec(&id, 1));
  }
}

std::string printable(std::string_view text) {
  std::string s;
  for (std::size_t at = 0; at < text.size();) {
    std::size_t const begin = at;
    std::int32_t const code = moe::next_code_point(text, at);
    if (code < 0) ++at, s += '?';
    else if (code != '\n' && (code < 0x20 || (code >= 0x7f && code < 0xa0))) s += '?';
    else s.append(text.substr(begin, at - begin));
  }
  return s;
}

std::size_t complete_characters(std::string_view text) {
  for (std::size_t back = 1; back <= 3 && back <= text.size(); ++back) {
    auto const c = static_cast<unsigned char>(text[text.size() - back]);
    if (c < 0x80) break;
    if (c >= 0xc0) return back < (c >= 0xf0 ? 4u : c >= 0xe0 ? 3u : 2u) ? text.size() - back : text.size();
  }
  return text.size();
}

std::string first_non_finite(std::vector<parameter_info> const& parameters, float const* values) {
  for (auto const& p : parameters) {
    index_t bad = 0;
    for (index_t i = p.offset; i < p.offset + p.size; ++i) bad += !std::isfinite(values[i]);
    if (bad > 0) return p.name + " (" + std::to_string(bad) + " of " + std::to_string(p.elements()) + " elements)";
  }
  return {};
}

}  // namespace trainer
