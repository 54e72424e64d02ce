// The harness: --list prints the cases, no flag runs them; one JSON line each. docs/gpu/README.md says what the fields mean.
#include <bench/cuda/bench.hpp>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>

namespace bench {

double (*matrix_rate)(std::string const&, index_t) = nullptr;

std::vector<bench_case>& cases() {
  static std::vector<bench_case> all;
  return all;
}

index_t run::operator[](char const* name) const {
  for (extent const& e : shape_)
    if (std::strcmp(e.name, name) == 0) return e.value;
  moe::fail(moe::errc::bad_argument, "bench: a case asks for ", name, ", its shape has none");
}

namespace {

using seconds = std::chrono::duration<double>;
using steady = std::chrono::steady_clock;

struct options {
  bool list = false, smoke = false;
  std::string filter;
  std::size_t from = 0;
  double case_seconds = 2, minutes = 60;
};

/// Start and end of one repetition on the stream.
class event_pair {
 public:
  event_pair() {
    moe::cuda_check(cudaEventCreate(&begin_), "cudaEventCreate");
    moe::cuda_check(cudaEventCreate(&end_), "cudaEventCreate");
  }
  event_pair(event_pair&& e) noexcept : begin_(std::exchange(e.begin_, nullptr)), end_(std::exchange(e.end_, nullptr)) {}
  ~event_pair() {
    if (begin_ != nullptr) cudaEventDestroy(begin_);
    if (end_ != nullptr) cudaEventDestroy(end_);
  }
  template <class F>
  void around(moe::cuda const& space, F const& f) {
    moe::cuda_check(cudaEventRecord(begin_, space.stream), "cudaEventRecord");
    f(space);
    moe::cuda_check(cudaEventRecord(end_, space.stream), "cudaEventRecord");
  }
  double microseconds() const {
    float ms = 0;
    moe::cuda_check(cudaEventElapsedTime(&ms, begin_, end_), "cudaEventElapsedTime");
    return 1e3 * static_cast<double>(ms);
  }

 private:
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
};

cudaDeviceProp device_properties() {
  cudaDeviceProp p{};
  moe::cuda_check(cudaGetDeviceProperties(&p, 0), "cudaGetDeviceProperties");
  return p;
}

/// Memory that is written before each repetition, more than any second-level cache holds: no operand is left in it, and the queue is full when the
/// events come.
moe::device_buffer const& flush_memory(bool smoke = false) {
  static moe::device_buffer const memory(std::size_t{1} << (smoke ? 12 : 28));
  return memory;
}

/// Whether a CUDA graph can capture the call, and runs.
bool captures(std::function<void(moe::cuda const&)> const& f) {
  cudaStream_t stream = nullptr;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  moe::cuda_check(cudaStreamCreate(&stream), "cudaStreamCreate");
  bool good = cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess;
  try {
    f({stream});
  } catch (moe::error const&) {
    good = false;
  }
  good = cudaStreamEndCapture(stream, &graph) == cudaSuccess && good;
  good = good && cudaGraphInstantiate(&executable, graph, 0) == cudaSuccess && cudaGraphLaunch(executable, stream) == cudaSuccess &&
         cudaStreamSynchronize(stream) == cudaSuccess;
  if (executable != nullptr) cudaGraphExecDestroy(executable);
  if (graph != nullptr) cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
  cudaGetLastError();
  return good;
}

/// Times of `repetitions` calls, ascending. They are queued in groups: neither the host's start of a kernel nor a wait lies between the events.
template <class F>
std::vector<double> repeat(moe::cuda const& space, int repetitions, F const& f) {
  std::vector<double> times;
  while (static_cast<int>(times.size()) < repetitions) {
    std::vector<event_pair> events(static_cast<std::size_t>(std::min(10, repetitions - static_cast<int>(times.size()))));
    for (event_pair& e : events) {
      moe::cuda_check(cudaMemsetAsync(flush_memory().data(), 1, flush_memory().bytes(), space.stream), "cudaMemsetAsync");
      e.around(space, f);
    }
    space.wait();
    for (event_pair const& e : events) times.push_back(e.microseconds());
  }
  std::sort(times.begin(), times.end());
  return times;
}

double median(std::vector<double> const& sorted) {
  std::size_t const n = sorted.size();
  return n == 0 ? NAN : (sorted[(n - 1) / 2] + sorted[n / 2]) / 2;
}

constexpr int chains = 16, fma_threads = 256;
/// Chains of madd that nothing but the arithmetic units can slow down.
template <class A>
__global__ void __launch_bounds__(fma_threads) fma_kernel(int steps, A a, A b, A* out) {
  A sum[chains];
  for (int i = 0; i < chains; ++i) sum[i] = static_cast<A>(threadIdx.x + static_cast<unsigned>(i));
  for (int s = 0; s < steps; ++s) {
#pragma unroll
    for (int i = 0; i < chains; ++i) sum[i] = moe::madd(sum[i], a, b);
  }
  A total = 0;
  for (int i = 0; i < chains; ++i) total += sum[i];
  out[index_t{blockIdx.x} * fma_threads + threadIdx.x] = total;
}

struct limits {
  double copy = 0, fma = 0, float_products = 0, bf16_products = 0;  ///< bytes per second; flops per second; 0: unknown

