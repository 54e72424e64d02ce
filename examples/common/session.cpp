#include <examples/common/session.hpp>

#include <algorithm>
#include <cmath>
#include <cstring>

#include <examples/common/optimizer.hpp>
#include <examples/common/progress.hpp>
#include <examples/common/sampler.hpp>
#include <examples/common/text.hpp>
#include <moe/core/random.hpp>
#include <moe/io/json.hpp>

namespace trainer {

using moe::errc;
using moe::expects;

memory_plan plan_memory(engine const& model, moe::cpu const& space, sequence_shape n, bool training, bool batches) {
  memory_plan plan;
  plan.weights = moe::aligned(static_cast<std::size_t>(model.buffer_size()) * sizeof(float));
  if (training) plan.gradients = plan.weights, plan.moments = 2 * plan.weights;
  if (batches) {
    plan.activations = moe::aligned(model.activation_bytes(n));
    plan.scratch = moe::aligned(model.scratch_bytes(space, n));
    plan.batch = 2 * moe::aligned(static_cast<std::size_t>(n.tokens()) * sizeof(int));
  }
  if (training) plan.scratch = std::max(plan.scratch, moe::aligned(optimizer::scratch_bytes(model.buffer_size())));
  plan.scratch = std::max(plan.scratch, moe::aligned(model.decode_scratch_bytes(space, decode_rows, n.length)));
  plan.decoding = moe::aligned(model.state_bytes(n.length)) + moe::aligned(static_cast<std::size_t>(decode_rows * model.vocab()) * sizeof(float));
  return plan;
}

run_memory::run_memory(engine& model, moe::cpu const& space, sequence_shape n, bool training, bool batches) {
  memory_plan const plan = plan_memory(model, space, n, training, batches);
  memory = moe::buffer(plan.total());
  moe::arena all(memory);
  weights = all.take<float>(model.buffer_size());
  if (training) {
    gradients = all.take<float>(model.buffer_size());
    first = all.take<float>(model.buffer_size());
    second = all.take<float>(model.buffer_size());
  }
  if (batches) {
    token = all.vec<int>(n.tokens()), target = all.vec<int>(n.tokens());
    model.reserve(all, n);
  }
  logits = all.mat<float>(decode_rows, model.vocab());
  decoding_bytes = moe::aligned(model.state_bytes(n.length));
  decoding = all.take<std::byte>(static_cast<index_t>(decoding_bytes));
  scratch = moe::arena(all.take<std::byte>(static_cast<index_t>(plan.scratch)), plan.scratch);
}

double evaluation::bits_per_byte() const { return nats / std::log(2.0) / static_cast<double>(std::max<index_t>(bytes, 1)); }

evaluation evaluate(engine& model, moe::cpu const& space, run_memory& memory, sequence_shape n, evaluation_windows const& windows,
                    std::vector<int> const& token_bytes, index_t first, index_t every, index_t count, std::function<bool(index_t done)> const& stop) {
  evaluation e;
  double const start = now();
  for (index_t done = 0; done < count && !(stop && stop(done)); done += n.sequences) {
    for (index_t s = 0; s < n.sequences; ++s) {
      index_t const window = done + s < count ? first + (done + s) * every : windows.count();
      windows.fill(window, moe::vec(memory.token.data() + s * n.length, n.length), moe::vec(memory.target.data() + s * n.length, n.length));
    }
    losses const l = model.loss(space, memory.weights, memory.token, memory.target, memory.scratch);
    e.nats += l.cross_entropy_sum;
    e.tokens += l.targets;
    for (index_t i = 0; i < n.tokens(); ++i)
      if (memory.target(i) >= 0) e.bytes += token_bytes[static_cast<std::size_t>(memory.target(i))];
    // The last batch may be filled up with windows of padding, which would count as load: it is left out unless it is the only one.
    if (done == 0 || done + n.sequences <= count) model.add_load(e.load);
  }
  e.seconds = now() - start;
  return e;
}

namespace {

/// Feeds tokens in pieces; returns the row of logits behind the last.
moe::in<float, moe::dyn> feed(engine& model, moe::cpu const& space, run_memory& memory, std::vector<int> const& ids) {
  index_t const n = static_cast<index_t>(ids.size());
  index_t rows = 0;
  for (index_t at = 0; at < n; at += rows) {
    rows = std::min(decode_rows, n - at);
    auto const out = moe::mat(memory.logits.data(), rows, memory.logits.extent<1>());
    model.decode(space, memory.weights, moe::vec(ids.data() + at, rows), out, memory.scratch);
  }
  return moe::vec(static_cast<float const*>(memory.logits.row(rows - 1)), memory.logits.extent<1>());
}

void restart(engine& model, run_memory& memory, index_t length) {
  std::memset(memory.decoding, 0, memory.decoding_bytes);
  moe::arena state(memory.decoding, memory.decoding_bytes);
  model.start_decoding(state, length);
}

}  // namespace

std::string generate(engine& model, moe::cpu const& space, run_memory& memory, index_t length, codec const& codec, generation const& g,
                     std::function<bool(std::string const&)> const& piece) {
  std::vector<int> context = codec.encode(g.prompt.empty() ? "\n" : g.prompt);
  auto const keep = [&](std::size_t n) { context.erase(context.begin(), context.end() - static_cast<std::ptrdiff_t>(std::min(n, context.size()))); };
  sampler draw(g.temperature, g.top_p);
  moe::random_stream const random{g.seed, moe::random_purpose::sampling, 0};
  keep(static_cast<std::size_t>(length) / 2 + 1);
  restart(model, memory, length);
  auto logits = feed(model, space, memory, context);
  std::string text;
  for (std::uint64_t i = 0; static_cast<index_t>(text.size()) < g.characters; ++i) {
    auto const usable = moe::vec(logits.data(), codec.size());  // a model may have more rows than the tokenizer has tokens
    int const id = draw.draw(usable, random.uniform(i));
    text += codec.token(id);
    if (piece && !piece(codec.token(id))) break;
    context.push_back(id);
    if (static_cast<index_t>(context.size()) <= length) {
      logits = feed(model, space, memory, {id});
    } else {
      keep(static_cast<std::size_t>(length) / 2 + 1);
      restart(model, memory, length);
      logits = feed(model, space, memory, context);
    }
  }
  return text;
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
