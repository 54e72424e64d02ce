#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <memory>

#include <examples/common/corpus.hpp>
#include <examples/common/metrics.hpp>
#include <examples/common/optimizer.hpp>
#include <examples/common/process.hpp>
#include <examples/common/progress.hpp>
#include <examples/common/runs.hpp>
#include <examples/common/session.hpp>
#include <examples/common/text.hpp>
#include <moe/core/parallel.hpp>
#include <moe/io/atomic_file.hpp>
#include <moe/io/checksum.hpp>

namespace trainer {

using moe::errc;
using moe::expects;

namespace {

constexpr index_t held_out_samples = 20;  // evaluations of a few held-out windows during a run
constexpr double checkpoint_seconds = 300, line_seconds = 5;

/// Thrown where a loss or gradient is not finite.
struct not_finite {
  std::string what;
};

/// One run of training: everything between the command line and the report.
class training {
 public:
  training(engine& model, preset const& p, options const& o) : model_(model), preset_(p), options_(o), out_(stdout), parameters_(model.parameters()) {
    if (o.threads > 0) model_.use_threads(o.threads);
  }
  int run();

 private:
  void open_directory();
  void open_origin();
  void load_text();
  void allocate();
  void first_weights();
  void report_origin();
  void plan_time();
  void resume();
  void loop();
  bool must_stop() const;
  step_metrics one_step(index_t step);
  void check_finite(losses const& l, double norm, index_t step) const;
  void report_progress(step_metrics& m);
  void warn_of_starving();
  void save();
  void finish();
  double held_out_sample();
  evaluation held_out_text();
  sequence_shape shape() const { return {config_.batch, config_.length}; }

