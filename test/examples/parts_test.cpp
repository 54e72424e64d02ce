// The parts of the trainer that know no model: durations, flags, plots, logs, sampling, batches, other programs.
#include <test/support.hpp>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <map>

#include <unistd.h>

#include <examples/common/batches.hpp>
#include <examples/common/corpus.hpp>
#include <examples/common/metrics.hpp>
#include <examples/common/options.hpp>
#include <examples/common/process.hpp>
#include <examples/common/progress.hpp>
#include <examples/common/sampler.hpp>
#include <examples/common/session.hpp>
#include <examples/common/svg_plot.hpp>
#include <examples/common/text.hpp>
#include <moe/io/atomic_file.hpp>

namespace {

using moe::index_t;

trainer::preset const preset{.name = "fake", .what = "a test"};

trainer::options parse(std::vector<char const*> arguments) {
  arguments.insert(arguments.begin(), "program");
  return trainer::parse_options(static_cast<int>(arguments.size()), arguments.data(), preset, 1024);
}
trainer::usage_exit refused(std::vector<char const*> arguments) {
  try {
    parse(std::move(arguments));
  } catch (trainer::usage_exit const& e) {
    return e;
  }
  return {-1, "accepted"};
}

}  // namespace

TEST_CASE("text: durations have units") {
  CHECK(trainer::parse_duration("90s") == 90);
  CHECK(trainer::parse_duration("10m") == 600);
  CHECK(trainer::parse_duration("1h30m") == 5400);
  CHECK(trainer::parse_duration("0.5h") == 1800);
  CHECK(trainer::parse_duration("250ms") == 0.25);
  CHECK(trainer::parse_duration("1m500ms") == 60.5);
  for (char const* bad : {"", "90", "s", "-5s", "1x", "1s2m", "5s5s", "0s", "nan s", "infs", "1e3s", "10 m", "1m "})
    CHECK_MESSAGE(test::contains(test::error_of([&] { trainer::parse_duration(bad); }), "is no duration"), bad);
}

TEST_CASE("text: distances, nearest names, numbers for people") {
  CHECK(trainer::edit_distance("kitten", "sitting") == 3);
  CHECK(trainer::edit_distance("", "abc") == 3);
  CHECK(trainer::edit_distance("seed", "sede") == 1);  // neighbours swapped
  CHECK(trainer::nearest("--stepz", {"--seed", "--steps", "--lr"}) == "--steps");
  CHECK(trainer::nearest("--completely-else", {"--seed", "--steps"}) == "");
  CHECK(trainer::thousands(4404412) == "4,404,412");
  CHECK(trainer::thousands(-999) == "-999");
  CHECK(trainer::thousands(1000) == "1,000");
  CHECK(trainer::bytes_text(1536) == "1.5 KiB");
  CHECK(trainer::duration_text(3725) == "1h 02m");
  CHECK(trainer::duration_text(185) == "3m 05s");
  CHECK(trainer::duration_text(std::numeric_limits<double>::quiet_NaN()) == "?");
  CHECK(trainer::fixed(1e300 * 1e300, 2) == "inf");
  CHECK(trainer::parse_double(trainer::shortest(0.1), "x") == 0.1);
}

TEST_CASE("flags: what is said and what is not") {
  auto const o = parse({"train", "--data", "a b.txt", "--steps", "100", "--lr", "1e-3", "--stop-after", "90s", "--tokenizer", "bytes", "--resume"});
  CHECK(o.what == trainer::command::train);
  CHECK(o.data == "a b.txt");
  CHECK(o.steps == 100);
  CHECK(o.lr == 1e-3);
  CHECK(o.seconds == 90.0);
  CHECK(o.resume);
  CHECK_FALSE(o.batch.has_value());
  CHECK(parse({}).what == trainer::command::train);
  CHECK(parse({"--minutes=0.5"}).seconds == 30.0);
  CHECK(parse({"sample", "--temperature", "0"}).temperature == 0);
  CHECK(parse({"eval", "--overlap", "64"}).overlap == 64);
}

