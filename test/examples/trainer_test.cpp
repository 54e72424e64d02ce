// Whole runs of the trainer with a bigram table in place of a model, each in a process of its own.
#include <test/support.hpp>

#include <algorithm>
#include <csignal>
#include <fstream>

#include <sys/resource.h>
#include <unistd.h>

#include <examples/common/optimizer.hpp>
#include <examples/common/process.hpp>
#include <examples/common/runs.hpp>
#include <examples/common/session.hpp>
#include <moe/optim/adamw.hpp>
#include <moe/optim/clip.hpp>
#include <test/examples/fake_engine.hpp>
#include <test/examples/program.hpp>

namespace {

using moe::index_t;

using test::bytes_of;
using test::folder;
using test::number_after;
using test::result;

trainer::preset const fake{.name = "fake", .what = "a test", .minutes = 0.01, .batch = 4, .length = 16, .tokenizer = "bytes", .lr = 0.05};

result run(test::faults faults, std::vector<std::string> arguments, char const* environment = nullptr, trainer::preset const& preset = fake) {
  return test::in_process([&] {
    if (environment != nullptr) setenv("MOE_STOP_AFTER", environment, 1);
    std::vector<char const*> argv{"fake"};
    for (auto const& a : arguments) argv.push_back(a.c_str());
    test::injected = faults;
    return trainer::run(static_cast<int>(argv.size()), argv.data(), test::bigram_devices, preset, 256);
  });
}

/// The digits behind a label, to the next blank.
std::string fixed_after(std::string const& text, std::string const& label) {
  auto const at = text.rfind(label);
  return at == std::string::npos ? "none" : text.substr(at + label.size(), text.find_first_of(" \n", at + label.size()) - at - label.size());
}

}  // namespace

TEST_CASE("trainer: learns, reports, samples, and evaluates the same again") {
  folder const f;
  result const r = run({}, {"train", "--data", f.text, "--out", f.run("a"), "--steps", "200"});
  INFO(r.out, r.err);
  CHECK(r.code == 0);
  double const bits = number_after(r.out, "\nheld-out bits per byte: ");
  CHECK(bits > 0.1);
  CHECK(bits < 1.5);                                                                     // a uniform guess is 8
  CHECK(r.out.rfind("held-out bits per byte: ") > r.out.rfind('\n', r.out.size() - 2));  // the last line
  for (char const* part : {"\ntokens/s: ", "\ncheckpoint: ", "\nloss plot: ", "\nxz -9 bits per byte: ", "sample (temperature 0.8",
                           "load of its 4 experts", "step 1/200", "step 200/200"})
    CHECK_MESSAGE(test::contains(r.out, part), part);
  auto const sample = r.out.find("top-p 0.95):\n") + 13;
  CHECK(r.out.find("\n\ntraining: ", sample) - sample >= 400);  // characters, from a context of 16 that is filled many times
  CHECK(test::contains(r.out, "evaluated 2,400 tokens"));       // all of the held-out bytes, the last window of a batch that is not full included
  CHECK_FALSE(test::contains(r.out, "\r"));
  CHECK(test::contains(moe::read_file(f.run("a") + "/loss.svg"), "</svg>"));
  std::string const log = moe::read_file(f.run("a") + "/log.csv");
  CHECK(std::count(log.begin(), log.end(), '\n') == 201);
  result const e = run({}, {"eval", "--data", f.text, "--out", f.run("a")});
  CHECK(e.code == 0);
  CHECK(number_after(e.out, "held-out bits per byte: ") == bits);
  // the load is that of the tokens measured: no padding, no context of the window before
  std::string const table = f.path + "/load.csv", text = moe::read_file(f.text), held_out = text.substr(text.size() - 2400),
                    inputs = text.substr(text.size() - 2401, 2400);
  index_t count[4] = {};
  for (char const c : inputs) ++count[static_cast<unsigned char>(c) % 4];
  std::string wanted = "layer,expert,tokens\n";
  for (int i = 0; i < 4; ++i) wanted += "0," + std::to_string(i) + "," + std::to_string(count[i]) + "\n";
  for (char const* overlap : {"0", "8"}) {
    CHECK(test::contains(run({}, {"eval", "--data", f.text, "--out", f.run("a"), "--overlap", overlap, "--load", table}).out,
                         "load of each expert: " + table));
    CHECK(moe::read_file(table) == wanted);
  }
  CHECK(test::contains(run({}, {"eval", "--data", f.text, "--out", f.run("a"), "--load", f.path + "/none/x"}).err, "No such file"));
  result const s = run({}, {"sample", "--out", f.run("a"), "--prompt", "and ", "--characters", "50"});
  CHECK(s.code == 0);
  CHECK(s.out.find("and ") == 0);
  CHECK(s.out.size() >= 54);
  CHECK(run({}, {"sample", "--out", f.run("a"), "--prompt", "and ", "--characters", "50"}).out == s.out);
  CHECK(run({}, {"sample", "--out", f.run("a"), "--prompt", "and ", "--characters", "50", "--seed", "2"}).out != s.out);
  result const again = run({}, {"train", "--data", f.text, "--out", f.run("a"), "--steps", "5"});
  CHECK(again.code == 1);
  CHECK(test::contains(again.err, "holds a run already; --resume continues it"));
}