  engine& model_;
  preset const& preset_;
  options const& options_;
  console out_;
  std::vector<parameter_info> parameters_;
  place place_;
  std::optional<saved_run> origin_;  // of --from
  step_metrics before_the_first_;    // what its weights predict
  std::unique_ptr<directory_lock> lock_;
  run_config config_;
  corpus corpus_;
  std::unique_ptr<codec> codec_;
  std::unique_ptr<training_windows> windows_;
  std::unique_ptr<evaluation_windows> held_out_;
  std::unique_ptr<optimizer> optimizer_;
  std::unique_ptr<metrics_log> log_;
  std::string checkpoint_path_;
  index_t step_ = 0, saved_step_ = -1;
  double start_ = 0, deadline_ = std::numeric_limits<double>::infinity(), before_ = 0;  // before_: seconds of training in earlier sessions
  double last_save_ = 0, last_line_ = 0;
  smoothed speed_;
  // since the last progress line
  expert_load load_, step_load_;
  double loss_sum_ = 0, bits_sum_ = 0;
  index_t steps_since_ = 0;
};

void training::open_directory() {
  config_ = new_config(options_, preset_, model_.vocab());
  check_batch(model_, config_.batch, "--batch");
  if (!options_.from.empty()) open_origin();
  place_ = options_.resume ? existing_place(options_, preset_) : new_place(options_, preset_);
  moe::make_directories(place_.directory);
  lock_ = std::make_unique<directory_lock>(place_.directory);
  if (!options_.resume) return;
  for (auto const& line : place_.saved->skipped) out_.print("damaged checkpoint passed over: " + line);
  // What the command line does not say comes from the run; what it says must agree, or check_same_run names it.
  run_config const saved = from_fields(place_.saved->config);
  run_config asked = saved;
  asked.preset = preset_.name;
  if (options_.tokenizer) asked.tokenizer = *options_.tokenizer;
  asked.dtype = options_.dtype;
  if (asked.dtype != saved.dtype) out_.print("dtype: saved " + saved.dtype + ", now " + asked.dtype + " as --dtype says: other numbers from here on");
  set_field(place_.saved->config, "dtype", asked.dtype);
  if (options_.vocab && asked.tokenizer != "bytes") asked.vocab = *options_.vocab;
  asked.batch = options_.batch.value_or(saved.batch), asked.length = options_.length.value_or(saved.length);
  asked.accumulate = options_.accumulate.value_or(saved.accumulate), asked.steps = options_.steps.value_or(saved.steps);
  asked.warmup = options_.warmup.value_or(saved.warmup), asked.seed = options_.seed.value_or(saved.seed), asked.lr = options_.lr.value_or(saved.lr);
  asked.weight_decay = options_.weight_decay.value_or(saved.weight_decay), asked.clip = options_.clip.value_or(saved.clip);
  config_ = asked;
}

/// What a new run takes over of the one that --from names, beside its weights.
void training::open_origin() {
  std::string const& from = options_.from;
  origin_ = newest_run(from);
  expects(origin_.has_value(), errc::io, "--from ", from, ": holds no checkpoint; it needs the directory of a run");
  for (auto const& line : origin_->skipped) out_.print("damaged checkpoint passed over: " + line);
  run_config const saved = from_fields(origin_->config);
  std::string const goes_on = ", but the run in " + from + " has ", end = ": --from goes on with its tokenizer";
  expects(options_.tokenizer.value_or(saved.tokenizer) == saved.tokenizer, errc::bad_argument, "--tokenizer is ", options_.tokenizer.value_or(""),
          goes_on, saved.tokenizer, end);
  expects(saved.tokenizer == "bytes" || options_.vocab.value_or(saved.vocab) == saved.vocab, errc::bad_argument, "--vocab is ",
          options_.vocab.value_or(0), goes_on, saved.vocab, end);
  expects(saved.vocab <= model_.vocab(), errc::bad_argument, "--from ", from, ": its vocabulary has ", saved.vocab,
          " entries, but this model is compiled for at most ", model_.vocab());
  config_.tokenizer = saved.tokenizer, config_.vocab = saved.vocab;
  config_.from = origin{from, saved.preset, origin_->step, moe::hexadecimal(origin_->checksum)};
}

void training::load_text() {
  double const start = now();
  corpus_ = load_corpus(options_.data);
  out_.print("text: " + corpus_.name + ", " + thousands(static_cast<std::int64_t>(corpus_.text.size())) + " bytes, the last " +
             thousands(static_cast<std::int64_t>(corpus_.held_out().size())) + " held out");
  std::string const path = (origin_ ? options_.from : place_.directory) + "/tokenizer.json";
  bool const reuse = config_.tokenizer == "bpe" && (origin_ || (options_.resume && exists(path)));
  codec_ = std::make_unique<codec>(reuse ? codec::load(path) : codec::learn(config_.tokenizer, config_.vocab, corpus_.training()));
  expects(codec_->size() <= model_.vocab(), errc::bad_file, path, ": ", codec_->size(), " tokens, the model is compiled for ", model_.vocab());
  if (options_.resume) check_same_run(*place_.saved, identity(config_, model_, codec_->checksum()), corpus_.hash);
  else if (config_.tokenizer == "bpe") codec_->save(place_.directory + "/tokenizer.json");
  if (origin_) {
    std::string const* const sum = find_field(origin_->config, "tokenizer.crc64");
    expects(sum != nullptr && *sum == codec_->checksum(), errc::bad_file, path, ": is not the tokenizer that the run was trained with");
    if (corpus_.hash != origin_->data_hash) out_.print("this is not the text that " + options_.from + " was trained on");
  }
  std::vector<int> train = codec_->encode(corpus_.training()), rest = codec_->encode(corpus_.held_out());
  double const per_token = static_cast<double>(corpus_.training().size()) / static_cast<double>(train.size());
  out_.print("tokens: " + thousands(static_cast<std::int64_t>(train.size())) + " to learn, " + thousands(static_cast<std::int64_t>(rest.size())) +
             " held out; vocabulary " + thousands(codec_->size()) + ", " + fixed(per_token, 2) + " bytes per token (" + duration_text(now() - start) +
             ")");
  windows_ = std::make_unique<training_windows>(std::move(train), config_.length, config_.seed, model_.group_size() > 1 ? config_.batch : 1);
  held_out_ = std::make_unique<evaluation_windows>(std::move(rest), windows_->last(), config_.length);
}

void training::allocate() {
  memory_plan const plan = model_.plan(shape(), purpose::training);
  index_t parameters = 0;
  for (auto const& p : parameters_) parameters += p.elements();
  out_.print("model: " + std::string(preset_.name) + ", " + thousands(parameters) + " parameters, " + thousands(model_.active_parameters()) +
             " active per token; memory " + bytes_text(static_cast<double>(plan.total())) + "; " + model_.device());
  model_.allocate(shape(), purpose::training);
  first_weights();
}

void training::first_weights() {
  model_.initialise(config_.seed);
  if (!origin_) return;
  load_run(origin_->path, parameters_, {model_.fetch().weights, nullptr, nullptr});
  model_.put();
}

/// What the weights of --from predict before anything is learned: the loss at a transition.
void training::report_origin() {
  constexpr double none = std::numeric_limits<double>::quiet_NaN();
  out_.print("weights: " + options_.from + " (" + config_.from->preset + ") after step " + std::to_string(config_.from->step));
  before_the_first_ = {.loss = none,
                       .bits_per_byte = none,
                       .held_out = held_out_sample(),
                       .lr = none,
                       .gradient_norm = none,
                       .balance = none,
                       .z = none,
                       .entropy = none};
  before_the_first_.load_min = before_the_first_.load_max = before_the_first_.tokens_per_second = none;
  out_.print("held-out sample before the first step: " + fixed(before_the_first_.held_out, 3) + " bits per byte");
  evaluation const e = held_out_text();
  if (stop_signals::received() == 0) out_.print("held-out bits per byte before the first step: " + fixed(e.bits_per_byte(), 4));
}

/// Decides the number of steps. With a time only, a few steps are measured (with learning rate 0, and then undone), so that the schedule of the
/// learning rate is a function of the step and of a total that the checkpoint stores.
void training::plan_time() {
  start_ = last_save_ = now();
  auto const cap = stop_after_environment();
  auto limit = options_.seconds;
  if (!limit && !options_.steps && !options_.resume) limit = 60 * preset_.minutes;
  if (cap && (!limit || *cap < *limit)) limit = cap;
  if (options_.resume || options_.steps) {
    if (!options_.resume) fix_steps(config_, options_, preset_, *options_.steps);
    if (limit) deadline_ = start_ + *limit;
    optimizer_ = std::make_unique<optimizer>(config_, preset_, parameters_);
    return;
  }
  run_config still = config_;
  still.steps = 1, still.warmup = 0, still.lr = 0;
  optimizer_ = std::make_unique<optimizer>(still, preset_, parameters_);
  one_step(1);  // the first touches memory for the first time
  std::vector<double> times;
  while (times.size() < 2 || (times.size() < 9 && now() - start_ < 0.05 * *limit)) {
    double const begin = now();
    one_step(1);
    times.push_back(now() - begin);
  }
  std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2), times.end());
  double const step = times[times.size() / 2], begin = now();
  held_out_sample();
  double const samples = held_out_samples * (now() - begin);
  first_weights();
  double const left = std::max(*limit - samples, 0.5 * *limit) - (now() - start_);
  fix_steps(config_, options_, preset_, std::max<index_t>(1, static_cast<index_t>(left / step)));
  deadline_ = start_ + 1.5 * *limit;  // in case the machine becomes slower
  optimizer_ = std::make_unique<optimizer>(config_, preset_, parameters_);
  out_.print("plan: " + thousands(config_.steps) + " steps of " + thousands(config_.tokens_per_step()) + " tokens in " + duration_text(*limit) +
             ", measured " + fixed(1000 * step, 0) + " ms per step; " +
             fixed(static_cast<double>(config_.steps * config_.tokens_per_step()) / static_cast<double>(windows_->size()), 2) +
             " times through the text");
}