TEST_CASE("flags: errors name the flag, and the nearest one for an unknown flag") {
  CHECK(refused({"train", "--stepz", "3"}).text.find("unknown flag --stepz of train; did you mean --steps?") == 0);
  CHECK(refused({"--weightdecay=3"}).text.find("unknown flag --weightdecay of train; did you mean --weight-decay?") == 0);
  CHECK(refused({"trian"}).text.find("unknown command trian of program; did you mean train?") == 0);
  CHECK(refused({"sample", "--top_p", "1"}).text.find("unknown flag --top_p of sample; did you mean --top-p?") == 0);
  CHECK(refused({"train", "words"}).text.find("unexpected argument words") == 0);
  CHECK(test::contains(refused({"--steps", "0"}).text, "--steps"));
  CHECK(test::contains(refused({"--steps", "ten"}).text, "--steps"));
  CHECK(test::contains(refused({"--steps"}).text, "--steps"));
  CHECK(test::contains(refused({"--lr", "nan"}).text, "--lr"));
  CHECK(test::contains(refused({"--stop-after", "90"}).text, "needs a number and a unit"));
  CHECK(test::contains(refused({"--minutes", "1", "--stop-after", "9s"}).text, "excludes"));
  CHECK(test::contains(refused({"--vocab", "2000"}).text, "compiled for at most 1024"));
  CHECK(test::contains(refused({"--tokenizer", "words"}).text, "--tokenizer"));
  CHECK(test::contains(refused({"--dtype", "fp16"}).text, "--dtype: fp16 not in {fp32,bf16}"));
  for (auto const& bad : {std::vector<char const*>{"--steps", "0"}, {"trian"}, {"--nothing"}}) CHECK(refused(bad).code == 2);
}

TEST_CASE("flags: --help names units") {
  auto const help = refused({"train", "--help"});
  CHECK(help.code == 0);
  for (char const* part : {"--length TOKENS", "--batch SEQUENCES", "--stop-after TIME", "--warmup STEPS", "--dry-run", "--minutes M"})
    CHECK_MESSAGE(test::contains(help.text, part), part);
  CHECK(refused({"--help"}).code == 0);
}

TEST_CASE("options: a config survives being written as fields") {
  trainer::run_config c = trainer::new_config(parse({"--lr", "0.0017", "--seed", "18446744073709551615"}), preset, 1024);
  trainer::fix_steps(c, {}, preset, 1000);
  CHECK(c.warmup == 50);
  CHECK(trainer::to_fields(trainer::from_fields(trainer::to_fields(c))) == trainer::to_fields(c));
  CHECK(trainer::from_fields(trainer::to_fields(c)).lr == 0.0017);
  auto fields = trainer::to_fields(c);
  trainer::set_field(fields, "dtype", "bf16");
  CHECK(trainer::from_fields(fields).dtype == "bf16");
  fields.pop_back();  // a run from before there were others
  CHECK(trainer::from_fields(fields).dtype == "fp32");
  trainer::set_field(fields, "dtype", "bf16");
  CHECK(trainer::from_fields(fields).dtype == "bf16");
  fields[3].second = "0";
  CHECK(test::contains(test::error_of([&] { trainer::from_fields(fields); }), "batch = 0"));
  fields.erase(fields.begin() + 3);
  CHECK(test::contains(test::error_of([&] { trainer::from_fields(fields); }), "lacks \"batch\""));
  CHECK(test::contains(test::error_of([&] { trainer::fix_steps(c, parse({"--warmup", "10"}), preset, 10); }), "--warmup is 10"));
}

TEST_CASE("options: MOE_STOP_AFTER") {
  setenv("MOE_STOP_AFTER", "20s", 1);
  CHECK(trainer::stop_after_environment() == 20.0);
  setenv("MOE_STOP_AFTER", "soon", 1);
  CHECK(test::contains(test::error_of([] { trainer::stop_after_environment(); }), "MOE_STOP_AFTER"));
  unsetenv("MOE_STOP_AFTER");
  CHECK_FALSE(trainer::stop_after_environment().has_value());
}

TEST_CASE("svg: round ticks") {
  CHECK(trainer::round_ticks(0, 10, 5) == std::vector<double>{0, 2, 4, 6, 8, 10});
  CHECK(trainer::round_ticks(1.93, 7.9, 7).front() <= 1.93);
  CHECK(trainer::round_ticks(1.93, 7.9, 7).back() >= 7.9);
  CHECK(trainer::round_ticks(3, 3, 5).size() >= 2);
}