  double products(std::string const& dtype) const { return dtype == "bf16" ? bf16_products : dtype == "float" ? std::max(fma, float_products) : 0; }
  /// Microseconds that the measured rates allow; 0 if a rate is unknown.
  double microseconds(work const& w, std::string const& dtype) const {
    double const rate = products(dtype);
    if (copy == 0 || (w.flops > 0 && rate == 0)) return 0;
    return 1e6 * std::max(w.bytes / copy, w.flops > 0 ? w.flops / rate : 0);
  }
};

limits measure_limits(bool smoke) {
  limits l;
  moe::cuda const space;
  flush_memory(smoke);
  std::size_t const bytes = smoke ? std::size_t{1} << 12 : std::size_t{1} << 30;
  moe::device_buffer const from(bytes), to(bytes);
  moe::cuda_check(cudaMemsetAsync(from.data(), 1, bytes, space.stream), "cudaMemsetAsync");
  auto const copy = [&](moe::cuda const& s) { moe::copy(s, to.data(), static_cast<std::byte const*>(from.data()), static_cast<index_t>(bytes)); };
  int const repetitions = smoke ? 2 : 30;
  copy(space);
  l.copy = 2.0 * static_cast<double>(bytes) / (1e-6 * median(repeat(space, repetitions, copy)));

  index_t const blocks = smoke ? 1 : 16 * index_t{device_properties().multiProcessorCount};
  int const steps = smoke ? 4 : 4096;
  auto const fma = [&](moe::cuda const& s) {
    moe::launch("fma", fma_kernel<float>, {.blocks = blocks, .threads = fma_threads}, s, steps, 0.9999f, 1e-4f, reinterpret_cast<float*>(to.data()));
  };
  fma(space);
  l.fma = 2.0 * chains * steps * static_cast<double>(blocks * fma_threads) / (1e-6 * median(repeat(space, repetitions, fma)));

  index_t const size = smoke ? 32 : 8192;
  if (matrix_rate != nullptr) l.float_products = matrix_rate("float", size), l.bf16_products = matrix_rate("bf16", size);
  return l;
}

/// A number as JSON has it; Python's reader takes the NaN too.
std::string number(double x) {
  if (x != x) return "NaN";
  if (std::isinf(x)) return x > 0 ? "Infinity" : "-Infinity";
  char text[32];
  std::snprintf(text, sizeof text, "%.6g", x);
  return text;
}
std::string quoted(std::string const& s) {
  std::string r = "\"";
  for (char const c : s) r += c == '"' || c == '\\' ? std::string{'\\', c} : static_cast<unsigned char>(c) < ' ' ? " " : std::string(1, c);
  return r + '"';
}
std::string or_null(double x) { return x > 0 && std::isfinite(x) ? number(x) : "null"; }

std::string head(bench_case const& c) {
  std::string s = "\"operator\": " + quoted(c.name) + ", \"shape\": {";
  for (std::size_t i = 0; i < c.shape.size(); ++i) s += (i > 0 ? ", " : "") + quoted(c.shape[i].name) + ": " + std::to_string(c.shape[i].value);
  return s + "}, \"dtype\": " + quoted(c.dtype) + (c.peer.empty() ? "" : ", \"peer\": " + quoted(c.peer));
}

void print_device(limits const& l) {
  cudaDeviceProp const p = device_properties();
  std::printf("{\"device\": {\"name\": %s, \"capability\": \"%d.%d\", \"processors\": %d, \"memory_bytes\": %zu}, ", quoted(p.name).c_str(), p.major,
              p.minor, p.multiProcessorCount, p.totalGlobalMem);
  std::printf(
      "\"limits\": {\"copy_bytes_per_s\": %s, \"fma_float_flops_per_s\": %s, \"cublas_float_flops_per_s\": %s, \"cublas_bf16_flops_per_s\": %s}}\n",
      or_null(l.copy).c_str(), or_null(l.fma).c_str(), or_null(l.float_products).c_str(), or_null(l.bf16_products).c_str());
  std::fflush(stdout);
}

/// Far above what rounding does to sums at our shapes, relative to the largest result.
bool wrong(std::string const& dtype, double error) { return !(error <= (dtype == "bf16" ? 0x1p-6 : 1e-4)); }

enum class outcome { good, bad, device_lost };
/// Runs one case and prints its line. After device_lost this process cannot use the device any more.
outcome run_case(std::size_t index, bench_case const& c, limits const& l, double case_seconds) {
  std::string line = "{\"case\": " + std::to_string(index) + ", " + head(c);
  outcome result = outcome::good;
  try {
    run r(c.shape, case_seconds);
    c.body(r);
    auto const& t = r.microseconds;
    double const limit = l.microseconds(r.done, c.dtype), middle = median(t);
    if (wrong(c.dtype, r.max_error())) line += ", \"wrong\": true", result = outcome::bad;
    line += ", \"median_us\": " + number(middle) + ", \"min_us\": " + number(t.empty() ? NAN : t.front()) +
            ", \"max_us\": " + number(t.empty() ? NAN : t.back()) + ", \"repetitions\": " + std::to_string(t.size()) +
            ", \"bytes\": " + number(r.done.bytes) + ", \"flops\": " + number(r.done.flops) + ", \"limit_us\": " + or_null(limit) +
            ", \"share\": " + (limit > 0 ? number(limit / middle) : "null") + ", \"error\": " + number(r.max_error()) +
            ", \"graph\": " + (r.graph ? "true" : "false");
  } catch (std::exception const& e) {
    line += ", \"failed\": " + quoted(e.what());
    result = cudaDeviceSynchronize() == cudaSuccess ? outcome::bad : outcome::device_lost;
  }
  std::printf("%s}\n", line.c_str());
  std::fflush(stdout);
  return result;
}

options parse(int argc, char** argv) {
  options o;
  for (int i = 1; i < argc; ++i) {
    std::string const flag = argv[i];
    auto const value = [&] {
      moe::expects(i + 1 < argc, moe::errc::bad_argument, flag, " needs a value");
      return std::string(argv[++i]);
    };
    if (flag == "--list") o.list = true;
    else if (flag == "--smoke") o.smoke = true;
    else if (flag == "--filter") o.filter = value();
    else if (flag == "--from") o.from = std::stoul(value());
    else if (flag == "--minutes") o.minutes = std::stod(value());
    else if (flag == "--case-seconds") o.case_seconds = std::stod(value());
    else
      moe::fail(moe::errc::bad_argument, flag,
                " is no flag; there are --list --smoke --filter <part of an operator's name> --from <case> --minutes <n> "
                "--case-seconds <n>");
  }
  return o;
}

/// In a smoke run: every case at its tiny shape, once.
void shrink(std::vector<bench_case>& all) {
  std::vector<bench_case> kept;
  for (bench_case& c : all) {
    for (extent& e : c.shape) e.value = e.tiny;
    bool const known = std::any_of(kept.begin(), kept.end(), [&](bench_case const& k) { return head(k) == head(c); });
    if (!known) kept.push_back(c);
  }
  all = kept;
}

int main_of(int argc, char** argv) {
  options const o = parse(argc, argv);
  auto& all = cases();
  std::stable_sort(all.begin(), all.end(), [](bench_case const& a, bench_case const& b) { return a.name < b.name; });
  if (o.smoke) shrink(all);
  auto const start = steady::now();
  limits l;
  int status = 0;
  if (!o.list) print_device(l = measure_limits(o.smoke));
  for (std::size_t i = o.from; i < all.size(); ++i) {
    if (all[i].name.find(o.filter) == std::string::npos) continue;
    bool const late = seconds(steady::now() - start).count() > 60 * o.minutes;
    if (o.list) {
      std::printf("{\"case\": %zu, %s}\n", i, head(all[i]).c_str());
    } else if (late) {
      std::printf("{\"case\": %zu, %s, \"skipped\": \"the time was up\"}\n", i, head(all[i]).c_str());
    } else {
      outcome const result = run_case(i, all[i], l, o.smoke ? 0 : o.case_seconds);
      if (result == outcome::device_lost) return 3;
      if (result == outcome::bad) status = 2;
    }
  }
  return status;
}

}  // namespace

void run::time(work const& w, std::function<void(moe::cuda const&)> const& f) {
  done = w;
  graph = captures(f);
  f(space);  // clocks and caches of instructions
  double const one = 1e-6 * repeat(space, 1, f).front();
  int const fit = static_cast<int>(std::min(seconds_ / std::max(one, 1e-6), 100.0));
  microseconds = repeat(space, seconds_ > 0 ? std::max(fit, one < 0.15 ? 30 : 5) : 2, f);
}

}  // namespace bench

int main(int argc, char** argv) {
  try {
    return bench::main_of(argc, argv);
  } catch (std::exception const& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
