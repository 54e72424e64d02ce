// The models of examples/mixture_of_tokens: their sizes, and that a checkpoint of one arm is one of another. And whole runs: transition, texts of a
// group, resume with a selection bias and with jitter.
#include <test/support.hpp>

#include <cmath>

#include <examples/common/batches.hpp>
#include <examples/common/codec.hpp>
#include <examples/common/corpus.hpp>
#include <examples/common/devices.hpp>
#include <examples/common/metrics.hpp>
#include <examples/common/optimizer.hpp>
#include <examples/common/runs.hpp>
#include <examples/common/session.hpp>
#include <examples/mixture_of_tokens/model.hpp>
#include <moe/routing/biased_topk_router.hpp>
#include <moe/routing/switch_router.hpp>
#include <test/examples/program.hpp>

namespace {

using moe::index_t;
using namespace mixture_of_tokens;

/// As the paper counts: with learned positions (256 of them here), which our attention has none of; and its norms are LayerNorms, with a bias. In
/// tenths of a million.
template <class Preset>
index_t published() {
  using M = typename Preset::model;
  return (M::parameters() + 256 * M::d_model + (2 * 8 + 1) * M::d_model + 50000) / 100000;
}

/// What a checkpoint knows of a model's parameters.
template <class Preset>
std::vector<std::string> tensors() {
  std::vector<std::string> all;
  for (auto const& p : moe::nn::parameters_of<typename Preset::model>())
    all.push_back(p.name + " " + std::to_string(p.count) + " " + std::to_string(p.rows) + " " + std::to_string(p.columns) + " " +
                  std::to_string(p.offset) + " " + std::string(moe::name_of(p.group)));
  return all;
}

/// Active parameters that are not the router's.
template <class Preset>
index_t active_beside_routers() {
  index_t router = 0;
  for (auto const& p : moe::nn::parameters_of<typename Preset::model>()) router += p.group == moe::parameter_group::router ? p.elements() : 0;
  return Preset::model::active_parameters() - router;
}

/// A layer with jitter, and above it one with a selection bias.
struct noisy {
  static constexpr moe_ffn_config two{.d_model = 16, .d_ff = 32, .experts = 4, .k = 2, .activation = activation_kind::relu};
  static constexpr moe_ffn_config one{.d_model = 16, .d_ff = 32, .experts = 4, .k = 1, .activation = activation_kind::relu};
  struct first : residual<moe_ffn<one, moe::switch_router<moe::switch_config{.jitter = 0.3}>>> {
    static constexpr std::string_view name = "first";
  };
  struct second : residual<moe_ffn<two, moe::biased_topk_router<moe::biased_topk_config{.k = 2}, moe::router_bias_config{.rate = 0.01}>>> {
    static constexpr std::string_view name = "second";
  };
  using model = language_model<language_model_config{.vocab = 256, .d_model = 16, .embedding_std = 0.5}, sequence<first, second>>;
  static constexpr trainer::preset defaults{
      .name = "noisy", .what = "a test", .minutes = 0.01, .batch = 4, .length = 16, .tokenizer = "bytes", .lr = 0.01};
};

template <class Preset>
std::unique_ptr<trainer::engine> engine_of() {
  return trainer::engine_of<Preset, trainer::cpu_device, float>::make();
}
template <class Preset>
test::result run(std::vector<std::string> arguments) {
  return test::in_process([&] {
    std::vector<char const*> argv{Preset::defaults.name};
    for (auto const& a : arguments) argv.push_back(a.c_str());
    std::vector<trainer::device_choice> devices{trainer::choice<Preset, trainer::cpu_device, float>("cpu")};
    if constexpr (std::is_same_v<Preset, noisy>) devices.push_back(trainer::choice<Preset, trainer::cpu_device, moe::bf16>("cpu"));
    return trainer::run(static_cast<int>(argv.size()), argv.data(), devices, Preset::defaults, Preset::model::vocab);
  });
}
/// Removes the newest checkpoint of a copy of a run, goes on from the one before, and says whether both end with the same bytes.
template <class Preset>
bool resumes(test::folder const& f, std::string const& name) {
  std::string const copy = f.run(name + "_again");
  REQUIRE(std::system(("cp -r " + f.run(name) + " " + copy).c_str()) == 0);
  auto const last = moe::latest_checkpoint(copy);
  REQUIRE(std::system(("rm " + copy + "/" + moe::detail::step_name(last->manifest.step) + "*").c_str()) == 0);
  auto const before = moe::latest_checkpoint(copy);
  REQUIRE(before.has_value());
  REQUIRE(before->manifest.step < last->manifest.step);
  test::result const r = run<Preset>({"train", "--data", f.text, "--resume", "--out", copy, "--threads", "1"});
  CHECK_MESSAGE(r.code == 0, r.err);
  return test::bytes_of(copy) == test::bytes_of(f.run(name));
}

}  // namespace