TEST_CASE("trainer: a model whose state does not grow decodes any number of tokens from one start, and nothing is kept of them") {
  trainer::codec const bytes = trainer::codec::learn("bytes", 256, {});
  std::string texts[2];
  for (bool const constant : {false, true}) {
    test::injected = {.constant_state = constant};
    test::bigram model;
    model.use_threads(1);
    CHECK(model.plan({1, 1 << 20}, trainer::purpose::decoding).decoding - model.plan({1, 16}, trainer::purpose::decoding).decoding ==
          (constant ? 0u : 64u * ((1 << 20) - 16)));
    model.allocate({1, 16}, trainer::purpose::decoding);
    model.initialise(3);
    CHECK(model.longest_context() == (constant ? std::numeric_limits<index_t>::max() : 16));
    trainer::generate(
        model, bytes,
        {.prompt = "a prompt of more than sixteen bytes, and of more than the thirty-two of a piece", .characters = 500, .temperature = 3},
        [&](index_t, std::string const& piece) { return texts[constant] += piece, true; });
    CHECK(texts[constant].size() == 500);
    CHECK(model.starts == (constant ? 1 : 1 + 500 / 8));  // the 8th token behind 9 of the prompt is one too many
  }
  CHECK(texts[0] == texts[1]);  // a bigram knows no more than the last byte
  test::injected = {};
}

