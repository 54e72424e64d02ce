#include <moe/io/safetensors_writer.hpp>

#include "test/io/safetensors_example.hpp"
#include "test/io/temporary.hpp"
#include "test/support.hpp"

TEST_CASE("safetensors writer: the published example, written bit by bit") {
  test::temporary_directory const directory;
  float const data[] = {1.0f, 2.0f, -0.5f, 0.25f};
  std::string const path = directory / "a.safetensors";
  auto const written = moe::write_safetensors(path, {moe::source_of("a", data, {2, 2})});
  std::string const bytes = moe::read_file(path);
  CHECK(bytes == test::safetensors_example());
  CHECK(bytes.size() == 88);
  CHECK(written.bytes == 88);
  CHECK(written.crc64 == moe::crc64(bytes));
}

TEST_CASE("safetensors writer: round trip of several types, empty tensors, scalars, odd names, metadata") {
  test::temporary_directory const directory;
  std::string const path = directory / "\xe6\x96\x87 x.safetensors";
  test::array<double> d(3, 5);
  test::array<moe::bf16> b(7, 1);
  test::array<float> f(1, 1);
  d.normal(1), b.normal(2), f.normal(3);
  unsigned char const raw[3] = {1, 2, 3};
  moe::text_map const metadata = {{"format", "pt"}, {"a \"quoted\"\n key", "\xc3\xa4"}};
  moe::write_safetensors(path,
                         {{"raw", "U8", {3}, raw},
                          moe::source_of("b", b.data(), {7}),
                          moe::source_of("none", f.data(), {0, 4}),
                          moe::source_of("scalar \xe6\x96\x87\n", f.data(), {}),
                          moe::source_of("d", d.data(), {3, 5})},
                         metadata);
  moe::safetensors_reader const file(path);
  CHECK(file.metadata() == metadata);
  CHECK(file.tensors().size() == 5);
  CHECK((moe::read_file(path).size() - (120 + 14 + 0 + 4 + 3)) % 8 == 0);
  for (auto const& t : file.tensors()) CHECK(t.begin % moe::dtype_bytes(t.dtype) == 0);
  test::array<double> d2(3, 5);
  test::array<moe::bf16> b2(7, 1);
  test::array<float> f2(1, 1);
  unsigned char raw2[3];
  moe::read_tensors(file, {moe::target_of("d", d2.data(), {3, 5}),
                           moe::target_of("b", b2.data(), {7}),
                           {"raw", "U8", {3}, raw2},
                           moe::target_of("scalar \xe6\x96\x87\n", f2.data(), {}),
                           moe::target_of<float>("none", nullptr, {0, 4})});
  CHECK(test::same_bits(d.values(), d2.values()));
  CHECK(test::same_bits(b.values(), b2.values()));
  CHECK(test::same_bits(f.values(), f2.values()));
  CHECK(std::memcmp(raw, raw2, 3) == 0);
  moe::write_safetensors(path, {});
  CHECK(moe::safetensors_reader(path).tensors().empty());
}

TEST_CASE("safetensors writer: wrong sources are refused before anything is touched") {
  test::temporary_directory const directory;
  std::string const path = directory / "f";
  float const x[2] = {1, 2};
  auto const message = [&](std::vector<moe::tensor_source> const& s, moe::text_map const& m = {}) {
    return test::error_of([&] { moe::write_safetensors(path, s, m); });
  };
  CHECK(test::contains(message({{"a", "F33", {2}, x}}), "tensor \"a\" (\"F33\" [2]): unknown type"));
  CHECK(test::contains(message({{"a", "F32", {-1}, x}}), "impossible shape"));
  CHECK(test::contains(message({{"a", "F32", {INT64_MAX, 2}, x}}), "impossible shape"));
  CHECK(test::contains(message({{"a", "F32", {2}, nullptr}}), "no data"));
  CHECK(test::contains(message({{"__metadata__", "F32", {2}, x}}), "reserved"));
  CHECK(test::contains(message({{"a", "F32", {2}, x}, {"a", "F32", {2}, x}}), "given twice"));
  CHECK(test::contains(message({{"\xff", "F32", {2}, x}}), "invalid UTF-8"));
  CHECK(test::contains(message({}, {{"k", "1"}, {"k", "2"}}), "metadata \"k\" is given twice"));
  CHECK(directory.names().empty());
}
