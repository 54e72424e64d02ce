#include <moe/io/safetensors.hpp>
#include <moe/io/safetensors_writer.hpp>

#include "test/io/safetensors_example.hpp"
#include "test/io/temporary.hpp"
#include "test/support.hpp"

namespace {
std::string with_header(std::string const& header, std::size_t data_bytes) {
  std::uint64_t const n = header.size();
  return std::string(reinterpret_cast<char const*>(&n), 8) + header + std::string(data_bytes, 'd');
}
std::string tensor_text(std::string const& name, std::string const& dtype, std::string const& shape, std::string const& offsets) {
  return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":[" + shape + "],\"data_offsets\":[" + offsets + "]}";
}
struct file_under_test {
  test::temporary_directory directory;
  std::string path = directory / "f \xc3\xa9.safetensors";
  std::string error(std::string const& content) {
    test::put_file(path, content);
    return test::error_of([&] { moe::safetensors_reader{path}; });
  }
};
}  // namespace

TEST_CASE("safetensors: the published example, read bit by bit") {
  file_under_test f;
  CHECK(f.error(test::safetensors_example()).empty());
  moe::safetensors_reader const file(f.path);
  REQUIRE(file.tensors().size() == 1);
  CHECK(file.tensors()[0].name == "a");
  CHECK(file.tensors()[0].dtype == "F32");
  CHECK(file.tensors()[0].shape == moe::shape_list{2, 2});
  test::array<float> to(2, 2);
  file.read(*file.find("a"), to.data());
  CHECK(to.values() == std::vector<float>{1.0f, 2.0f, -0.5f, 0.25f});
}

TEST_CASE("safetensors: every truncation is an error, every flipped bit an error or a file that keeps the rules") {
  file_under_test f;
  std::string const good = test::safetensors_example();
  for (std::size_t n = 0; n < good.size(); ++n) CHECK_MESSAGE(test::contains(f.error(good.substr(0, n)), f.path), "accepted: " << n << " bytes");
  int accepted = 0;
  for (std::size_t i = 0; i < good.size(); ++i)
    for (int bit = 0; bit < 8; ++bit) {
      std::string damaged = good;
      damaged[i] = static_cast<char>(damaged[i] ^ (1 << bit));
      std::string const message = f.error(damaged);
      if (!message.empty()) {
        CHECK(test::contains(message, f.path));
        CHECK(i < 72);  // data bits mean nothing to the reader; the manifest's checksum sees them
        continue;
      }
      ++accepted;
      moe::safetensors_reader const file(f.path);
      REQUIRE(file.tensors().size() == 1);
      auto const& t = file.tensors()[0];
      CHECK((t.begin == 0 && t.end == 16));
      char to[16];
      file.read(t, to);
      CHECK(std::memcmp(to, damaged.data() + 72, 16) == 0);
    }
  CHECK(accepted >= 128);
}