TEST_CASE("trainer: several continuations are those of seeds of their own; a model that looks at a group decodes whole groups of them") {
  folder const f;
  std::vector<std::string> const train{"train", "--data", f.text, "--steps", "5", "--out"};
  auto const with = [&](std::vector<std::string> first, std::vector<std::string> const& more) {
    first.insert(first.end(), more.begin(), more.end());
    return first;
  };
  test::faults const group{.group = 4};
  REQUIRE(run(group, with(train, {f.run("a")})).code == 0);
  std::vector<std::string> const sample{"sample", "--out", f.run("a"), "--prompt", "of ", "--characters", "40"};
  auto const texts = [&](test::faults const& faults, char const* n) {
    result const r = run(faults, with(sample, {"--continuations", n}));
    CHECK(r.code == 0);
    return r.out;
  };
  for (test::faults const& faults : {test::faults{}, group}) {
    std::string const one = texts(faults, "1"), three = texts(faults, "3"), five = texts(faults, "5");
    CHECK(one.find("of ") == 0);
    CHECK(one.size() == 3 + 40 + 1);
    CHECK(three.find("continuation 1 of 3:\n" + one + "\ncontinuation 2 of 3:\nof ") == 0);
    CHECK(three.size() == 3 * (22 + 44) - 1);
    CHECK(five.find("continuation 1 of 5:\n" + one) == 0);
    std::string const second = three.substr(three.find("2 of 3:\n") + 8, 44), third = three.substr(three.find("3 of 3:\n") + 8, 44);
    CHECK((second != one && third != one && third != second));
    CHECK(test::contains(five, "2 of 5:\n" + second));  // however many are asked for
    CHECK(test::contains(five, "3 of 5:\n" + third));
    CHECK(texts(faults, "3") == three);
  }
  CHECK(texts({}, "1") == texts(group, "1"));  // the first of a group looks at itself, in this model
  CHECK(texts({}, "3") != texts(group, "3"));
  for (char const* batch : {"2", "6"})
    for (bool const dry : {false, true})
      CHECK(run(group, with(train, with({f.run("x"), "--batch", batch}, dry ? std::vector<std::string>{"--dry-run"} : std::vector<std::string>{})))
                .err == std::string("error: --batch is ") + batch + ", needs to be a multiple of 4: the model looks at as many sequences together\n");
  CHECK(access(f.run("x").c_str(), F_OK) != 0);
  CHECK(test::contains(run(group, {"eval", "--data", f.text, "--out", f.run("a"), "--overlap", "8"}).err,
                       "--overlap is 8, but the model looks at 4 windows together: those that share text would show each other what comes next"));
  REQUIRE(run({}, with(train, {f.run("b"), "--batch", "6"})).code == 0);
  CHECK(test::contains(run(group, {"eval", "--data", f.text, "--out", f.run("b")}).err, "the batch of the run is 6, needs to be a multiple of 4"));
  // every order of windows gives the same sum, but for rounding
  std::string const in_groups = run(group, {"eval", "--data", f.text, "--out", f.run("a")}).out;
  CHECK(test::contains(in_groups, "\ntokens: 2,400 in"));  // those that only keep others company do not count
  double const apart = number_after(in_groups, "held-out bits per byte: "),
               in_order = number_after(run({}, {"eval", "--data", f.text, "--out", f.run("a")}).out, "held-out bits per byte: ");
  CHECK(std::abs(apart - in_order) < 2e-4);
}

TEST_CASE("trainer: a run that was stopped and resumed equals one that never stopped, byte for byte") {
  folder const f;
  std::vector<std::string> const common{"--data", f.text, "--steps", "40", "--accumulate", "2", "--seed", "9"};
  auto const with = [&](std::vector<std::string> more) {
    more.insert(more.end(), common.begin(), common.end());
    return more;
  };
  REQUIRE(run({}, with({"train", "--out", f.run("whole")})).code == 0);
  auto const whole = bytes_of(f.run("whole"));
  struct stop {
    int signal, code;
  };
  for (stop const s : {stop{SIGINT, 130}, stop{SIGTERM, 143}, stop{SIGHUP, 129}}) {
    std::string const out = f.run("stopped" + std::to_string(s.signal));
    test::faults faults;
    faults.raise_pass = 30, faults.raise_signal = s.signal;  // in the first half of step 16
    result const r = run(faults, with({"train", "--out", out}));
    INFO(r.out, r.err);
    CHECK(r.code == s.code);
    CHECK(test::contains(r.out, "after step 16 of 40; saved"));
    CHECK_FALSE(test::contains(r.out, "held-out bits per byte"));
    result const resumed = run({}, {"train", "--data", f.text, "--resume", "--out", out, "--threads", "3"});
    INFO(resumed.out, resumed.err);
    CHECK(resumed.code == 0);
    CHECK(test::contains(resumed.out, "after step 16 of 40"));
    CHECK(bytes_of(out) == whole);
    std::string const log = moe::read_file(out + "/log.csv");
    CHECK(std::count(log.begin(), log.end(), '\n') == 41);
  }
  // killed between checkpoints: the steps since the last one are done again
  test::faults faults;
  faults.raise_pass = 50, faults.raise_signal = SIGKILL;
  CHECK(run(faults, with({"train", "--out", f.run("killed"), "--checkpoint-every", "7"})).code == 1000 + SIGKILL);
  CHECK(run({}, {"train", "--data", f.text, "--resume", "--out", f.run("killed")}).code == 0);
  CHECK(bytes_of(f.run("killed")) == whole);
}