void training::resume() {
  log_ = std::make_unique<metrics_log>(place_.directory + "/log.csv", options_.resume ? place_.saved->step : 0);
  if (origin_) log_->add(before_the_first_);
  if (!options_.resume) return;
  host_tensors const t = model_.fetch();
  load_run(place_.saved->path, parameters_, {t.weights, t.first, t.second});
  model_.put();
  step_ = saved_step_ = place_.saved->step;
  checkpoint_path_ = place_.saved->path;
  if (!log_->all().empty()) before_ = log_->all().back().seconds;
  out_.print("resuming " + place_.directory + " after step " + std::to_string(step_) + " of " + std::to_string(config_.steps));
}

bool training::must_stop() const { return stop_signals::received() != 0 || out_.broken() || now() > deadline_; }

void training::check_finite(losses const& l, double norm, index_t step) const {
  if (std::isfinite(l.cross_entropy_sum) && std::isfinite(l.balance) && std::isfinite(l.z) && std::isfinite(norm)) return;
  std::string const gradient = first_non_finite(parameters_, model_.fetch().gradients), weight = first_non_finite(parameters_, model_.fetch().weights);
  throw not_finite{"step " + std::to_string(step) + ": loss " + shortest(l.cross_entropy_sum / static_cast<double>(std::max<index_t>(l.targets, 1))) +
                   ", gradient norm " + shortest(norm) + "\nfirst gradient that is not finite: " + (gradient.empty() ? "none" : gradient) +
                   "\nfirst weight that is not finite: " + (weight.empty() ? "none" : weight)};
}

