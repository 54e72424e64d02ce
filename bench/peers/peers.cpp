// Products of this library and of the peers that package managers provide, in one process, in turn: see bench/README.md.
#include <cstdlib>
#include <cstring>
#include <fstream>

#include <bench/limits.hpp>
#include <bench/peers/cases.hpp>
#include <bench/peers/json.hpp>
#include <bench/peers/ours.hpp>
#include <bench/peers/sampling.hpp>
#include <moe/version.hpp>

namespace bench::peers {
namespace {

constexpr char const* usage =
    "usage: bench.peers [--group dense|forward|backward|odd|skew|scaling]... [--type fp32|bf16] [--tokens n] [--quick|--all]\n"
    "                   [--pairs n] [--threads n] [--json file]\n";

struct options {
  std::vector<std::string> groups;
  std::string type, json_file;
  index_t tokens = 0;
  amount much = amount::usual;
  sampling how{.threads = moe::thread_count(moe::cpu{})};

  bool runs(std::string_view group) const { return groups.empty() || std::find(groups.begin(), groups.end(), group) != groups.end(); }
  bool runs(shape const& s) const { return tokens == 0 || tokens == s.tokens; }
};

options read(int count, char** argument) {
  options o;
  for (int i = 1; i < count; ++i) {
    std::string_view const a = argument[i];
    char const* const value = i + 1 < count ? argument[i + 1] : "";
    if (a == "--quick") o.much = amount::quick;
    else if (a == "--all") o.much = amount::all;
    else if (a == "--group") o.groups.emplace_back(value), ++i;
    else if (a == "--type") o.type = value, ++i;
    else if (a == "--tokens") o.tokens = std::atoll(value), ++i;
    else if (a == "--pairs") o.how.pairs = std::max(1, std::atoi(value)), ++i;
    else if (a == "--threads") o.how.threads = std::max(1, std::atoi(value)), ++i;
    else if (a == "--json") o.json_file = value, ++i;
    else std::exit((std::fputs(usage, stderr), 2));
  }
  return o;
}

char const* name_of(pass p) { return p == pass::forward ? "forward" : p == pass::input_gradient ? "input gradient" : "weight gradient"; }
json json_of(shape const& s) {
  auto const n = [](index_t i) { return static_cast<double>(i); };
  return json().set("tokens", n(s.tokens), "k", n(s.k), "in", n(s.in), "out", n(s.out), "experts", n(s.experts), "rows",
                    s.zipf ? "zipf" : "balanced");
}
/// A comparison as members of j: seconds per call of both, and [median, quartile, quartile] of their ratio.
json& add(json& j, comparison const& c, double peak) {
  return j.set("ours", c.a.median, "other", c.b.median, "ratio", std::initializer_list<double>{c.ratio.median, c.ratio.low, c.ratio.high}, "probe",
               c.probe, "peak", peak, "pairs", c.pairs, "retaken", c.retaken, "low", c.low);
}
std::string text_of(shape const& s) {
  char text[96];
  if (s.experts == 1) std::snprintf(text, sizeof text, "%lld x %lld x %lld", (long long)s.rows(), (long long)s.out, (long long)s.in);
  else
    std::snprintf(text, sizeof text, "T=%lld %lld->%lld E=%lld k=%lld %s", (long long)s.tokens, (long long)s.in, (long long)s.out,
                  (long long)s.experts, (long long)s.k, s.zipf ? "zipf" : "balanced");
  return text;
}

/// All comparisons of one run, printed as they come and kept as JSON.
class session {
 public:
  explicit session(options const& o) : options_(o), limits_(measure_limits(o.how.threads, std::size_t{1} << 28)), peers_(find_peers()) {
    options_.how.madd_one = limits_.madd_one, options_.how.madd = limits_.madd;
    std::printf("%d threads: madd %.0f (one thread %.0f), bf16 dot %.0f (%.0f) GFLOP/s; read %.1f, copy %.1f, triad %.1f GB/s\n", limits_.threads,
                limits_.madd * 1e-9, limits_.madd_one * 1e-9, limits_.dot * 1e-9, limits_.dot_one * 1e-9, limits_.memory.read * 1e-9,
                limits_.memory.copy * 1e-9, limits_.memory.triad * 1e-9);
  }
  template <class T>
  void run() {
    for (shape const& s : dense_shapes(options_.much)) against_peers<T>("dense", s, {pass::forward});
    for (shape const& s : forward_shapes(options_.much)) against_peers<T>("forward", s, {pass::forward});
    for (shape const& s : backward_shapes(options_.much)) against_peers<T>("backward", s, {pass::input_gradient, pass::weight_gradient});
    for (auto const& [odd, even] : odd_shapes(options_.much)) against_itself<T>("odd", odd, even);
    for (auto const& [zipf, balanced] : skew_shapes(options_.much)) against_itself<T>("skew", zipf, balanced);
    for (shape const& s : scaling_shapes(options_.much)) against_itself<T>("scaling", s, s);
  }
  bool write() const;
  bool right = true;  ///< no contender was wrong