TEST_CASE("svg: a plot is a document with axes, names and every series; odd input stays harmless") {
  double const nan = std::numeric_limits<double>::quiet_NaN();
  auto const s = trainer::svg_plot({"a < b & \"c\"", "step", "bits"},
                                   {{"train", {{1, 8}, {2, nan}, {3, 4}}, false}, {"held", {{3, 5}}, true}, {"none", {}, true}}, {{"xz", 2}});
  CHECK(s.find("<svg xmlns=") == 0);
  CHECK(s.rfind("</svg>\n") == s.size() - 7);
  CHECK(test::contains(s, "a &lt; b &amp; &quot;c&quot;"));
  for (char const* part : {">step<", ">bits<", ">train<", ">held<", ">xz<"}) CHECK_MESSAGE(test::contains(s, part), part);
  CHECK_FALSE(test::contains(s, ">none<"));
  CHECK_FALSE(test::contains(s, "nan"));
  CHECK(test::contains(trainer::svg_plot({"t", "x", "y"}, {}), "no points yet"));
  std::vector<std::pair<double, double>> many;
  for (int i = 0; i < 100000; ++i) many.emplace_back(i, i % 7);
  CHECK(trainer::svg_plot({"t", "x", "y"}, {{"many", many, false}}).size() < 60000);
}

TEST_CASE("metrics: rows survive the file; a run that continues drops what no checkpoint has") {
  std::string const path = "/tmp/moe_metrics_" + std::to_string(getpid()) + ".csv";
  {
    trainer::metrics_log log(path, 0);
    for (int i = 1; i <= 5; ++i)
      log.add(
          {.step = i, .loss = 0.1 * i, .bits_per_byte = i / 8.0, .held_out = i == 2 ? 1.5 : std::numeric_limits<double>::quiet_NaN(), .lr = 1e-3});
  }
  std::ofstream(path, std::ios::app) << "6,0.5";  // killed while writing
  trainer::metrics_log const log(path, 3);
  REQUIRE(log.all().size() == 3);
  CHECK(log.all()[2].loss == 0.1 * 3);
  CHECK(log.all()[1].held_out == 1.5);
  CHECK(std::isnan(log.all()[0].held_out));
  CHECK(test::contains(test::error_of([] { trainer::parse_metrics("head\n1,2,3\n", "log"); }), "log: line 2 has 3 cells"));
  auto const older = trainer::parse_metrics("head\n7,1,2,,0.1,3,4,5,0.5,1.5,6,100,2.5\n", "log")[0];  // of a version without the routers' entropy
  CHECK((older.load_max == 1.5 && std::isnan(older.entropy) && older.dropped == 6 && older.tokens_per_second == 100 && older.seconds == 2.5));
  CHECK(test::error_of([] { trainer::metrics_log("/nowhere/log.csv", 0); }) != "");
  unlink(path.c_str());
}

TEST_CASE("sampler: temperature and top-p") {
  std::vector<float> const logits{1.0f, 3.0f, 2.0f, 3.0f, -std::numeric_limits<float>::infinity()};
  auto const view = moe::vec(logits.data(), 5);
  CHECK(trainer::sampler(0, 1).draw(view, 0.99) == 1);  // of equals the lower
  CHECK(trainer::sampler(1, 0).draw(view, 0.99) == 1);
  trainer::sampler all(1, 1), narrow(1, 0.5), cold(1e-3, 1);
  double const p[] = {std::exp(-2.0), 1, std::exp(-1.0), 1, 0};
  double const sum = p[0] + p[1] + p[2] + p[3];
  std::map<int, int> counts, few;
  moe::random_stream const random{1, moe::random_purpose::test, 7};
  int const n = 20000;
  for (int i = 0; i < n; ++i) {
    double const u = random.uniform(static_cast<std::uint64_t>(i));
    ++counts[all.draw(view, u)], ++few[narrow.draw(view, u)];
    CHECK_FALSE(cold.draw(view, u) == 2);
  }
  for (int t = 0; t < 4; ++t) CHECK(std::abs(counts[t] / double(n) - p[t] / sum) < 0.015);
  CHECK(counts[4] == 0);
  CHECK(few.size() == 2);  // 1 alone has 0.42 of the mass, 1 and 3 have 0.84
  CHECK(few[1] + few[3] == n);
  std::vector<float> bad{0.0f, test::quiet_nan<float>()};
  CHECK(test::contains(test::error_of([&] { all.draw(moe::vec(static_cast<float const*>(bad.data()), 2), 0.5); }), "logit of token 1 is NaN"));
  CHECK(test::contains(test::error_of([] { trainer::sampler(-1, 1); }), "temperature"));
  CHECK(test::contains(test::error_of([] { trainer::sampler(1, 1.5); }), "top-p"));
}