TEST_CASE("trainer: --dtype bf16 trains float weights that passes read rounded, and resumes bit for bit; a run may go on in the other dtype") {
  folder const f;
  auto const with = [&](std::vector<std::string> arguments) {
    for (char const* more : {"--data", f.text.c_str(), "--seed", "9"}) arguments.emplace_back(more);
    return arguments;
  };
  result const one = run({}, with({"train", "--out", f.run("bf16"), "--steps", "60", "--dtype", "bf16"}));
  result const other = run({}, with({"train", "--out", f.run("fp32"), "--steps", "60"}));
  INFO(one.out, one.err);
  REQUIRE((one.code == 0 && other.code == 0));
  CHECK(test::contains(one.out, ", bf16\n"));
  CHECK_FALSE(test::contains(other.out, ", bf16\n"));
  double const rounded = number_after(one.out, "\nheld-out bits per byte: "), exact = number_after(other.out, "\nheld-out bits per byte: ");
  CHECK(exact < 5);  // a uniform guess is 8
  CHECK(std::abs(rounded - exact) < 0.01);
  auto const whole = bytes_of(f.run("bf16"));
  CHECK(test::contains(whole.second, "\"dtype\":\"bf16\""));
  CHECK(whole.first != bytes_of(f.run("fp32")).first);
  CHECK(whole.first.size() == bytes_of(f.run("fp32")).first.size());  // float both

  test::faults faults;
  faults.raise_pass = 30, faults.raise_signal = SIGINT;
  CHECK(run(faults, with({"train", "--out", f.run("stopped"), "--steps", "60", "--dtype", "bf16"})).code == 130);
  CHECK(run({}, {"train", "--data", f.text, "--resume", "--out", f.run("stopped")}).code == 0);  // the dtype is that of the run
  CHECK(bytes_of(f.run("stopped")) == whole);

  // the files are the same kind: each dtype reads those of the other, and goes on with them where it is told to
  auto const evaluated = [&](char const* name, std::vector<std::string> dtype) {
    dtype.insert(dtype.begin(), {"eval", "--data", f.text, "--out", f.run(name)});
    return number_after(run({}, dtype).out, "held-out bits per byte: ");
  };
  CHECK(evaluated("bf16", {}) == rounded);
  CHECK(evaluated("bf16", {"--dtype", "bf16"}) == rounded);
  CHECK(evaluated("fp32", {}) == exact);
  CHECK(std::abs(evaluated("fp32", {"--dtype", "bf16"}) - exact) < 0.01);
  CHECK(std::abs(evaluated("bf16", {"--dtype", "fp32"}) - rounded) < 0.01);
  CHECK(run({}, {"sample", "--out", f.run("bf16"), "--characters", "50"}).code == 0);
  CHECK(run(faults, with({"train", "--out", f.run("changed"), "--steps", "60", "--dtype", "bf16"})).code == 130);
  result const changed = run({}, {"train", "--data", f.text, "--resume", "--out", f.run("changed"), "--dtype", "fp32"});
  INFO(changed.out, changed.err);
  CHECK(changed.code == 0);
  CHECK(test::contains(changed.out, "dtype: saved bf16, now fp32 as --dtype says"));
  CHECK(test::contains(bytes_of(f.run("changed")).second, "\"dtype\":\"fp32\""));
  CHECK(bytes_of(f.run("changed")).first != whole.first);
  CHECK(run({}, {"train", "--dtype", "fp16"}).err.find("fp16 not in {fp32,bf16}") != std::string::npos);
}

