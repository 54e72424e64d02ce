#include <moe/io/checkpoint.hpp>

#include <fstream>

#include "test/io/temporary.hpp"
#include "test/support.hpp"

using moe::index_t;

namespace {
moe::checkpoint_manifest manifest(index_t step) {
  moe::checkpoint_manifest m;
  m.step = step;
  m.seed = ~std::uint64_t{0} - 5;
  m.data_hash = 0xfedcba9876543210u;
  m.config = {{"lr", "0.001"}, {"preset", "small \xc3\xa4\n\""}};
  return m;
}
/// Weights that tell the step they belong to.
std::vector<float> weights(index_t step) { return std::vector<float>(50, static_cast<float>(step)); }
moe::checkpoint save(std::string const& directory, index_t step, int keep = 2, moe::file_calls const& calls = {}) {
  auto const w = weights(step);
  return moe::save_checkpoint(directory, manifest(step), {moe::source_of("w", w.data(), {50})}, keep, calls);
}
/// The step of the newest good checkpoint, whose weights must be those of that step; -1 if there is none.
index_t latest(std::string const& directory) {
  auto const c = moe::latest_checkpoint(directory);
  if (!c) return -1;
  std::vector<float> w(50);
  moe::read_tensors(moe::safetensors_reader(c->path), {moe::target_of("w", w.data(), {50})});
  CHECK(w == weights(c->manifest.step));
  return c->manifest.step;
}
void damage(std::string const& path, std::size_t at) {
  std::string content = moe::read_file(path);
  content[at] = static_cast<char>(content[at] ^ 1);
  test::put_file(path, content);
}
}  // namespace

TEST_CASE("checkpoint: what was saved is found, with all it says") {
  test::temporary_directory const directory;
  std::string const run = directory / "runs/a b";
  CHECK(!moe::latest_checkpoint(run));
  auto const saved = save(run, 1000);
  auto const found = moe::latest_checkpoint(run);
  REQUIRE(found);
  CHECK(found->path == saved.path);
  CHECK(found->path == run + "/step_00001000.safetensors");
  CHECK(found->skipped.empty());
  CHECK(found->manifest.step == 1000);
  CHECK(found->manifest.seed == ~std::uint64_t{0} - 5);
  CHECK(found->manifest.data_hash == 0xfedcba9876543210u);
  CHECK(found->manifest.config == manifest(0).config);
  CHECK(found->manifest.tensors.crc64 == saved.manifest.tensors.crc64);
  CHECK(latest(run) == 1000);
}

TEST_CASE("checkpoint: the newest few are kept, other files are left alone") {
  test::temporary_directory const directory;
  moe::write_file(directory / "tokenizer.json", "{}");
  moe::write_file(directory / "step_00000001.svg", "<svg/>");
  for (index_t step : {1, 2, 3, 123456789, 1234567890}) save(directory.path(), step, 2);
  CHECK(directory.names() == std::vector<std::string>{"step_00000001.svg", "step_123456789.json", "step_123456789.safetensors",
                                                      "step_1234567890.json", "step_1234567890.safetensors", "tokenizer.json"});
  CHECK(latest(directory.path()) == 1234567890);
  save(directory.path(), 5, 1);  // an older step: never removed by its own save
  CHECK(std::ifstream(directory / "step_00000005.json").good());
}

TEST_CASE("checkpoint: a damaged one is passed over with a message, wherever the damage is") {
  for (char const* file : {"step_00000002.json", "step_00000002.safetensors"}) {
    test::temporary_directory const directory;
    save(directory.path(), 1), save(directory.path(), 2);
    std::string const path = directory / file;
    damage(path, moe::read_file(path).size() - 30);
    auto const found = moe::latest_checkpoint(directory.path());
    REQUIRE(found);
    CHECK(found->manifest.step == 1);
    REQUIRE(found->skipped.size() == 1);
    CHECK(test::contains(found->skipped[0], file));
    CHECK(latest(directory.path()) == 1);
  }
  test::temporary_directory const directory;
  save(directory.path(), 1), save(directory.path(), 2);
  CHECK(latest(directory.path()) == 2);
  REQUIRE(::truncate((directory / "step_00000002.safetensors").c_str(), 100) == 0);
  CHECK(latest(directory.path()) == 1);
  for (auto const& name : directory.names())
    if (name.ends_with(".safetensors")) ::unlink((directory / name).c_str());
  std::string const message = test::error_of([&] { moe::latest_checkpoint(directory.path()); });
  CHECK(test::contains(message, "no checkpoint in \"" + directory.path() + "\" is good:"));
  CHECK(test::contains(message, "step_00000001"));
  CHECK(test::contains(message, "step_00000002"));
}