TEST_CASE("batches: an epoch shows every window once; a row depends on its number alone") {
  std::vector<int> text(1003);
  for (int i = 0; i < 1003; ++i) text[static_cast<std::size_t>(i)] = i;
  trainer::training_windows windows(text, 10, 5), other(text, 10, 5);
  index_t const n = windows.per_epoch();
  CHECK(n >= 98);
  std::vector<int> token(10), target(10), starts, again(30), again_target(30);
  for (index_t row = 0; row < 2 * n; ++row) {
    windows.fill(row, moe::vec(token.data(), 10), moe::vec(target.data(), 10));
    starts.push_back(token[0]);
    for (std::size_t i = 0; i < 10; ++i) CHECK((token[i] == token[0] + static_cast<int>(i) && target[i] == token[i] + 1));
  }
  for (index_t epoch = 0; epoch < 2; ++epoch) {
    std::vector<int> sorted(starts.begin() + epoch * n, starts.begin() + (epoch + 1) * n);
    CHECK_FALSE(std::is_sorted(sorted.begin(), sorted.end()));
    std::sort(sorted.begin(), sorted.end());
    for (std::size_t i = 1; i < sorted.size(); ++i) CHECK(sorted[i] == sorted[i - 1] + 10);
  }
  other.fill(n - 1, moe::vec(again.data(), 30), moe::vec(again_target.data(), 30));  // straight into the middle, over the end of an epoch
  for (index_t r = 0; r < 3; ++r) CHECK(again[static_cast<std::size_t>(10 * r)] == starts[static_cast<std::size_t>(n - 1 + r)]);
  CHECK(test::contains(test::error_of([&] { trainer::training_windows(std::vector<int>(10), 10, 1); }), "too few for one window"));
  trainer::training_windows smallest(std::vector<int>(11, 3), 10, 1);
  CHECK(smallest.per_epoch() == 1);
  smallest.fill(5, moe::vec(token.data(), 10), moe::vec(target.data(), 10));
}

TEST_CASE("batches: rows that a model looks at together are of one epoch, and none holds the target of another") {
  std::vector<int> text(1003);
  for (int i = 0; i < 1003; ++i) text[static_cast<std::size_t>(i)] = i;
  for (index_t const together : {2, 4, 8, 90, 91}) {
    trainer::training_windows windows(text, 10, 5, together);
    CHECK(windows.per_epoch() % together == 0);
    CHECK(windows.per_epoch() >= std::min<index_t>(together, 80));
    std::vector<int> token(static_cast<std::size_t>(10 * together)), target(token.size());
    for (index_t batch = 0; batch < 3 * windows.per_epoch() / together; ++batch) {
      windows.fill(batch * together, moe::vec(token.data(), 10 * together), moe::vec(target.data(), 10 * together));
      std::vector<int> seen(1003);
      for (std::size_t i = 0; i < token.size(); ++i) {
        CHECK(target[i] == token[i] + 1);
        CHECK(++seen[static_cast<std::size_t>(token[i])] == 1);
        if (i % 10 == 9) CHECK(++seen[static_cast<std::size_t>(target[i])] == 1);
      }
    }
  }
  CHECK(test::contains(test::error_of([&] { trainer::training_windows(text, 10, 1, 92); }), "too few for a batch of 92 windows of 10"));
}

TEST_CASE("batches: an evaluation reads every window once; rows that a model looks at together read parts of the text of their own") {
  for (bool const apart : {false, true})
    for (index_t const rows : {1, 2, 4, 16})
      for (index_t const count : {1, 2, 15, 16, 17, 31, 32, 33, 100}) {
        trainer::evaluation_order const order{count, rows, apart};
        std::vector<int> seen(static_cast<std::size_t>(count));
        for (index_t step = 0; step < order.steps(); ++step) {
          std::vector<index_t> together;
          for (index_t row = 0; row < rows; ++row) {
            auto const p = order.at(step, row);
            if (p.counts) REQUIRE((p.window >= 0 && p.window < count));
            if (p.counts) ++seen[static_cast<std::size_t>(p.window)];
            if (apart) CHECK((p.window >= 0 && p.window < count));  // there is always a window for company
            together.push_back(p.window);
          }
          if (!apart || count < 2 * rows) continue;
          std::sort(together.begin(), together.end());
          for (std::size_t i = 1; i < together.size(); ++i) CHECK(together[i] - together[i - 1] >= 2);  // they do not touch
        }
        CHECK(seen == std::vector<int>(static_cast<std::size_t>(count), 1));
      }
}