step_metrics training::one_step(index_t step) {
  double const begin = now();
  model_.zero_gradients();
  losses sum;
  double bytes = 0;
  step_load_.clear();
  for (index_t i = 0; i < config_.accumulate; ++i) {
    windows_->fill(((step - 1) * config_.accumulate + i) * config_.batch, model_.token(), model_.target());
    for (index_t t = 0; t < shape().tokens(); ++t) bytes += codec_->bytes()[static_cast<std::size_t>(model_.target()(t))];
    auto const pass = static_cast<std::uint32_t>((step - 1) * config_.accumulate + i);
    losses const l = model_.loss_and_gradient(1.0 / static_cast<double>(config_.accumulate), {config_.seed, pass});
    sum.cross_entropy_sum += l.cross_entropy_sum, sum.targets += l.targets;
    sum.balance += l.balance / static_cast<double>(config_.accumulate), sum.z += l.z / static_cast<double>(config_.accumulate);
    sum.entropy += l.entropy / static_cast<double>(config_.accumulate);
    model_.add_load(step_load_);
  }
  double const norm = model_.gradient_norm();
  check_finite(sum, norm, step);
  optimizer_->update(model_, step, norm);
  step_metrics m;
  m.step = step;
  m.loss = sum.cross_entropy_sum / static_cast<double>(sum.targets);
  m.bits_per_byte = sum.cross_entropy_sum / std::log(2.0) / bytes;
  m.held_out = std::numeric_limits<double>::quiet_NaN();
  m.lr = optimizer_->learning_rate(step), m.gradient_norm = norm, m.balance = sum.balance, m.z = sum.z;
  m.entropy = step_load_.counts.empty() ? std::numeric_limits<double>::quiet_NaN() : sum.entropy;
  std::tie(m.load_min, m.load_max) = step_load_.extremes();
  m.dropped = step_load_.dropped;
  m.tokens_per_second = static_cast<double>(config_.tokens_per_step()) / std::max(1e-9, now() - begin);
  return m;
}

/// A few windows spread over the held-out text: the same ones each time.
double training::held_out_sample() {
  index_t const count = std::min(config_.batch, held_out_->count());
  return evaluate(model_, shape(), *held_out_, codec_->bytes(), 0, held_out_->count() / count, count).bits_per_byte();
}