TEST_CASE("trainer: resume refuses what would give another run, and names it") {
  folder const f;
  REQUIRE(run({}, {"train", "--data", f.text, "--out", f.run("a"), "--steps", "5"}).code == 0);
  result r = run({}, {"train", "--data", f.text, "--out", f.run("a"), "--resume", "--lr", "0.01", "--batch", "2", "--steps", "9"});
  CHECK(r.code == 1);
  for (char const* part : {"lr: saved 0.05, now 0.01", "batch: saved 4, now 2", "steps: saved 5, now 9"})
    CHECK_MESSAGE(test::contains(r.err, part), part);
  CHECK_FALSE(test::contains(r.err, "seed"));
  std::ofstream(f.text, std::ios::app) << "more";
  r = run({}, {"train", "--data", f.text, "--out", f.run("a"), "--resume"});
  CHECK(r.code == 1);
  CHECK(test::contains(r.err, "data: saved hash"));
  r = run({}, {"train", "--data", f.text, "--out", f.run("none"), "--resume"});
  CHECK(r.code == 1);
  CHECK(test::contains(r.err, "holds no checkpoint"));
}

TEST_CASE("trainer: --from begins a run with the weights and the tokenizer of another, says what they predict, and goes on without it") {
  folder const f;
  REQUIRE(run({}, {"train", "--data", f.text, "--out", f.run("first"), "--steps", "30", "--lr", "0.2"}).code == 0);
  auto const evaluated = [&](char const* name) {
    return number_after(run({}, {"eval", "--data", f.text, "--out", f.run(name)}).out, "held-out bits per byte: ");
  };
  double const bits = evaluated("first");
  std::vector<std::string> const second{"train", "--data", f.text, "--from", f.run("first"), "--steps", "20", "--seed", "5", "--out"};
  auto const with = [&](std::string const& name, std::vector<std::string> more = {}) {
    more.insert(more.begin(), f.run(name));
    more.insert(more.begin(), second.begin(), second.end());
    return more;
  };
  result const r = run({}, with("whole"));
  INFO(r.out, r.err);
  REQUIRE(r.code == 0);
  CHECK(test::contains(r.out, "weights: " + f.run("first") + " (fake) after step 30\nheld-out sample before the first step: "));
  CHECK(number_after(r.out, "\nheld-out bits per byte before the first step: ") == bits);
  CHECK(number_after(r.out, "\nheld-out bits per byte: ") < bits);
  CHECK_FALSE(test::contains(r.out, "not the text"));
  auto const whole = bytes_of(f.run("whole"));
  for (std::string const& part :
       {"\"from\":\"" + f.run("first") + "\"", std::string("\"from.preset\":\"fake\""), std::string("\"from.step\":\"30\"")})
    CHECK_MESSAGE(test::contains(whole.second, part), part);
  std::string const log = moe::read_file(f.run("whole") + "/log.csv");
  CHECK(std::count(log.begin(), log.end(), '\n') == 22);
  std::string const sample = fixed_after(r.out, "held-out sample before the first step: ");
  CHECK(test::contains(log, "\n0,,," + sample));  // the log has more digits
  CHECK(test::contains(moe::read_file(f.run("whole") + "/loss.svg"), "</svg>"));

  // a learning rate of 0: nothing but the weights of the other run, moments at 0
  REQUIRE(run({}, with("still", {"--lr", "0"})).code == 0);
  CHECK(evaluated("still") == bits);
  result const rounded = run({}, with("rounded", {"--dtype", "bf16"}));
  CHECK(number_after(rounded.out, "\nheld-out bits per byte before the first step: ") ==
        number_after(run({}, {"eval", "--data", f.text, "--out", f.run("first"), "--dtype", "bf16"}).out, "held-out bits per byte: "));
  // the planning of time trains on the loaded weights, and undoes it
  auto planned = with("planned", {"--lr", "0"});
  planned.erase(planned.begin() + 5, planned.begin() + 7);  // --steps 20
  REQUIRE(run({}, planned, "300ms").code == 0);
  CHECK(evaluated("planned") == bits);

  test::faults faults;  // passes: 1 of a sample, 38 of the evaluation are of another kind
  faults.raise_pass = 11, faults.raise_signal = SIGINT;
  CHECK(run(faults, with("stopped")).code == 130);
  (void)!std::system(("mv " + f.run("first") + " " + f.run("gone")).c_str());
  result const resumed = run({}, {"train", "--data", f.text, "--resume", "--out", f.run("stopped")});
  INFO(resumed.out, resumed.err);
  CHECK(resumed.code == 0);
  CHECK(test::contains(resumed.out, "after step 12 of 20"));
  CHECK(bytes_of(f.run("stopped")) == whole);
  std::string const log_again = moe::read_file(f.run("stopped") + "/log.csv");
  CHECK(std::count(log_again.begin(), log_again.end(), '\n') == 22);
}