TEST_CASE("mixture_of_tokens: parameters of the paper's models") {
  CHECK(published<transformer_medium>() == 768);
  CHECK(published<medium_32e_1>() == 3369);
  CHECK(published<medium_32e_8>() == 3373);
  CHECK(medium_32e_1::model::group_size == 32);
  CHECK(transformer_medium::model::group_size == 1);
}

TEST_CASE(
    "mixture_of_tokens: a checkpoint of Mixture of Tokens is one of token choice; what a token costs is the same in every arm but for its router") {
  CHECK(tensors<quick>() == tensors<quick_moe>());
  CHECK(tensors<quick>() == tensors<quick_expert_choice>());
  CHECK(tensors<tiny>() == tensors<tiny_moe>());
  CHECK(quick::model::group_size == 16);
  CHECK(quick_moe::model::group_size == 1);
  CHECK(quick_expert_choice::model::group_size == 16);
  index_t const dense = quick_dense::model::active_parameters();
  CHECK(active_beside_routers<quick>() == dense);
  CHECK(active_beside_routers<quick_moe>() == dense);
  CHECK(active_beside_routers<quick_expert_choice>() == dense);
  CHECK(active_beside_routers<granularity_1>() == dense);
  CHECK(active_beside_routers<granularity_2>() == dense);
  CHECK(active_beside_routers<granularity_4>() == dense);
  CHECK(active_beside_routers<granularity_8>() == dense);
  CHECK(active_beside_routers<granularity_16>() == dense);
  CHECK(granularity_16::model::active_parameters() - dense == 4 * 256 * 64);
}

TEST_CASE("mixture_of_tokens: transition: token choice begins with the weights of Mixture of Tokens, and its own loss of them is what is reported") {
  test::folder const f;
  test::result const first = run<tiny>({"train", "--data", f.text, "--out", f.run("mot"), "--steps", "12", "--vocab", "300", "--threads", "1"});
  REQUIRE_MESSAGE(first.code == 0, first.err);
  test::result const second = run<tiny_moe>(
      {"train", "--data", f.text, "--from", f.run("mot"), "--out", f.run("moe"), "--steps", "12", "--checkpoint-every", "5", "--threads", "1"});
  REQUIRE_MESSAGE(second.code == 0, second.err);

  auto const model = engine_of<tiny_moe>();
  model->use_threads(1);
  moe::nn::sequence_shape const shape{tiny_moe::defaults.batch, tiny_moe::defaults.length};
  model->allocate(shape, trainer::purpose::evaluation);
  trainer::load_run(trainer::newest_run(f.run("mot"))->path, model->parameters(), {model->fetch().weights, nullptr, nullptr});
  model->put();
  auto const text = trainer::load_corpus(f.text);
  auto const codec = trainer::codec::load(f.run("moe") + "/tokenizer.json");
  trainer::evaluation_windows const windows(codec.encode(text.held_out()), codec.encode(text.training()).back(), shape.length);
  double const bits = trainer::evaluate(*model, shape, windows, codec.bytes(), 0, 1, windows.count()).bits_per_byte();
  CHECK(std::abs(test::number_after(second.out, "held-out bits per byte before the first step: ") - bits) < 1e-4);
  CHECK(std::abs(test::number_after(first.out, "\nheld-out bits per byte: ") - bits) > 1e-3);  // the layers differ, and so do their losses

  CHECK(resumes<tiny_moe>(f, "moe"));
  std::string const other = f.path + "/other.txt";
  std::ofstream(other) << std::string(4000, 'x') << "\nanother text\n" << std::string(4000, 'y');
  test::result const tuned = run<tiny>({"train", "--data", other, "--from", f.run("mot"), "--out", f.run("tuned"), "--steps", "1", "--threads", "1"});
  CHECK_MESSAGE(tuned.code == 0, tuned.err);
  CHECK(test::contains(tuned.out, "this is not the text that " + f.run("mot") + " was trained on"));
  CHECK(moe::read_file(f.run("tuned") + "/tokenizer.json") == moe::read_file(f.run("mot") + "/tokenizer.json"));
  CHECK(test::contains(test::bytes_of(f.run("moe")).second, "\"from.preset\":\"mixture_of_tokens_tiny\""));
}

TEST_CASE("mixture_of_tokens: a group is trained and decoded together") {
  test::folder const f;
  test::result const odd = run<tiny>({"train", "--data", f.text, "--out", f.run("a"), "--steps", "1", "--batch", "3"});
  CHECK(odd.err == "error: --batch is 3, needs to be a multiple of 2: the model looks at as many sequences together\n");
  REQUIRE(run<tiny>({"train", "--data", f.text, "--out", f.run("a"), "--steps", "12", "--vocab", "300", "--checkpoint-every", "5", "--threads", "1"})
              .code == 0);
  CHECK(resumes<tiny>(f, "a"));
  auto const sample = [&](char const* n, char const* threads) {
    // longer than the context of 32 tokens, which begins anew in the middle
    test::result const r =
        run<tiny>({"sample", "--out", f.run("a"), "--prompt", "and the ", "--characters", "150", "--continuations", n, "--threads", threads});
    CHECK(r.code == 0);
    return r.out;
  };
  std::string const one = sample("1", "1"), two = sample("2", "1"), three = sample("3", "1");
  CHECK(one.find("and the ") == 0);
  CHECK(one == sample("1", "2"));
  CHECK(two == sample("2", "1"));
  CHECK(two.find("continuation 1 of 2:\n" + one) == 0);
  for (std::size_t at = 0, n = 1; n <= 3; ++n) {  // tokens are not of one length
    std::size_t const begin = three.find(" of 3:\n", at) + 7;
    at = std::min(three.find("\ncontinuation", begin), three.size());
    CHECK(at - begin >= 8 + 145);  // bytes that are no text are shown as fewer
  }
  CHECK(test::contains(three, one));
  CHECK(test::contains(three, two.substr(two.find("2 of 2:\n") + 8)));  // the first group is the same, however many there are
}

