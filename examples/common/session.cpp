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
  evaluation_order const order{count, n.sequences, model.group_size() > 1};
  double const start = now();
  for (index_t step = 0; step < order.steps() && !(stop && stop(step * n.sequences)); ++step) {
    for (index_t s = 0; s < n.sequences; ++s) {
      auto const [number, counts] = order.at(step, s);
      auto const own = moe::vec(target.data() + s * n.length, n.length);
      windows.fill(counts || order.apart ? first + number * every : windows.count(), moe::vec(token.data() + s * n.length, n.length), own);
      if (!counts) std::fill_n(own.data(), n.length, -1);
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

void check_batch(engine const& model, index_t batch, std::string const& from) {
  expects(batch % model.group_size() == 0, errc::bad_argument, from, " is ", batch, ", needs to be a multiple of ", model.group_size(),
          ": the model looks at as many sequences together");
}

namespace {

/// Feeds sequences of one length in pieces; returns the logits behind the last token of each.
moe::in<float, moe::dyn, moe::dyn> feed(engine& model, std::vector<std::vector<int>> const& sequences) {
  index_t const length = static_cast<index_t>(sequences.front().size());
  moe::in<float, moe::dyn, moe::dyn> logits;
  std::vector<int> piece;
  for (index_t at = 0, next; at < length; at = next) {
    next = std::min(at + model.decoded_at_once(), length);
    piece.clear();
    for (auto const& ids : sequences) piece.insert(piece.end(), ids.begin() + at, ids.begin() + next);
    logits = model.decode(moe::vec(static_cast<int const*>(piece.data()), static_cast<index_t>(piece.size())));
  }
  return logits;
}

}  // namespace

void generate(engine& model, codec const& codec, generation const& g, std::function<bool(index_t, std::string const&)> const& piece) {
  auto const n = static_cast<std::size_t>(model.decoded());
  expects(g.continuations >= 1 && g.continuations <= model.decoded(), errc::bad_argument, g.continuations, " continuations of ", n,
          " sequences that are decoded");
  std::vector<int> const prompt = codec.encode(g.prompt.empty() ? "\n" : g.prompt);
  std::vector<std::vector<int>> context(n, prompt);  // what a new start would read: nothing more where there is no limit
  index_t const longest = model.longest_context();
  bool const limited = longest < std::numeric_limits<index_t>::max();
  auto const start = [&] {
    for (auto& ids : context)
      if (limited && static_cast<index_t>(ids.size()) > longest / 2 + 1) ids.erase(ids.begin(), ids.end() - (longest / 2 + 1));
    model.start_decoding();
    return feed(model, context);
  };
  sampler draw(g.temperature, g.top_p);
  auto logits = start();
  std::vector<index_t> bytes(n);
  std::vector<int> next(n);
  auto const done = [&] { return *std::min_element(bytes.begin(), bytes.begin() + g.continuations) >= g.characters; };
  for (std::uint64_t i = 0; !done(); ++i) {
    for (std::size_t s = 0; s < n; ++s) {
      auto const usable = moe::vec(logits.row(static_cast<index_t>(s)), codec.size());  // a model may have more rows than the tokenizer has tokens
      moe::random_stream const random{g.seed, moe::random_purpose::sampling, static_cast<std::uint32_t>(s)};
      int const id = next[s] = draw.draw(usable, random.uniform(i));
      bool const wanted = static_cast<index_t>(s) < g.continuations && bytes[s] < g.characters;
      bytes[s] += static_cast<index_t>(codec.token(id).size());
      if (wanted && !piece(static_cast<index_t>(s), codec.token(id))) return;
      if (limited) context[s].push_back(id);
    }
    bool const full = limited && static_cast<index_t>(context[0].size()) > longest;
    logits = full ? start() : model.decode(moe::vec(static_cast<int const*>(next.data()), static_cast<index_t>(n)));
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