TEST_CASE("trainer: --from says what does not fit") {
  folder const f;
  auto const error_of = [&](std::vector<std::string> more) {
    more.insert(more.begin(), {"train", "--data", f.text, "--out", f.run("new"), "--steps", "1", "--from", f.run("old")});
    result const r = run({}, more);
    CHECK((r.code == 1 || r.code == 2));
    CHECK(access(f.run("new").c_str(), F_OK) != 0);  // nothing is left behind
    return r.err;
  };
  CHECK(error_of({}) == "error: --from " + f.run("old") + ": holds no checkpoint; it needs the directory of a run\n");
  REQUIRE(run({}, {"train", "--data", f.text, "--out", f.run("old"), "--steps", "3"}).code == 0);
  CHECK(test::contains(error_of({"--resume"}), "excludes"));
  CHECK(test::contains(error_of({"--tokenizer", "bpe"}),
                       "--tokenizer is bpe, but the run in " + f.run("old") + " has bytes: --from goes on with its tokenizer"));
  CHECK(test::contains(run({}, {"train", "--data", f.text, "--out", f.run("old"), "--from", f.run("old")}).err, "holds a run already"));

  // the same run as another model would have written it
  auto const saved = trainer::newest_run(f.run("old"));
  REQUIRE(saved.has_value());
  std::vector<float> weights(256 * 256 + 16);
  auto const rewrite = [&](std::vector<trainer::parameter_info> const& parameters, trainer::fields const& config) {
    trainer::save_run(f.run("old"), 4, 1, saved->data_hash, config, parameters, {weights.data(), nullptr, nullptr});
  };
  using moe::nn::parameter_group;
  rewrite({{"table.weight", parameter_group::unembedding, {}, 0, 128 * 256, 1, 128, 256, false},
           {"more.weight", parameter_group::ffn, {}, 0, 6, 1, 2, 3, false}},
          saved->config);
  std::vector<std::string> const fresh{"train", "--data", f.text, "--out", f.run("new"), "--steps", "1", "--from", f.run("old")};
  result const r = run({}, fresh);
  CHECK(r.code == 1);
  for (char const* part :
       {"step_00000004.safetensors: does not fit the model:", "\n  table.weight: the file has F32 [128, 256], the model F32 [256, 256]",
        "\n  unused.norm: not in the file", "\n  more.weight: not in the model, the file has F32 [2, 3]"})
    CHECK_MESSAGE(test::contains(r.err, part), part, r.err);
  trainer::fields config = saved->config;
  trainer::set_field(config, "vocab", "300"), trainer::set_field(config, "tokenizer", "bpe");
  rewrite({}, config);
  CHECK(test::contains(run({}, fresh).err, "its vocabulary has 300 entries, but this model is compiled for at most 256"));
  trainer::set_field(config, "vocab", "256");
  rewrite({}, config);
  auto with_vocab = fresh;
  with_vocab.insert(with_vocab.end(), {"--vocab", "256"});
  trainer::codec::learn("bytes", 256, {}).save(f.run("old") + "/tokenizer.json");
  trainer::set_field(config, "tokenizer.crc64", "0");
  rewrite({}, config);
  CHECK(test::contains(run({}, with_vocab).err, "/tokenizer.json: is not the tokenizer that the run was trained with"));
}