TEST_CASE("batches: evaluation predicts each token once, for any overlap") {
  for (index_t size : {1, 7, 8, 9, 50})
    for (index_t overlap : {0, 1, 7}) {
      std::vector<int> text;
      for (int i = 0; i < size; ++i) text.push_back(100 + i);
      trainer::evaluation_windows const windows(text, 99, 8, overlap);
      std::vector<int> seen, token(8), target(8);
      for (index_t w = 0; w < windows.count() + 2; ++w) {
        windows.fill(w, moe::vec(token.data(), 8), moe::vec(target.data(), 8));
        bool any = false;
        for (std::size_t i = 0; i < 8; ++i) {
          if (target[i] < 0) continue;
          any = true;
          CHECK(token[i] == target[i] - 1);
          CHECK((w == 0 || static_cast<index_t>(i) >= overlap));
          seen.push_back(target[i]);
        }
        CHECK(any == (w < windows.count()));
      }
      CHECK(seen == text);
    }
  CHECK(test::contains(test::error_of([] { trainer::evaluation_windows({1}, 0, 8, 8); }), "--overlap is 8"));
  CHECK(test::contains(test::error_of([] { trainer::evaluation_windows({}, 0, 8); }), "no text"));
}

TEST_CASE("corpus: verses without their names, nine tenths to learn, short texts refused") {
  CHECK(trainer::without_first_words("Ge1:1 In the\nGe1:2 And\n") == "In the\nAnd\n");
  CHECK(trainer::without_first_words("nothing\nA b") == "b\n");
  std::string text;
  for (int i = 0; i < 100; ++i) text += "line " + std::to_string(i % 10) + "\n";
  auto const c = trainer::make_corpus("text", text);
  CHECK(c.training().size() + c.held_out().size() == text.size());
  CHECK(c.training().back() == '\n');
  CHECK(std::abs(static_cast<double>(c.split) - 630) < 8);
  CHECK(test::contains(test::error_of([] { trainer::make_corpus("short", "too short"); }), "short: 9 bytes, needs at least 100"));
  CHECK(test::contains(test::error_of([] { trainer::load_corpus("/nowhere/text"); }), "/nowhere/text"));
  CHECK(test::error_of([] { trainer::load_corpus("/tmp"); }) != "");
  CHECK(trainer::make_corpus("no lines", std::string(1000, 'x')).split == 900);
}

TEST_CASE("process: other programs, locks") {
  CHECK(trainer::run_program({"cat"}, std::string(1 << 20, 'x')) == std::string(1 << 20, 'x'));
  CHECK(trainer::run_program({"true"}, std::string(1 << 20, 'x')) == std::string());  // does not read its input
  CHECK_FALSE(trainer::run_program({"false"}).has_value());
  CHECK_FALSE(trainer::run_program({"no-such-program-here"}, "text").has_value());
  CHECK(trainer::program_exists("cat"));
  CHECK_FALSE(trainer::program_exists("no-such-program-here"));
  std::string const directory = "/tmp/moe_lock_" + std::to_string(getpid());
  moe::make_directories(directory);
  {
    trainer::directory_lock const lock(directory);
    CHECK(test::contains(test::error_of([&] { trainer::directory_lock second(directory); }), "process " + std::to_string(getpid())));
  }
  { trainer::directory_lock const again(directory); }
  unlink((directory + "/lock").c_str());
  rmdir(directory.c_str());
}

TEST_CASE("progress: the line, the smoothed mean, printable text") {
  CHECK(trainer::progress_line({.step = 120,
                                .total = 900,
                                .loss = 3.2139,
                                .bits_per_byte = 2.01,
                                .tokens_per_second = 12345,
                                .lr = 2e-3,
                                .gradient_norm = 0.853,
                                .load_min = 0.61,
                                .load_max = 1.4,
                                .dropped = 0,
                                .eta = 80}) ==
        "step 120/900  loss 3.214  2.010 bits/byte  12,345 tok/s  lr 2.00e-03  |g| 0.85  load 0.61..1.40  dropped 0  1m 20s left");
  trainer::smoothed mean;
  mean.add(5);
  CHECK(std::abs(mean.value() - 5) < 1e-12);
  CHECK(trainer::printable("a\x1b[2Jb\n\xff\xc3\xa4\x7f") == "a?[2Jb\n?\xc3\xa4?");
  CHECK(trainer::complete_characters("ab\xc3") == 2);
  CHECK(trainer::complete_characters("ab\xe2\x82\xac") == 5);
  CHECK(trainer::complete_characters("ab\xf0\x9f\x98") == 2);
  CHECK(trainer::complete_characters("ab\xff") == 2);
  CHECK(trainer::complete_characters("") == 0);
}