TEST_CASE("checkpoint: every damage to a manifest is seen") {
  std::string const text = [] {
    auto m = manifest(7);
    m.tensor_file = "step_00000007.safetensors";
    return moe::detail::manifest_text(m);
  }();
  CHECK(moe::detail::parse_manifest(text, "m").step == 7);
  test::for_each_damage(text, [&](std::string const& damaged) {
    CHECK_MESSAGE(test::contains(test::error_of([&] { moe::detail::parse_manifest(damaged, "m"); }), "m: truncated or changed"),
                  "accepted: " << damaged);
  });
  auto const resealed = [](std::string t) { return t + moe::hexadecimal(moe::crc64(t)) + "\"}\n"; };
  std::string const body = text.substr(0, text.size() - 19);
  auto const changed = [&](std::string const& from, std::string const& to) {
    std::string t = body;
    t.replace(t.find(from), from.size(), to);
    return test::error_of([&] { moe::detail::parse_manifest(resealed(t), "m"); });
  };
  CHECK(changed("moe checkpoint", "moe checkpoint").empty());
  CHECK(test::contains(changed("checkpoint 1", "checkpoint 2"), "unknown format \"moe checkpoint 2\""));
  CHECK(test::contains(changed("\"step\"", "\"stop\""), "unknown member \"stop\""));
  CHECK(test::contains(changed("\"step\":7,\n", ""), "members are missing"));
  CHECK(test::contains(changed("fedc", "-edc"), "a number was expected"));
}

TEST_CASE("checkpoint: whichever call of a save fails, a good checkpoint is found, and the next save works and cleans up") {
  for (index_t const second : {1, 2}) {  // a later step, and the same one again
    int failed = 0;
    for (int n = 1;; ++n) {
      test::temporary_directory const directory;
      save(directory.path(), 1, 1);
      std::string const message = test::error_of([&] { save(directory.path(), second, 1, test::failing_calls::at(n)); });
      if (test::failing_calls::failures == 0) {
        CHECK(message.empty());
        break;
      }
      ++failed;
      index_t const step = latest(directory.path());
      CHECK((step == 1 || step == second));
      if (message.empty()) CHECK(step == second);
      save(directory.path(), 3, 1);
      CHECK(latest(directory.path()) == 3);
      CHECK(directory.names() == std::vector<std::string>{"step_00000003.json", "step_00000003.safetensors"});
    }
    CHECK(failed >= 20);
  }
}

TEST_CASE("checkpoint: what an interrupted save left behind is no checkpoint and goes with the next save") {
  test::temporary_directory const directory;
  save(directory.path(), 1);
  moe::write_file(directory / "step_00000002.safetensors", "half");
  moe::write_file(directory / "step_00000002.json.tmp-77", "{");
  moe::write_file(directory / "step_00000003.safetensors.tmp-77", "");
  CHECK(latest(directory.path()) == 1);
  save(directory.path(), 2);
  CHECK(latest(directory.path()) == 2);
  CHECK(directory.names() ==
        std::vector<std::string>{"step_00000001.json", "step_00000001.safetensors", "step_00000002.1.safetensors", "step_00000002.json"});
}

TEST_CASE("checkpoint: wrong arguments") {
  test::temporary_directory const directory;
  CHECK(test::contains(test::error_of([&] { save(directory.path(), -1); }), "step is -1"));
  CHECK(test::contains(test::error_of([&] { save(directory.path(), 1, 0); }), "keep is 0"));
  moe::write_file(directory / "file", "");
  CHECK(test::contains(test::error_of([&] { save(directory / "file", 1); }), "create directory"));
  CHECK(test::contains(test::error_of([&] { moe::latest_checkpoint(directory / "file"); }), "open directory"));
}

TEST_CASE("check_resume: lists every field that differs") {
  moe::checkpoint c;
  c.path = "run/step";
  c.manifest = manifest(1);
  c.manifest.config = {{"lr", "0.1"}, {"gone", "x"}, {"same", "1"}};
  moe::check_resume(c, c.manifest.config, c.manifest.seed, c.manifest.data_hash);
  std::string const message = test::error_of([&] { moe::check_resume(c, {{"same", "1"}, {"lr", "0.2"}, {"added", "y"}}, 9, 8); });
  CHECK(message ==
        "cannot resume from \"run/step\", these differ:\n  lr: saved 0.1, now 0.2\n  gone: saved x, now absent\n  added: saved absent, now y"
        "\n  seed: saved 18446744073709551610, now 9\n  data: saved hash fedcba9876543210, now 0000000000000008"
        "\nA run continues with the text and the settings it began with; others need a new run in another directory.");
}