TEST_CASE("trainer: a gradient that is not a number stops the run, is named, and leaves the last checkpoint") {
  folder const f;
  test::faults faults;
  faults.poison_pass = 6;
  result const r = run(faults, {"train", "--data", f.text, "--out", f.run("a"), "--steps", "20", "--checkpoint-every", "4"});
  CHECK(r.code == 3);
  CHECK(test::contains(r.err, "step 7: "));
  CHECK(test::contains(r.err, "first gradient that is not finite: table.weight (1 of 65536 elements)"));
  CHECK(test::contains(r.err, "first weight that is not finite: none"));
  CHECK(test::contains(r.err, "step_00000004.safetensors"));
  CHECK(moe::latest_checkpoint(f.run("a"))->manifest.step == 4);
}

TEST_CASE("trainer: time limits plan the steps, and a planned run equals one with that number of steps") {
  folder const f;
  result const r = run({}, {"train", "--data", f.text, "--out", f.run("a")}, "300ms");
  INFO(r.out, r.err);
  CHECK(r.code == 0);
  CHECK(test::contains(r.out, "\nplan: "));
  auto const steps = moe::latest_checkpoint(f.run("a"))->manifest.step;
  CHECK(steps >= 1);
  if (!test::contains(r.out, "stopped by the time limit")) {
    REQUIRE(run({}, {"train", "--data", f.text, "--out", f.run("b"), "--steps", std::to_string(steps)}).code == 0);
    CHECK(bytes_of(f.run("a")) == bytes_of(f.run("b")));
  }
  result const limited = run({}, {"train", "--data", f.text, "--out", f.run("c"), "--steps", "100000000"}, "300ms");
  CHECK(limited.code == 0);
  CHECK(test::contains(limited.out, "stopped by the time limit at step"));
}

TEST_CASE("trainer: every group has its learning rate and weight decay, and a dry run shows the rates that differ") {
  using moe::parameter_group;
  trainer::preset p = fake;
  p.lr_scale[moe::index_of(parameter_group::unembedding)] = 0.5;
  std::string const dry = run({}, {"train", "--dry-run"}, nullptr, p).out;
  CHECK(test::contains(dry, "unembedding                     65,536  learning rate 0.025 at the peak, where --lr is 0.05\n"));
  CHECK(test::contains(dry, "  norm                                16\n"));
  CHECK_FALSE(test::contains(run({}, {"train", "--dry-run"}).out, "learning rate"));
  p.lr_scale[0] = -1;
  CHECK(test::contains(run({}, {"train", "--dry-run"}, nullptr, p).err, "the scale of embedding is -1"));
  p.lr_scale[0] = 1;

  trainer::run_config c = trainer::new_config({}, p, 256);
  c.steps = 100, c.warmup = 10;
  moe::group_schedule const rates = trainer::group_rates(c, p);
  for (auto const g : moe::all_parameter_groups) {
    bool const bias = g == parameter_group::router_bias;
    bool const decays = g != parameter_group::norm && g != parameter_group::embedding && g != parameter_group::ssm_state && !bias;
    CHECK(rates.at(g, 5) == moe::group_rate{bias ? 0 : g == parameter_group::unembedding ? 0.0125 : 0.025, decays ? c.weight_decay : 0});
  }
  test::bigram model, expected;
  for (test::bigram* const m : {&model, &expected}) {
    m->use_threads(1);  // no team of threads: the processes that later cases fork could not use it
    m->allocate({c.batch, c.length}, trainer::purpose::training);
    trainer::host_tensors const t = m->fetch();
    for (index_t i = 0; i < m->buffer_size(); ++i) t.weights[i] = 1, t.gradients[i] = 0.25f, t.first[i] = t.second[i] = 0;
  }
  trainer::optimizer const optimizer(c, p, model.parameters());
  CHECK(optimizer.learning_rate(5) == 0.025);
  double const norm = model.gradient_norm();
  optimizer.update(model, 5, norm);
  trainer::host_tensors const got = model.fetch(), wanted = expected.fetch();
  for (auto const& x : model.parameters()) {
    bool const table = x.group == parameter_group::unembedding;
    auto const part = [&](float* all) { return moe::vec(all + x.offset, x.size); };
    moe::adamw(moe::cpu{1}, part(wanted.weights), part(wanted.first), part(wanted.second), part(wanted.gradients), table ? 0.0125 : 0.025,
               table ? c.weight_decay : 0, moe::clip_scale(norm, c.clip), 5);
  }
  CHECK(std::equal(got.weights, got.weights + model.buffer_size(), wanted.weights));
  CHECK(std::equal(got.second, got.second + model.buffer_size(), wanted.second));
  CHECK(got.weights[0] != got.weights[256 * 256]);
}