TEST_CASE("safetensors: hostile headers, each refused with its reason") {
  file_under_test f;
  auto const length = [](std::uint64_t n) { return std::string(reinterpret_cast<char const*>(&n), 8); };
  CHECK(test::contains(f.error(""), "0 bytes long"));
  CHECK(test::contains(f.error("1234567"), "7 bytes long"));
  for (std::uint64_t const n :
       {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{3}, std::uint64_t{100'000'001}, std::uint64_t{1} << 63, ~std::uint64_t{0}})
    CHECK(test::contains(f.error(length(n) + "{}"), "claims a header of " + std::to_string(n) + " bytes"));
  CHECK(f.error(with_header("{}", 0)).empty());
  CHECK(f.error(with_header("{}      ", 0)).empty());
  CHECK(test::contains(f.error(with_header(" {}", 0)), "does not begin with '{'"));
  CHECK(test::contains(f.error(with_header("[]", 0)), "does not begin with '{'"));
  CHECK(test::contains(f.error(with_header("{} x", 0)), "text behind"));
  CHECK(test::contains(f.error(with_header("{}", 5)), "has 5 bytes behind the last tensor"));
  auto const one = [&](std::string const& dtype, std::string const& shape, std::string const& offsets, std::size_t bytes) {
    return f.error(with_header("{" + tensor_text("name", dtype, shape, offsets) + "}", bytes));
  };
  CHECK(one("F32", "2", "0,8", 8).empty());
  CHECK(test::contains(one("F31", "2", "0,8", 8), "tensor \"name\" (\"F31\" [2], bytes [0, 8)): unknown type"));
  CHECK(test::contains(one("F32", "3", "0,8", 8), "tensor \"name\" (\"F32\" [3], bytes [0, 8)): type and shape need 12 bytes"));
  CHECK(test::contains(one("F32", "2", "0,9", 8), "outside the 8 bytes of data"));
  CHECK(test::contains(one("F32", "2", "8,0", 8), "outside the 8 bytes of data"));
  CHECK(test::contains(one("F32", "2", "0,8", 12), "4 bytes behind the last tensor"));
  CHECK(test::contains(one("F32", "2", "4,12", 12), "leaves a hole from 0"));
  CHECK(test::contains(one("F32", "-2", "0,8", 8), "a negative number"));
  CHECK(test::contains(one("F32", "2", "-8,0", 8), "a negative number"));
  CHECK(test::contains(one("F32", "2.0", "0,8", 8), "whole number"));
  CHECK(test::contains(one("F32", "2", "0,8,9", 8), "more than 2 numbers"));
  CHECK(test::contains(one("F32", "2", "0", 8), "needs dtype, shape and two data_offsets"));
  CHECK(test::contains(one("F32", "1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,2", "0,8", 8), "more than 16 numbers"));
  CHECK(test::contains(one("F32", "4294967296,4294967296", "0,8", 8), "does not fit 64 bits"));
  CHECK(test::contains(one("F32", "4611686018427387904", "0,0", 0), "does not fit 64 bits"));
  CHECK(test::contains(one("F32", "9223372036854775808", "0,0", 0), "whole number"));
  CHECK(test::contains(one("F32", "2", "0,18446744073709551624", 8), "whole number"));
  std::string const a = tensor_text("a", "U8", "4", "0,4");
  CHECK(test::contains(f.error(with_header("{" + a + "," + tensor_text("b", "U8", "4", "2,6") + "}", 6)),
                       "overlaps the tensor before it, which ends at 4"));
  CHECK(test::contains(f.error(with_header("{" + a + "," + tensor_text("b", "U8", "1", "5,6") + "}", 6)), "leaves a hole from 4"));
  CHECK(test::contains(f.error(with_header("{" + a + "," + a + "}", 4)), "two members of the name \"a\""));
  CHECK(f.error(with_header("{" + tensor_text("b", "U8", "2", "4,6") + "," + a + "}", 6)).empty());  // the order of names is free
  CHECK(test::contains(f.error(with_header("{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4],\"x\":1}}", 4)), "unknown member \"x\""));
  CHECK(test::contains(f.error(with_header("{\"a\":{\"dtype\":\"U8\",\"shape\":[4]}}", 4)), "needs dtype"));
  CHECK(test::contains(f.error(with_header("{\"a\":[]}", 4)), "an object was expected"));
  CHECK(test::contains(f.error(with_header("{\"\xff\":{}}", 4)), "invalid UTF-8"));
  CHECK(test::contains(f.error(with_header("{\"__metadata__\":{\"a\":1}}", 0)), "a string was expected"));
  CHECK(test::contains(f.error(with_header("{\"a\":{\"dtype\":{\"b\":{\"c\":{}}}}}", 0)), "a string was expected"));
  CHECK(test::contains(f.error(with_header("{\"a\":{\"shape\":[[[[[0]]]]]}}", 0)), "a number was expected"));
}

TEST_CASE("read_tensors: one error lists every difference, and nothing is touched") {
  test::temporary_directory const directory;
  std::string const path = directory / "f";
  float const x[6] = {1, 2, 3, 4, 5, 6};
  moe::write_safetensors(
      path, {moe::source_of("same", x, {6}), moe::source_of("shape", x, {2, 3}), {"type", "I32", {6}, x}, moe::source_of("extra", x, {1})});
  moe::safetensors_reader const file(path);
  test::array<float> to(6);
  std::string const message = test::error_of([&] {
    moe::read_tensors(file, {moe::target_of("same", to.data(), {6}), moe::target_of("shape", to.data(), {3, 2}),
                             moe::target_of("type", to.data(), {6}), moe::target_of("missing", to.data(), {2})});
  });
  CHECK(test::contains(message, path));
  CHECK(test::contains(message, "\"shape\": expected F32 [3, 2], the file has F32 [2, 3]"));
  CHECK(test::contains(message, "\"type\": expected F32 [6], the file has I32 [6]"));
  CHECK(test::contains(message, "\"missing\": expected F32 [2], the file has no such tensor"));
  CHECK(test::contains(message, "\"extra\": not expected, the file has F32 [1]"));
  CHECK(!test::contains(message, "\"same\""));
  for (float const v : to.values()) CHECK(std::isnan(v));
  CHECK(test::contains(test::error_of([&] {
                         moe::read_tensors(file, {moe::target_of("same", to.data(), {6}), moe::target_of("same", to.data(), {6})});
                       }),
                       "asked for twice"));
}

TEST_CASE("safetensors: a file that shrinks while it is open") {
  test::temporary_directory const directory;
  std::string const path = directory / "f";
  std::vector<float> const x(1000, 1.0f);
  moe::write_safetensors(path, {moe::source_of("x", x.data(), {1000})});
  moe::safetensors_reader const file(path);
  REQUIRE(::truncate(path.c_str(), 2000) == 0);
  std::vector<float> to(1000);
  CHECK(test::contains(test::error_of([&] { file.read(*file.find("x"), to.data()); }), "ends"));
}
