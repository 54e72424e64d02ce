// The only file that includes CLI11, which costs a compiler more time than the rest of the trainer.
#include <CLI/CLI.hpp>

#include <examples/common/options.hpp>
#include <examples/common/text.hpp>

namespace trainer {
namespace {

/// Unlike CLI::Range it refuses NaN, and says what is needed.
CLI::Validator between(double low, double high) {
  return CLI::Validator(
      [low, high](std::string& text) {
        double x = 0;
        bool const number = CLI::detail::lexical_cast(text, x);
        return number && x >= low && x <= high ? std::string()
                                               : "is " + text + ", needs to be a number from " + shortest(low) + " to " + shortest(high);
      },
      "");
}

template <class T>
CLI::Option* number(CLI::App* app, std::string const& name, std::optional<T>& value, std::string const& text, T low, T high) {
  return app->add_option(name, value, text)->check(between(static_cast<double>(low), static_cast<double>(high)))->type_name("");
}

void add_place(CLI::App* app, options& o, preset const& p) {
  app->add_option("--data", o.data,
                  "text file to learn; default: the King James Bible if the program `bible` is installed, else the sources of this repository")
      ->type_name("FILE");
  app->add_option("--out", o.out, std::string("directory of the run (default: runs/") + p.name + ", with a number appended when that holds a run)")
      ->type_name("DIR");
  app->add_option("--device", o.device, "cpu or cuda; cuda needs a program compiled for it (default: cpu)")->type_name("NAME");
  app->add_option("--dtype", o.dtype,
                  "fp32 or bf16: the numbers of weights and activations in products; sums, gradients of weights and what is saved are fp32 (default: that "
                  "of the run, fp32 for a new one)")
      ->check(CLI::IsMember({"fp32", "bf16"}))
      ->type_name("NAME");
  app->add_option("--threads", o.threads, "threads; results do not depend on it (default: one per core)")->check(between(1, 4096))->type_name("N");
}

void add_train(CLI::App* app, options& o, preset const& p, index_t model_vocab) {
  constexpr index_t most = index_t{1} << 40;
  auto const duration = [&o](std::string const& text) {
    try {
      o.seconds = parse_duration(text);
    } catch (std::exception const& e) {
      throw CLI::ValidationError("--stop-after", e.what());
    }
  };
  auto* const minutes = app->add_option_function<double>(
      "--minutes", [&o](double m) { o.seconds = 60 * m; },
      "time of training in minutes (default: " + shortest(p.minutes) + "); the number of steps is planned from the measured speed");
  minutes->check(between(1e-3, 1e6))->type_name("M");
  app->add_option_function<std::string>("--stop-after", duration, "the same with a unit: 90s, 10m, 1h30m")->type_name("TIME")->excludes(minutes);
  number(app, "--steps", o.steps, "optimizer steps; with it a time limit only stops early", index_t{1}, most)->type_name("N");
  number(app, "--batch", o.batch, "sequences per micro-batch (default: " + std::to_string(p.batch) + ")", index_t{1}, index_t{1} << 20)
      ->type_name("SEQUENCES");
  number(app, "--length", o.length, "length of a sequence in tokens (default: " + std::to_string(p.length) + ")", index_t{2}, index_t{1} << 20)
      ->type_name("TOKENS");
  number(app, "--accumulate", o.accumulate, "micro-batches per step (default: " + std::to_string(p.accumulate) + ")", index_t{1}, index_t{1} << 20)
      ->type_name("N");
  app->add_option("--seed", o.seed, "seed of the weights and of the order of the data (default: 1)")->type_name("N");
  number(app, "--lr", o.lr, "largest learning rate (default: " + shortest(p.lr) + ")", 0.0, 1e3)->type_name("RATE");
  number(app, "--warmup", o.warmup, "steps of linear warm-up (default: " + shortest(100 * p.warmup) + " % of the steps)", index_t{0}, most)
      ->type_name("STEPS");
  number(app, "--weight-decay", o.weight_decay, "decoupled weight decay of the matrices (default: " + shortest(p.weight_decay) + ")", 0.0, 1e3)
      ->type_name("RATE");
  number(app, "--clip", o.clip, "largest norm of the gradient (default: " + shortest(p.clip) + ")", 1e-12, 1e12)->type_name("NORM");
  number(app, "--vocab", o.vocab, "entries of the byte-pair vocabulary, 256 to " + std::to_string(model_vocab), index_t{256}, most)->type_name("N");
  app->add_option("--tokenizer", o.tokenizer, std::string("bpe or bytes (default: ") + p.tokenizer + ")")
      ->check(CLI::IsMember({"bpe", "bytes"}))
      ->type_name("KIND");
  auto* const resume =
      app->add_flag("--resume", o.resume,
                    "continue the run in --out (default: the newest) bit for bit; all flags that decide its numbers come from its checkpoint");
  app->add_option(
         "--from", o.from,
         "begin a new run with the newest weights of another, and with its tokenizer: fine-tuning, or another model whose tensors have the same "
         "names and shapes. What that model predicts before the first step is printed")
      ->type_name("DIR")
      ->excludes(resume);
  app->add_option("--checkpoint-every", o.checkpoint_every, "steps between checkpoints (default: one each 5 minutes)")
      ->check(between(1, 1e12))
      ->type_name("STEPS");
  app->add_option("--log-every", o.log_every, "steps between progress lines (default: one each 5 seconds)")
      ->check(between(1, 1e12))
      ->type_name("STEPS");
  app->add_flag("--no-xz", o.no_xz, "do not report what xz -9 makes of the text, which takes seconds for each 10 MB");
  app->add_flag("--dry-run", o.dry_run, "print parameters, memory and FLOPs per token, allocate nothing, and end");
}

void add_sample(CLI::App* app, options& o) {
  app->add_option("--prompt", o.prompt, "text to continue (default: a line break)")->type_name("TEXT");
  app->add_option("--characters", o.characters, "length of the text to write, in characters (default: 400)")
      ->check(between(1, 1 << 30))
      ->type_name("N");
  app->add_option("--continuations", o.continuations,
                  "texts to write, each with random numbers of its own (default: 1). A model that looks at a group of sequences decodes whole "
                  "groups, all with "
                  "this prompt, and those not asked for are not shown")
      ->check(between(1, 4096))
      ->type_name("N");
  app->add_option("--temperature", o.temperature, "0: always the likeliest token (default: 0.8)")->check(between(0, 100))->type_name("T");
  app->add_option("--top-p", o.top_p, "draw from the likeliest tokens that together have this probability (default: 0.95)")
      ->check(between(0, 1))
      ->type_name("P");
  app->add_option("--seed", o.seed, "seed of the draw (default: 1)")->type_name("N");
}

/// An argument that no option or subcommand took: the message names what was probably meant.
usage_exit unknown(std::string argument, CLI::App const& app) {
  argument = argument.substr(0, argument.find('='));
  bool const flag = argument.starts_with("-");
  std::vector<std::string> names;
  if (flag)
    for (CLI::Option const* option : app.get_options())
      for (std::string const& name : option->get_lnames()) names.push_back("--" + name);
  else
    for (CLI::App const* sub : app.get_subcommands({})) names.push_back(sub->get_name());
  std::string const guess = nearest(argument, names);
  std::string const where = app.get_name();
  return {2, (flag            ? "unknown flag "
              : names.empty() ? "unexpected argument "
                              : "unknown command ") +
                 argument + " of " + where + (guess.empty() ? "" : "; did you mean " + guess + "?") + "\nRun with --help for all of them.\n"};
}

}  // namespace

options parse_options(int argc, char const* const* argv, preset const& p, index_t model_vocab) {
  options o;
  std::string const program = argc > 0 ? std::string(argv[0]).substr(std::string(argv[0]).rfind('/') + 1) : "moe";
  CLI::App app(std::string(p.what) + "\nWithout a command: train.", program);
  app.allow_extras();
  CLI::App* const train = app.add_subcommand("train", "learn a text, then report how well held-out text is predicted");
  CLI::App* const eval = app.add_subcommand("eval", "measure the bits per byte of held-out text");
  CLI::App* const sample = app.add_subcommand("sample", "write text");
  for (CLI::App* sub : {train, eval, sample}) sub->allow_extras(), add_place(sub, o, p);
  add_train(train, o, p, model_vocab);
  eval->add_option("--overlap", o.overlap, "tokens of context each window takes from the one before (default: 0)")
      ->check(between(0, 1 << 20))
      ->type_name("TOKENS");
  eval->add_flag("--whole", o.whole, "measure all of the text, not its last tenth");
  eval->add_option("--load", o.load, "write how many of the measured tokens chose each expert of each layer, before capacity, as CSV")
      ->type_name("FILE");
  add_sample(sample, o);

  // Flags without a command mean train, so that `moe_transformer --minutes 5` works.
  std::vector<std::string> arguments(argv + (argc > 0), argv + argc);
  bool const bare = arguments.empty() || (arguments[0].starts_with("-") && arguments[0] != "--help" && arguments[0] != "-h");
  if (bare) arguments.insert(arguments.begin(), "train");
  std::reverse(arguments.begin(), arguments.end());
  try {
    app.parse(std::move(arguments));
  } catch (CLI::ParseError const& e) {
    std::ostringstream out, err;
    int const code = app.exit(e, out, err);
    throw usage_exit{code == 0 ? 0 : 2, code == 0 ? out.str() : err.str()};
  }
  CLI::App const* const used = train->parsed() ? train : eval->parsed() ? eval : sample->parsed() ? sample : nullptr;
  if (used == nullptr) throw unknown(app.remaining().empty() ? "" : app.remaining()[0], app);
  for (auto const& extra : used->remaining()) throw unknown(extra, *used);
  for (auto const& extra : app.remaining()) throw unknown(extra, app);
  o.what = used == train ? command::train : used == eval ? command::eval : command::sample;
  if (o.vocab && *o.vocab > model_vocab)
    throw usage_exit{
        2, "--vocab is " + std::to_string(*o.vocab) + ", but this model is compiled for at most " + std::to_string(model_vocab) + " tokens\n"};
  return o;
}

}  // namespace trainer