evaluation training::held_out_text() {
  auto const stop = [](index_t) { return stop_signals::received() != 0; };
  return evaluate(model_, shape(), *held_out_, codec_->bytes(), 0, 1, held_out_->count(), stop);
}

void training::report_progress(step_metrics& m) {
  if (load_.counts.empty()) load_ = step_load_;
  else {
    for (std::size_t l = 0; l < load_.counts.size(); ++l)
      for (std::size_t e = 0; e < load_.counts[l].size(); ++e) load_.counts[l][e] += step_load_.counts[l][e];
    load_.dropped += step_load_.dropped;
  }
  loss_sum_ += m.loss, bits_sum_ += m.bits_per_byte, ++steps_since_;
  speed_.add(1 / m.tokens_per_second);
  auto const n = static_cast<double>(steps_since_);
  auto const [low, high] = load_.extremes();
  double const left = static_cast<double>((config_.steps - m.step) * config_.tokens_per_step()) * speed_.value();
  std::string const line =
      progress_line({m.step, config_.steps, loss_sum_ / n, bits_sum_ / n, 1 / speed_.value(), m.lr, m.gradient_norm, low, high, load_.dropped, left});
  bool const due = options_.log_every > 0 ? m.step % options_.log_every == 0 : now() - last_line_ >= line_seconds;
  bool const sampled = !std::isnan(m.held_out), first = steps_since_ == m.step - saved_step_ && m.step <= saved_step_ + 1;
  if (due || first || m.step == config_.steps || (sampled && out_.terminal())) {
    out_.print(line + (sampled ? "  held-out sample " + fixed(m.held_out, 3) : ""));
    log_->flush();
    last_line_ = now();
    warn_of_starving();
    load_.clear(), loss_sum_ = bits_sum_ = 0, steps_since_ = 0;
  } else {
    out_.update(line);
  }
}

void training::warn_of_starving() {
  if (steps_since_ < 100) return;
  for (std::size_t l = 0; l < load_.counts.size(); ++l) {
    index_t sum = 0, starving = 0;
    for (index_t c : load_.counts[l]) sum += c;
    for (index_t c : load_.counts[l]) starving += 10 * c * static_cast<index_t>(load_.counts[l].size()) < sum;
    if (starving > 0)
      out_.print("layer " + std::to_string(l) + ": " + std::to_string(starving) + " experts had less than 10 % of the mean load over " +
                 std::to_string(steps_since_) + " steps");
  }
}

void training::save() {
  if (saved_step_ == step_ || step_ == 0) return;
  host_tensors const t = model_.fetch();
  std::string const bad = first_non_finite(parameters_, t.weights);
  if (!bad.empty()) throw not_finite{"step " + std::to_string(step_) + ": weights that are not finite are not saved: " + bad};
  checkpoint_path_ = save_run(place_.directory, step_, config_.seed, corpus_.hash, identity(config_, model_, codec_->checksum()), parameters_,
                              {t.weights, t.first, t.second});
  saved_step_ = step_, last_save_ = now();
  log_->flush();
}

void training::loop() {
  index_t const sample_every = std::max<index_t>(1, (config_.steps + held_out_samples - 1) / held_out_samples);
  if (!options_.resume) saved_step_ = 0;
  while (step_ < config_.steps && !must_stop()) {
    step_metrics m = one_step(step_ + 1);
    ++step_;
    if (step_ % sample_every == 0 || step_ == config_.steps) m.held_out = held_out_sample();
    m.seconds = before_ + now() - start_;
    log_->add(m);
    report_progress(m);
    bool const due = options_.checkpoint_every > 0 ? step_ % options_.checkpoint_every == 0 : now() - last_save_ > checkpoint_seconds;
    if (due && step_ < config_.steps) {
      try {
        save();
      } catch (moe::error const& e) {  // the disk may have room again next time; the last save of a run does throw
        out_.print("checkpoint of step " + std::to_string(step_) + " not written, training goes on: " + e.what());
        last_save_ = now();
      }
    }
  }
  try {
    save();
  } catch (moe::error const& e) {
    moe::fail(e.code, "the last checkpoint is not written: ", e.what(), "\nMake room and run again; ",
              checkpoint_path_.empty() ? "nothing of this run is saved" : "--resume continues from " + checkpoint_path_);
  }
}

