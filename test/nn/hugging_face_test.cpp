#include <moe/nn/hugging_face.hpp>

#include <moe/nn/language_model.hpp>
#include <moe/nn/mamba.hpp>
#include <moe/nn/residual.hpp>
#include <moe/nn/sequence.hpp>

#include "test/io/temporary.hpp"
#include "test/support.hpp"

using namespace moe::nn;
using moe::index_t;

namespace {
constexpr mamba_config small{.d_model = 48};
template <bool Tied>
struct ends {
  static constexpr language_model_config config{.vocab = 101, .d_model = 48, .tied = Tied};
};
template <bool Tied>
using model_of = language_model<ends<Tied>::config, repeat<2, residual<mamba<small>>>>;
using model = model_of<true>;
using weights = std::vector<float>;
/// A space whose products read row-major weights.
struct elsewhere {};

/// Written by test/golden/make_hf_mamba.py.
std::string golden(char const* name) { return (std::filesystem::path(__FILE__).parent_path().parent_path() / "golden/hf_mamba" / name).string(); }
std::string content_of(std::string const& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

struct stored {
  std::string name, dtype;
  moe::shape_list shape;
  std::vector<std::byte> bytes;
};
std::vector<stored> tensors_of(std::string const& path) {
  moe::safetensors_reader const file(path);
  std::vector<stored> all;
  for (auto const& t : file.tensors()) {
    all.push_back({t.name, t.dtype, t.shape, std::vector<std::byte>(static_cast<std::size_t>(t.end - t.begin))});
    file.read(t, all.back().bytes.data());
  }
  return all;
}
void write(std::string const& path, std::vector<stored> const& tensors) {
  std::vector<moe::tensor_source> sources;
  for (auto const& t : tensors) sources.push_back({t.name, t.dtype, t.shape, t.bytes.data()});
  moe::write_safetensors(path, sources, {{"format", "pt"}, {"made by", "a test"}});
}
stored& find(std::vector<stored>& all, std::string const& name) {
  auto const t = std::find_if(all.begin(), all.end(), [&](auto const& x) { return x.name == name; });
  REQUIRE_MESSAGE(t != all.end(), name);
  return *t;
}
/// The tensor in another type, rounded by its upper bits alone, and what it holds then.
void store_as(stored& t, std::string const& dtype) {
  std::vector<float> x(t.bytes.size() / 4);
  std::memcpy(x.data(), t.bytes.data(), t.bytes.size());
  t.dtype = dtype, t.bytes.resize(2 * x.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    std::uint16_t const half = dtype == "F16" ? detail::to_half(x[i]) : moe::bf16(x[i]).bits;
    std::memcpy(t.bytes.data() + 2 * i, &half, 2);
  }
}

/// A changed golden file.
template <class F>
std::string variant(test::temporary_directory const& folder, F const& change) {
  auto all = tensors_of(golden("model.safetensors"));
  change(all);
  write(folder / "variant.safetensors", all);
  return folder / "variant.safetensors";
}
weights loaded(std::string const& path) {
  weights w(static_cast<std::size_t>(model::parameter_count), -3.0f);
  load_hugging_face_mamba<model>(path, w.data());
  return w;
}
/// What is wrong with a changed file; w must stay as it was.
template <class F>
std::string refusal(F const& change) {
  test::temporary_directory const folder;
  weights w(static_cast<std::size_t>(model::parameter_count), -3.0f);
  std::string const path = variant(folder, change), text = test::error_of([&] { load_hugging_face_mamba<model>(path, w.data()); });
  CHECK(std::count(w.begin(), w.end(), -3.0f) == static_cast<std::ptrdiff_t>(w.size()));
  CHECK(test::contains(text, "variant.safetensors\" does not fit the model"));
  return text.substr(std::min(text.find('\n'), text.size()));
}
/// Reads a file and writes it again: the bytes of all of it.
void check_round_trip(std::string const& path) {
  test::temporary_directory const folder;
  weights w(static_cast<std::size_t>(model::parameter_count));
  auto const like = load_hugging_face_mamba<model>(path, w.data());
  save_hugging_face_mamba<model>(folder / "again", w.data(), like);
  CHECK((content_of(folder / "again") == content_of(path)));
}
}  // namespace

TEST_CASE("hugging_face: the logits of transformers, in float") {
  auto const stored_logits = tensors_of(golden("logits.safetensors"));
  auto all = stored_logits;
  std::vector<int> token(80);
  std::vector<float> expected(80 * 101);
  REQUIRE(find(all, "tokens").bytes.size() == 4 * token.size());
  REQUIRE(find(all, "logits").bytes.size() == 4 * expected.size());
  std::memcpy(token.data(), find(all, "tokens").bytes.data(), 4 * token.size());
  std::memcpy(expected.data(), find(all, "logits").bytes.data(), 4 * expected.size());
  weights const w = loaded(golden("model.safetensors"));
  moe::cpu const space{.threads = 2};
  sequence_shape const shape{2, 40};
  moe::buffer memory(std::size_t{4} << 20);
  moe::arena kept(memory);
  model::activations<float> a(space, kept, shape);
  moe::buffer scratch_memory(model::scratch_bytes<float>(space, shape) + model::logits_scratch_bytes<float>(space, 80, 80));
  moe::arena scratch(scratch_memory);
  test::array<float> logits(80, 101);
  model::logits_of_batch(space, w.data(), moe::vec<int const>(token.data(), 80), shape, a, logits.mat(), scratch);
  double largest = 0;
  for (index_t i = 0; i < 80 * 101; ++i) {
    double const difference = std::abs(static_cast<double>(logits.data()[i]) - static_cast<double>(expected[static_cast<std::size_t>(i)]));
    if (!(difference <= largest)) largest = difference;
  }
  CHECK_MESSAGE(largest < 1e-4, "the logits differ by " << largest);
  MESSAGE("the logits differ by at most " << largest);
}

TEST_CASE("hugging_face: a file that is read and written again is the same file, with old names, a tied head and any mixture of types too") {
  check_round_trip(golden("model.safetensors"));
  test::temporary_directory const folder;
  check_round_trip(variant(folder, [](auto& all) { all.front().name = "backbone.embedding.weight"; }));
  check_round_trip(variant(folder, [](auto& all) {
    all.push_back(all.front());
    all.back().name = "lm_head.weight";
  }));
  for (char const* dtype : {"BF16", "F16"})
    check_round_trip(variant(folder, [&](auto& all) {
      for (auto& t : all)
        if (t.name.find("A_log") == t.name.npos) store_as(t, dtype);
    }));
  check_round_trip(variant(folder, [](auto& all) { std::reverse(all.begin(), all.end()); }));
}

TEST_CASE("hugging_face: without a file to be like, a model is written as transformers writes it") {
  test::temporary_directory const folder;
  save_hugging_face_mamba<model>(folder / "new", loaded(golden("model.safetensors")).data());
  CHECK((content_of(folder / "new") == content_of(golden("model.safetensors"))));
}

TEST_CASE("hugging_face: every element is where the model looks for it, in any order of the weights; padding is zero") {
  weights const w = loaded(golden("model.safetensors"));
  weights rows(w.size(), -3.0f);
  load_hugging_face_mamba<model, elsewhere>(golden("model.safetensors"), rows.data());
  auto all = tensors_of(golden("model.safetensors"));
  auto const in_panels = parameters_of<model>(), plain = parameters_of<model, elsewhere>();
  double sum = 0, padded_sum = 0, padded_rows = 0;
  for (std::size_t i = 0; i < plain.size(); ++i) {
    auto const& t = find(all, detail::hugging_face_name_of(plain[i].name));
    REQUIRE(t.bytes.size() == 4 * static_cast<std::size_t>(plain[i].elements()));
    CHECK(std::memcmp(t.bytes.data(), rows.data() + plain[i].offset, t.bytes.size()) == 0);
    std::vector<float> x(static_cast<std::size_t>(plain[i].elements()));
    in_panels[i].to_plain(w.data(), x.data());
    CHECK(std::memcmp(t.bytes.data(), x.data(), t.bytes.size()) == 0);
    for (float v : x) sum += std::abs(static_cast<double>(v));
  }
  CHECK(plain.size() == all.size());
  for (float v : w) padded_sum += std::abs(static_cast<double>(v));
  for (float v : rows) padded_rows += std::abs(static_cast<double>(v));
  CHECK(std::abs(padded_sum - sum) < 1e-9 * sum);
  CHECK(std::abs(padded_rows - sum) < 1e-9 * sum);
  test::temporary_directory const folder;
  save_hugging_face_mamba<model, elsewhere>(folder / "new", rows.data());
  CHECK((content_of(folder / "new") == content_of(golden("model.safetensors"))));
}

TEST_CASE("hugging_face: half precision, all of its numbers; rounding to nearest, ties to even") {
  for (std::uint32_t h = 0; h < 0x10000u; ++h) {
    auto const half = static_cast<std::uint16_t>(h);
    float const x = detail::from_half(half);
    if ((h & 0x7fffu) > 0x7c00u) {
      CHECK(std::isnan(x));
      CHECK((detail::to_half(x) & 0x7fffu) > 0x7c00u);
      continue;
    }
    CHECK(detail::to_half(x) == half);
    if ((h & 0x7fffu) >= 0x7bffu) continue;
    float const next = detail::from_half(static_cast<std::uint16_t>(h + 1)), middle = (x + next) / 2;
    CHECK(detail::to_half(middle) == (h % 2 == 0 ? h : h + 1));
    CHECK(detail::to_half(std::nextafter(middle, x)) == half);
    CHECK(detail::to_half(std::nextafter(middle, next)) == h + 1);
  }
  CHECK(detail::from_half(0x3c00) == 1.0f);
  CHECK(detail::from_half(0xc000) == -2.0f);
  CHECK(detail::from_half(0x0001) == 0x1p-24f);
  CHECK(detail::from_half(0x7bff) == 65504.0f);
  CHECK(detail::to_half(65519.0f) == 0x7bff);
  CHECK(detail::to_half(65520.0f) == 0x7c00);
  CHECK(detail::to_half(-1e30f) == 0xfc00);
}

TEST_CASE("hugging_face: a file that does not fit is refused by one message that names all that differs") {
  CHECK(refusal([](auto& all) { all.erase(all.begin() + 3); }) ==
        "\n  \"backbone.layers.0.mixer.conv1d.bias\": expected F32 [96], the file has no such tensor");
  CHECK(refusal([](auto& all) {
          find(all, "backbone.layers.1.mixer.conv1d.weight").shape = {96, 4};
        }) == "\n  \"backbone.layers.1.mixer.conv1d.weight\": expected F32 [96, 1, 4], the file has F32 [96, 4]");
  CHECK(refusal([](auto& all) {
          find(all, "backbone.layers.0.mixer.in_proj.weight").shape = {48, 192};
        }) == "\n  \"backbone.layers.0.mixer.in_proj.weight\": expected F32 [192, 48], the file has F32 [48, 192]");
  CHECK(refusal([](auto& all) {
          all.push_back({"backbone.layers.2.mixer.in_proj.bias", "BF16", {2}, std::vector<std::byte>(4)});
        }) == "\n  \"backbone.layers.2.mixer.in_proj.bias\": not expected, the file has BF16 [2]");
  CHECK(refusal([](auto& all) { find(all, "backbone.layers.0.mixer.D").dtype = "I32"; }) ==
        "\n  \"backbone.layers.0.mixer.D\": expected F32 [96], the file has I32 [96]");
  std::string const several = refusal([](auto& all) {
    all[0].name = "model.embed_tokens.weight";
    find(all, "backbone.norm_f.weight").shape = {1, 48};
    find(all, "backbone.layers.1.mixer.A_log").shape = {16, 96};
  });
  CHECK(std::count(several.begin(), several.end(), '\n') == 4);
  CHECK(test::contains(several, "\"backbone.embeddings.weight\": expected F32 [101, 48], the file has no such tensor"));
  CHECK(test::contains(several, "\"model.embed_tokens.weight\": not expected, the file has F32 [101, 48]"));
  std::string const both = refusal([](auto& all) {
    all.push_back(all.front());
    all.back().name = "backbone.embedding.weight";
  });
  CHECK(both == "\n  \"backbone.embedding.weight\": not expected, the file has F32 [101, 48]");
}

TEST_CASE("hugging_face: heads, tied and not; models that are none of theirs") {
  test::temporary_directory const folder;
  auto const with_head = [&](float last) {
    return variant(folder, [&](auto& all) {
      all.push_back(all.front());
      all.back().name = "lm_head.weight";
      std::memcpy(all.back().bytes.data() + 4 * (101 * 48 - 1), &last, 4);
    });
  };
  std::string const different = with_head(7.0f);
  weights w(static_cast<std::size_t>(model::parameter_count));
  CHECK(test::contains(test::error_of([&] { load_hugging_face_mamba<model>(different, w.data()); }),
                       "one table for embedding and head: lm_head.weight differs"));
  using untied = model_of<false>;
  weights two(static_cast<std::size_t>(untied::parameter_count));
  auto const like = load_hugging_face_mamba<untied>(different, two.data());
  CHECK(two[static_cast<std::size_t>(parameters_of<untied>().back().place<float>(0, 100, 47))] == 7.0f);
  save_hugging_face_mamba<untied>(folder / "again", two.data(), like);
  CHECK((content_of(folder / "again") == content_of(different)));
  CHECK(test::contains(test::error_of([&] { load_hugging_face_mamba<untied>(golden("model.safetensors"), two.data()); }),
                       "\"lm_head.weight\": expected F32 [101, 48], the file has no such tensor"));
  CHECK(test::error_of([&] { save_hugging_face_mamba<repeat<2, residual<mamba<small>>>>(folder / "never", two.data()); }) ==
        "hugging_face: a Mamba model of theirs has no parameter \"0.norm.weight\"");
  CHECK(!std::filesystem::exists(folder / "never"));
}

TEST_CASE("hugging_face: a damaged file is an error, not a model") {
  test::temporary_directory const folder;
  std::string const good = content_of(golden("model.safetensors"));
  weights w(static_cast<std::size_t>(model::parameter_count));
  for (std::size_t n : {std::size_t{0}, std::size_t{7}, std::size_t{900}, good.size() - 1}) {
    test::put_file(folder / "cut", good.substr(0, n));
    CHECK(test::contains(test::error_of([&] { load_hugging_face_mamba<model>(folder / "cut", w.data()); }), "cut"));
  }
  CHECK(test::error_of([&] { load_hugging_face_mamba<model>(folder / "absent", w.data()); }) != "");
  CHECK(test::contains(test::error_of([] { load_hugging_face_mamba<model>(golden("model.safetensors"), nullptr); }), "no memory for the weights"));
  CHECK(test::contains(test::error_of([&] { save_hugging_face_mamba<model>(folder / "never", nullptr); }), "no weights to write"));
  CHECK(!std::filesystem::exists(folder / "never"));
}
