#include <examples/common/trainer.hpp>

#include <cstdio>
#include <memory>
#include <new>

#include <examples/common/corpus.hpp>
#include <examples/common/process.hpp>
#include <examples/common/progress.hpp>
#include <examples/common/runs.hpp>
#include <examples/common/session.hpp>
#include <examples/common/text.hpp>
#include <moe/io/atomic_file.hpp>

namespace trainer {

namespace {

/// A run that exists.
struct opened {
  place where;
  run_config config;
  codec tokens;
};

opened open_run(engine& model, preset const& p, options const& o) {
  place where = existing_place(o, p);
  for (auto const& line : where.saved->skipped) std::fprintf(stderr, "damaged checkpoint passed over: %s\n", line.c_str());
  run_config config = from_fields(where.saved->config);
  opened run{where, config, config.tokenizer == "bpe" ? codec::load(where.directory + "/tokenizer.json") : codec::learn("bytes", 256, {})};
  config.preset = p.name;
  check_same_model(*where.saved, identity(config, model, run.tokens.checksum()));
  if (o.threads > 0) model.use_threads(o.threads);
  return run;
}

void load_weights(engine& model, opened const& run) {
  load_run(run.where.saved->path, model.parameters(), {model.fetch().weights, nullptr, nullptr});
  model.put();
}

/// What --dtype names; else that of the run that is read or goes on; else fp32.
std::string dtype_for(options const& o, preset const& p) {
  if (!o.dtype.empty()) return o.dtype;
  if (o.what == command::train && (!o.resume || o.dry_run)) return "fp32";
  return from_fields(existing_place(o, p).saved->config).dtype;
}

/// The engine of the device that --device names.
std::unique_ptr<engine> engine_on(std::string const& device, std::string const& dtype, std::span<device_choice const> devices) {
  std::string names, dtypes;
  auto const append = [](std::string& list, std::string const& name) {
    if ((", " + list + ", ").find(", " + name + ", ") == std::string::npos) list += (list.empty() ? "" : ", ") + name;
  };
  for (device_choice const& d : devices) {
    if (d.name == device && d.dtype == dtype) {
      auto made = d.make();
      (void)made->device();  // a device that is not there is an error before any work
      return made;
    }
    append(names, d.name);
    if (d.name == device) append(dtypes, d.dtype);
  }
  if (!dtypes.empty()) throw usage_exit{2, "--dtype is " + dtype + ", but this program was compiled on " + device + " for: " + dtypes + "\n"};
  throw usage_exit{2, "--device is " + device + ", but this program was compiled for: " + names +
                          (device == "cuda" ? "; the target with _cuda behind its name has it (it needs nvcc)\n" : "; choose one of these\n")};
}

}  // namespace

int evaluate_command(engine& model, preset const& p, options const& o) {
  opened const run = open_run(model, p, o);
  sequence_shape const n{run.config.batch, run.config.length};
  check_batch(model, n.sequences, "the batch of the run");
  moe::expects(o.overlap == 0 || model.group_size() == 1, moe::errc::bad_argument, "--overlap is ", o.overlap, ", but the model looks at ",
               model.group_size(), " windows together: those that share text would show each other what comes next");
  corpus const text = load_corpus(o.data);
  console out(stdout);
  out.print("checkpoint: " + run.where.saved->path + ", step " + std::to_string(run.where.saved->step));
  out.print("text: " + text.name + ", " + (o.whole ? "all of it" : "its last tenth"));
  if (text.hash != run.where.saved->data_hash) out.print("this is not the text the model was trained on");
  std::vector<int> ids = run.tokens.encode(o.whole ? std::string_view(text.text) : text.held_out());
  std::vector<int> const before =
      run.tokens.encode(o.whole ? std::string_view("\n") : text.training().substr(text.split > 4096 ? text.split - 4096 : 0));
  evaluation_windows const windows(std::move(ids), before.back(), n.length, o.overlap);
  if (!o.load.empty()) moe::write_file(o.load, load_table({}));  // a file that cannot be written is an error now, not in an hour
  model.allocate(n, purpose::evaluation);
  load_weights(model, run);
  stop_signals const signals;
  evaluation const e = evaluate(model, n, windows, run.tokens.bytes(), 0, 1, windows.count(), [&](index_t done) {
    out.update("window " + std::to_string(done) + " of " + std::to_string(windows.count()));
    return stop_signals::received() != 0;
  });
  if (int const signal = stop_signals::received()) return 128 + signal;
  for (auto const& line : load_report(e.load)) out.print(line);
  if (!o.load.empty()) {
    moe::write_file(o.load, load_table(e.load));
    out.print(e.load.counts.empty() ? "no layer of this model has a router: " + o.load + " has no lines" : "load of each expert: " + o.load);
  }
  out.print("tokens: " + thousands(e.tokens) + " in " + duration_text(e.seconds) + ", each from " +
            (o.overlap > 0 ? std::to_string(o.overlap) + " to " : "at most ") + std::to_string(n.length) + " tokens of context");
  out.print((o.whole ? "bits per byte of the whole text: " : "held-out bits per byte: ") + fixed(e.bits_per_byte(), 4));
  return 0;
}

namespace {

/// Texts as they are written: the only one piece by piece, several one after the other at the end.
class written_texts {
 public:
  written_texts(std::string const& prompt, index_t n) : prompt_(printable(prompt)), text_(static_cast<std::size_t>(n)) {
    if (n == 1) std::fputs(prompt_.c_str(), stdout);
  }
  bool add(index_t which, std::string const& piece) {
    std::string& text = text_[static_cast<std::size_t>(which)];
    text += piece;
    if (text_.size() > 1) return true;
    std::string const ready = text.substr(0, complete_characters(text));  // a token may end inside a character
    text.erase(0, ready.size());
    std::fputs(printable(ready).c_str(), stdout);
    return std::fflush(stdout) == 0;
  }
  void end() const {
    if (text_.size() == 1) return void(std::printf("%s\n", printable(text_[0]).c_str()));
    for (std::size_t i = 0; i < text_.size(); ++i)
      std::printf("%scontinuation %zu of %zu:\n%s%s\n", i == 0 ? "" : "\n", i + 1, text_.size(), prompt_.c_str(), printable(text_[i]).c_str());
  }