void training::finish() {
  double const seconds = before_ + now() - start_;
  evaluation const e = held_out_text();
  if (stop_signals::received() != 0) return;
  for (auto const& line : load_report(e.load)) out_.print(line);
  out_.print("evaluated " + thousands(e.tokens) + " tokens in " + duration_text(e.seconds) + ", each from the " + std::to_string(config_.length) +
             " tokens of its window at most; perplexity per token " + fixed(std::exp(e.nats / static_cast<double>(e.tokens)), 2));
  std::string text;
  generate(model_, *codec_, {.prompt = "\n", .seed = config_.seed}, [&](index_t, std::string const& piece) {
    text += piece;
    return stop_signals::received() == 0;
  });
  out_.print("\nsample (temperature 0.8, top-p 0.95):\n" + printable(text) + "\n");

  using size = std::optional<std::size_t>;
  size const both = options_.no_xz ? size() : xz_bytes(corpus_.text), part = both ? xz_bytes(corpus_.training()) : size();
  double const xz =
      both && part ? 8.0 * (static_cast<double>(*both) - static_cast<double>(*part)) / static_cast<double>(corpus_.held_out().size()) : 0;
  std::string const plot = place_.directory + "/loss.svg";
  moe::write_file(
      plot, loss_plot(std::string(preset_.name) + ": " + thousands(step_) + " steps, held-out " + fixed(e.bits_per_byte(), 3) + " bits per byte",
                      log_->all(), xz));
  if (!log_->failed().empty()) out_.print("the log is not complete: " + log_->failed());
  if (step_ < config_.steps)
    out_.print("stopped by the time limit at step " + std::to_string(step_) + " of " + std::to_string(config_.steps) + "; --resume continues");
  out_.print("training: " + thousands(step_) + " steps, " + duration_text(seconds));
  if (!log_->all().empty()) {
    double sum = 0, steps = 0;
    for (auto const& m : log_->all())
      if (m.step > 0) sum += 1 / m.tokens_per_second, ++steps;
    out_.print("tokens/s: " + fixed(steps / sum, 0));
  }
  out_.print("checkpoint: " + checkpoint_path_);
  out_.print("loss plot: " + plot);
  if (!options_.no_xz)
    out_.print("xz -9 bits per byte: " +
               (xz > 0 ? fixed(xz, 4) + " (held-out text, given the training text)" : std::string("unknown, there is no xz")));
  out_.print("held-out bits per byte: " + fixed(e.bits_per_byte(), 4));
}

int training::run() {
  open_directory();
  load_text();
  allocate();
  stop_signals const signals;
  try {
    if (origin_) report_origin();
    plan_time();
    resume();
    loop();
  } catch (not_finite const& e) {
    if (log_) log_->flush();
    out_.print("");
    std::fprintf(stderr, "%s\n%s\n", e.what.c_str(),
                 checkpoint_path_.empty() ? "no checkpoint was written yet" : ("the last good checkpoint is " + checkpoint_path_).c_str());
    return 3;
  }
  if (stop_signals::received() == 0 && !out_.broken()) finish();
  if (int const signal = stop_signals::received()) {
    out_.print("stopped by signal " + std::to_string(signal) + " after step " + std::to_string(step_) + " of " + std::to_string(config_.steps) +
               (checkpoint_path_.empty() ? "; nothing to save" : "; saved " + checkpoint_path_ + ", --resume continues"));
    return 128 + signal;
  }
  return out_.broken() ? 1 : 0;
}

}  // namespace

int train(engine& model, preset const& p, options const& o) { return training(model, p, o).run(); }

}  // namespace trainer
