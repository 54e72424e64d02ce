#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

#include <examples/common/optimizer.hpp>
#include <examples/common/progress.hpp>
#include <examples/common/session.hpp>
#include <examples/common/text.hpp>
#include <moe/routing/load.hpp>

namespace trainer {
namespace {

/// "  name                 12,345" with the number flush right.
std::string row(std::string const& name, std::string const& value, std::string const& note = "") {
  std::string s = "  " + name;
  s.resize(std::max<std::size_t>(24, s.size()), ' ');
  s += std::string(value.size() < 16 ? 16 - value.size() : 0, ' ') + value;
  return note.empty() ? s : s + "  " + note;
}

/// Says what the learning rate of a group is where it differs from --lr.
auto peak_rates(run_config const& c, preset const& p) {
  run_config first = c;
  first.steps = 1, first.warmup = 0;  // a run without warm-up starts at the peak, and how long it is may not be known yet
  return [rates = group_rates(first, p), lr = c.lr](parameter_group g) {
    double const peak = rates.at(g, 0).lr;
    return peak == lr ? std::string() : "learning rate " + shortest(peak) + " at the peak, where --lr is " + shortest(lr);
  };
}

}  // namespace

void dry_run(engine const& model, preset const& p, run_config const& c) {
  console out(stdout);
  auto const parameters = model.parameters();
  std::array<index_t, moe::parameter_group_count> of_group{};
  index_t total = 0;
  for (auto const& x : parameters) of_group[moe::index_of(x.group)] += x.elements(), total += x.elements();
  out.print("preset " + std::string(p.name) + ": " + p.what);
  out.print("parameters");
  auto const peak = peak_rates(c, p);
  for (auto const g : moe::all_parameter_groups)
    if (index_t const n = of_group[moe::index_of(g)]; n > 0) out.print(row(std::string(moe::name_of(g)), thousands(n), peak(g)));
  out.print(row("all", thousands(total)));
  out.print(row("active per token", thousands(model.active_parameters())));
  memory_plan const m = model.plan({c.batch, c.length}, purpose::training);
  auto const bytes = [](std::size_t n) { return bytes_text(static_cast<double>(n)); };
  out.print("memory of training, allocated once before the first step");
  out.print(row("weights", bytes(m.weights)));
  if (m.rounded > 0) out.print(row("weights in bf16", bytes(m.rounded), "the copy that products read"));
  out.print(row("gradients", bytes(m.gradients)));
  out.print(row("moments", bytes(m.moments), "two of AdamW"));
  out.print(row("activations", bytes(m.activations), std::to_string(c.batch) + " sequences of " + std::to_string(c.length) + " tokens"));
  out.print(row("scratch", bytes(m.scratch), model.device()));
  out.print(row("decoding", bytes(m.decoding), "what is kept of earlier tokens, and logits"));
  out.print(row("batch", bytes(m.batch)));
  out.print(row("all", bytes(m.total())));
  out.print("work of training");
  double const flops = model.flops_per_token(c.length);
  out.print(row("FLOPs per token", thousands(std::llround(flops)), "forward and backward"));
  out.print(row("tokens per step", thousands(c.tokens_per_step())));
  out.print(row("GFLOPs per step", thousands(std::llround(flops * static_cast<double>(c.tokens_per_step()) * 1e-9))));
}

std::string load_table(expert_load const& load) {
  std::string text = "layer,expert,tokens\n";
  for (std::size_t l = 0; l < load.counts.size(); ++l)
    for (std::size_t e = 0; e < load.counts[l].size(); ++e)
      text += std::to_string(l) + "," + std::to_string(e) + "," + std::to_string(load.counts[l][e]) + "\n";
  return text;
}

std::vector<std::string> load_report(expert_load const& load) {
  static constexpr char const shades[] = " .:-=+*#%@";
  std::vector<std::string> lines;
  for (std::size_t l = 0; l < load.counts.size(); ++l) {
    auto const& counts = load.counts[l];
    moe::load_summary const s = moe::summary_of(moe::vec(counts.data(), static_cast<index_t>(counts.size())));
    if (s.total == 0) continue;
    double const mean = static_cast<double>(s.total) / static_cast<double>(counts.size());
    std::string bar;
    for (index_t n : counts) bar += shades[std::clamp(static_cast<int>(std::lround(4.0 * static_cast<double>(n) / mean)), n > 0 ? 1 : 0, 9)];
    lines.push_back("layer " + std::to_string(l) + ": load of its " + std::to_string(counts.size()) + " experts [" + bar + "] " +
                    fixed(static_cast<double>(s.smallest) / mean, 2) + ".." + fixed(static_cast<double>(s.largest) / mean, 2) +
                    " of the mean (= is the mean), maximal violation " + fixed(s.max_violation, 2) + ", dead " + std::to_string(s.dead));
  }
  if (!lines.empty()) lines.push_back("dropped tokens: " + thousands(load.dropped));
  return lines;
}

}  // namespace trainer