TEST_CASE("trainer: selection biases follow the load, noise is that of a pass, evaluation knows neither; a resumed run has the same bits") {
  auto const model = engine_of<noisy>();
  model->use_threads(1);
  model->allocate({4, 16}, trainer::purpose::training);
  model->initialise(3);
  moe::random_stream const random{4, moe::random_purpose::test, 0};
  for (index_t t = 0; t < 64; ++t) model->token()(t) = static_cast<int>(random.below(static_cast<std::uint64_t>(t), 256)), model->target()(t) = 7;
  auto const loss = [&] { return model->loss().cross_entropy_sum; };
  auto const noisy_loss = [&](std::uint64_t seed, std::uint32_t number) { return model->loss_and_gradient(1, {seed, number}).cross_entropy_sum; };
  double const quiet = loss(), first = noisy_loss(1, 0);
  CHECK(first != quiet);
  CHECK(loss() == quiet);
  CHECK(noisy_loss(1, 1) != first);
  CHECK(noisy_loss(2, 0) != first);
  CHECK(noisy_loss(1, 0) == first);

  moe::nn::parameter_info bias;
  for (auto const& p : model->parameters())
    if (p.group == moe::parameter_group::router_bias) bias = p;
  REQUIRE(bias.name == "layers.second.router.bias");
  trainer::run_config config = trainer::new_config({}, noisy::defaults, 256);
  config.steps = 10;
  trainer::optimizer const optimizer(config, noisy::defaults, model->parameters());
  auto const step = [&] { optimizer.update(*model, 1, model->gradient_norm()); };
  auto const biases = [&] { return std::vector<float>(model->fetch().weights + bias.offset, model->fetch().weights + bias.offset + 4); };
  trainer::expert_load load;
  model->zero_gradients(), noisy_loss(1, 0), step();  // the load of all passes so far is forgotten
  auto const before = biases();
  model->zero_gradients(), noisy_loss(1, 0), model->add_load(load), step();
  auto const after = biases();
  REQUIRE(load.counts.size() == 2);
  for (std::size_t e = 0; e < 4; ++e) {
    index_t const difference = 32 - load.counts[1][e];  // from the mean of 64 tokens' two choices
    CHECK(after[e] == doctest::Approx(before[e] + 0.01 * ((difference > 0) - (difference < 0))));
  }
  CHECK(after != before);
  loss(), step();  // an evaluation is no load
  CHECK(biases() == after);

  test::folder const f;
  for (char const* dtype : {"fp32", "bf16"}) {
    REQUIRE(run<noisy>(
                {"train", "--data", f.text, "--out", f.run(dtype), "--steps", "20", "--accumulate", "2", "--checkpoint-every", "8", "--dtype", dtype})
                .code == 0);
    CHECK(resumes<noisy>(f, dtype));
    std::string const log = moe::read_file(f.run(dtype) + "/log.csv");
    CHECK(test::contains(log, ",router entropy [nats],"));
    for (auto const& m : trainer::parse_metrics(log, "log.csv")) {
      CHECK(m.entropy > 0);
      CHECK(m.entropy < std::log(4.0));
    }
  }

  // every pass of a run has its own number: three steps of one, by hand
  REQUIRE(run<noisy>({"train", "--data", f.text, "--out", f.run("still"), "--steps", "3", "--lr", "0", "--threads", "1"}).code == 0);
  auto const log = trainer::parse_metrics(moe::read_file(f.run("still") + "/log.csv"), "log.csv");
  auto const text = trainer::load_corpus(f.text);
  trainer::training_windows windows(trainer::codec::learn("bytes", 256, {}).encode(text.training()), 16, 1);
  config.lr = 0;
  trainer::optimizer const still(config, noisy::defaults, model->parameters());
  model->initialise(1), model->zero_gradients();
  for (index_t s = 0; s < 3; ++s) {
    windows.fill(4 * s, model->token(), model->target());
    CHECK(noisy_loss(1, static_cast<std::uint32_t>(s)) / 64 == log[static_cast<std::size_t>(s)].loss);
    still.update(*model, s + 1, model->gradient_norm());
  }
}