 private:
  std::string prompt_;
  std::vector<std::string> text_;
};

}  // namespace

int sample_command(engine& model, preset const& p, options const& o) {
  opened const run = open_run(model, p, o);
  model.allocate({sequences_for(model, o.continuations), run.config.length}, purpose::decoding);
  load_weights(model, run);
  stop_signals const signals;
  written_texts texts(o.prompt, o.continuations);
  generate(model, run.tokens,
           {.prompt = o.prompt,
            .characters = o.characters,
            .temperature = o.temperature,
            .top_p = o.top_p,
            .seed = o.seed.value_or(1),
            .continuations = o.continuations},
           [&](index_t which, std::string const& piece) { return texts.add(which, piece) && stop_signals::received() == 0; });
  texts.end();
  int const signal = stop_signals::received();
  return signal == 0 ? 0 : 128 + signal;
}

int run(int argc, char const* const* argv, std::span<device_choice const> devices, preset const& settings, index_t vocab) {
  try {
    options o = parse_options(argc, argv, settings, vocab);
    moe::check_machine();
    o.dtype = dtype_for(o, settings);
    auto const owner = engine_on(o.device, o.dtype, devices);
    engine& model = *owner;
    if (o.what == command::eval) return evaluate_command(model, settings, o);
    if (o.what == command::sample) return sample_command(model, settings, o);
    if (!o.dry_run) return train(model, settings, o);
    if (o.threads > 0) model.use_threads(o.threads);
    run_config const config = new_config(o, settings, model.vocab());
    check_batch(model, config.batch, "--batch");
    dry_run(model, settings, config);
    return 0;
  } catch (usage_exit const& e) {
    std::fputs(e.text.c_str(), e.code == 0 ? stdout : stderr);
    return e.code;
  } catch (std::bad_alloc const&) {
    std::fprintf(stderr, "error: out of memory; smaller --batch and --length need less, --dry-run says how much\n");
  } catch (std::exception const& e) {
    std::fprintf(stderr, "error: %s\n", e.what());
  }
  return 1;
}

}  // namespace trainer