TEST_CASE("trainer: two trainers do not share a directory; a dry run makes none; short and missing texts are errors") {
  folder const f;
  result const dry = run({}, {"train", "--dry-run", "--out", f.run("dry")});
  CHECK(dry.code == 0);
  for (char const* part : {"active per token", "moments", "activations", "scratch", "FLOPs per token"})
    CHECK_MESSAGE(test::contains(dry.out, part), part);
  CHECK_FALSE(test::contains(dry.out, "weights in bf16"));
  CHECK(test::contains(run({}, {"train", "--dry-run", "--dtype", "bf16"}).out,
                       "  weights in bf16              128.1 KiB  the copy that products read\n"));
  CHECK(access(f.run("dry").c_str(), F_OK) != 0);
  moe::make_directories(f.run("locked"));
  {
    trainer::directory_lock const lock(f.run("locked"));
    result const r = run({}, {"--data", f.text, "--out", f.run("locked"), "--steps", "1"});
    CHECK(r.code == 1);
    CHECK(test::contains(r.err, "another trainer works here (process " + std::to_string(getpid()) + ")"));
  }
  CHECK(run({}, {"--data", f.text, "--out", f.run("locked"), "--steps", "1"}).code == 0);
  std::ofstream(f.path + "/short") << "a few words";
  CHECK(test::contains(run({}, {"--data", f.path + "/short", "--out", f.run("x"), "--steps", "1"}).err, "needs at least 100"));
  CHECK(test::contains(run({}, {"--data", f.path + "/none", "--out", f.run("x"), "--steps", "1"}).err,
                       "\"" + f.path + "/none\": No such file or directory; --data needs a text file that can be read"));
  CHECK(test::contains(run({}, {"--data", f.text, "--out", f.run("x"), "--steps", "1", "--length", "100000"}).err, "too few for one window"));
  CHECK(run({}, {"train", "--no-such-flag"}).code == 2);
  result const cuda = run({}, {"train", "--device", "cuda"});
  CHECK(cuda.code == 2);
  CHECK(cuda.err == "--device is cuda, but this program was compiled for: cpu; the target with _cuda behind its name has it (it needs nvcc)\n");
  CHECK(run({}, {"train", "--device", "cudda"}).err == "--device is cudda, but this program was compiled for: cpu; choose one of these\n");
}

TEST_CASE("trainer: a checkpoint that does not fit is an error that says what is saved, not the end by a signal") {
  folder const f;
  rlimit before{}, small{};
  REQUIRE(getrlimit(RLIMIT_FSIZE, &before) == 0);
  small = {.rlim_cur = 20000, .rlim_max = before.rlim_max};
  REQUIRE(setrlimit(RLIMIT_FSIZE, &small) == 0);
  result const r = run({}, {"--data", f.text, "--out", f.run("full"), "--steps", "2"});
  REQUIRE(setrlimit(RLIMIT_FSIZE, &before) == 0);
  CHECK(r.code == 1);
  CHECK(test::contains(r.err, "the last checkpoint is not written: "));
  CHECK(test::contains(r.err, "File too large"));
  CHECK(test::contains(r.err, "Make room and run again; nothing of this run is saved"));
}