 private:
  template <class T>
  static char const* type_of() {
    return sizeof(T) == 4 ? "fp32" : "bf16";
  }
  template <class T>
  double peak(double probe) const {
    return sizeof(T) == 4 ? probe : probe * limits_.dot_factor();
  }

  template <class T>
  bool check(char const* who, problem<T> const& p, pass which, void const* result, double& error) {
    deviation const d = deviation_of(p, which, result);
    error = d.error / d.largest;
    if (d.acceptable(p.result_type(which))) return true;
    std::printf("  %s is WRONG in %s: an error of %g where the largest element is %g; not timed\n", who, name_of(which), d.error, d.largest);
    return right = false;
  }
  template <class T>
  void against_peers(char const* group, shape const& s, std::vector<pass> const& passes);
  template <class T>
  void against_itself(char const* group, shape const& a, shape const& b);
  template <class T>
  json report(std::string const& name, problem<T> const& p, comparison const& c, double error);

  options options_;
  limits limits_;
  std::vector<std::unique_ptr<peer>> peers_;
  std::vector<json> records_;
};

template <class T>
json session::report(std::string const& name, problem<T> const& p, comparison const& c, double error) {
  double const flops = p.flops();
  if (c.pairs == 0) std::printf("  %-16s no pair with the machine to itself\n", name.c_str());
  else
    std::printf("  %-16s %7.1f  moe %7.1f GFLOP/s = %3.0f %% of %.0f   %.2fx (%.2f .. %.2f)  %d pairs, %d retaken%s\n", name.c_str(),
                flops / c.b.median * 1e-9, flops / c.a.median * 1e-9, 100 * flops / c.a.median / peak<T>(c.probe), peak<T>(c.probe) * 1e-9,
                c.ratio.median, c.ratio.low, c.ratio.high, c.pairs, c.retaken, c.low ? ", LOW PROBE" : "");
  std::fflush(stdout);
  json j;
  j.set("name", name.c_str(), "error", error);
  return add(j, c, peak<T>(c.probe));
}

template <class T>
void session::against_peers(char const* group, shape const& s, std::vector<pass> const& passes) {
  if (!options_.runs(group) || !options_.runs(s)) return;
  problem<T> const p(s);
  ours<T> mine(p, options_.how.threads);
  for (pass const which : passes) {
    std::printf("%s %s %s\n", type_of<T>(), name_of(which), text_of(s).c_str());
    auto const our_call = mine.prepare(which);
    double error = 0;
    our_call();
    if (!check("moe", p, which, mine.result(which), error)) continue;
    moe::buffer const result(static_cast<std::size_t>(p.result_size(which)) * bytes_of(p.result_type(which)));
    products const work = p.for_peers(which, result.data());
    std::vector<json> contenders;
    for (auto const& peer : peers_) {
      for (loop const how : {loop::in, loop::out}) {
        if (!peer->takes(work.factors, work.result) || (s.experts == 1 && how == loop::out)) continue;
        std::string const name = peer->name() + (s.experts == 1 ? "" : how == loop::in ? " in" : " out");
        std::memset(result.data(), 0xff, result.bytes());  // NaN, should a peer leave something out
        auto const call = peer->prepare(work, how, options_.how.threads);
        call();
        double peers_error = 0;
        if (!check(name.c_str(), p, which, result.data(), peers_error)) continue;
        contenders.push_back(report(name, p, compare(options_.how, our_call, call), peers_error));
      }
    }
    json j;
    j.set("group", group, "pass", name_of(which), "type", type_of<T>(), "shape", json_of(s), "flops", p.flops(), "bytes", p.operand_bytes(which),
          "error", error);
    records_.push_back(j.add("peers", contenders));
  }
}

/// Of two calls of ours: another shape, or (scaling) one thread and all.
template <class T>
void session::against_itself(char const* group, shape const& a, shape const& b) {
  if (!options_.runs(group) || !options_.runs(a)) return;
  bool const scaling = std::string_view(group) == "scaling";
  problem<T> const first(a), second(b);
  ours<T> mine(first, options_.how.threads), other(second, scaling ? 1 : options_.how.threads);
  auto const our_call = mine.prepare(pass::forward), other_call = other.prepare(pass::forward);
  our_call(), other_call();
  double error = 0;
  if (!check("moe", first, pass::forward, mine.result(pass::forward), error) ||
      !check("moe", second, pass::forward, other.result(pass::forward), error))
    return;
  comparison const c = compare(options_.how, our_call, other_call);
  double const rates = first.flops() / second.flops() * c.ratio.median;
  std::printf("%s %s %s: %.1f GFLOP/s; %s: %.1f; rates %.2f, time %.3f of it\n", type_of<T>(), group, text_of(a).c_str(),
              first.flops() / c.a.median * 1e-9, scaling ? "one thread" : text_of(b).c_str(), second.flops() / c.b.median * 1e-9, rates,
              1 / c.ratio.median);
  std::fflush(stdout);
  json j;
  j.set("group", group, "pass", "forward", "type", type_of<T>(), "shape", json_of(a), "flops", first.flops(), "bytes",
        first.operand_bytes(pass::forward), "other_shape", json_of(b), "other_flops", second.flops());
  records_.push_back(add(j, c, peak<T>(c.probe)));
}

bool session::write() const {
  if (options_.json_file.empty()) return true;
  json versions, rates, root;
  for (auto const& p : peers_) versions.add(p->name(), p->version());
  memory_rates const &all = limits_.memory, &one = limits_.memory_one;
  rates.set("threads", limits_.threads, "madd", limits_.madd, "madd_one", limits_.madd_one, "dot", limits_.dot, "dot_one", limits_.dot_one, "read",
            all.read, "copy", all.copy, "triad", all.triad, "read_one", one.read, "copy_one", one.copy, "triad_one", one.triad);
  char version[32];
  std::snprintf(version, sizeof version, "%d.%d.%d", MOE_VERSION_MAJOR, MOE_VERSION_MINOR, MOE_VERSION_PATCH);
#if defined(__clang__)
  char const* const compiler = __VERSION__;
#else
  char const* const compiler = "g++ " __VERSION__;
#endif
  root.set("version", version, "instruction_set", moe::instruction_set(), "compiler", compiler, "limits", rates, "peers", versions);
  root.add("records", records_, ",\n  ");
  std::ofstream file(options_.json_file);
  file << root.text() << "\n";
  return bool(file);
}

}  // namespace
}  // namespace bench::peers

int main(int count, char** argument) try {
  using namespace bench::peers;
  options const o = read(count, argument);
  session s(o);
  if (o.type != "bf16") s.run<float>();
  if (o.type != "fp32") s.run<moe::bf16>();
  if (!s.write()) return std::fprintf(stderr, "bench.peers: cannot write %s\n", o.json_file.c_str()), 1;
  return s.right ? 0 : 1;
} catch (moe::error const& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
