#include <moe/core/buffer.hpp>

#include "test/support.hpp"

using moe::arena;
using moe::buffer;
using test::contains;
using test::error_of;

static_assert(!std::is_copy_constructible_v<buffer> && std::is_nothrow_move_constructible_v<buffer> && std::is_nothrow_move_assignable_v<buffer>);

TEST_CASE("buffer: zero at first, writable to the last byte, aligned") {
  for (std::size_t bytes : {std::size_t{1}, std::size_t{63}, std::size_t{4096}, (std::size_t{2} << 20) + 1}) {
    buffer const b(bytes);
    REQUIRE(b.bytes() == bytes);
    CHECK(reinterpret_cast<std::uintptr_t>(b.data()) % moe::alignment == 0);
    for (std::size_t i = 0; i < bytes; ++i) REQUIRE(b.data()[i] == std::byte{0});
    std::memset(b.data(), 0x5a, bytes);
    CHECK(b.data()[bytes - 1] == std::byte{0x5a});
    CHECK(static_cast<void*>(b.as<float>()) == b.data());
  }
}

TEST_CASE("buffer: empty ones own nothing") {
  CHECK(buffer().data() == nullptr);
  CHECK(buffer(0).data() == nullptr);
  CHECK(buffer(0).bytes() == 0);
}

TEST_CASE("buffer: moving leaves the source empty and the memory where it was") {
  buffer a(100);
  a.data()[99] = std::byte{7};
  std::byte* const p = a.data();
  buffer b(std::move(a));
  CHECK(a.data() == nullptr);
  CHECK(a.bytes() == 0);
  CHECK(b.data() == p);
  buffer c(10);
  c = std::move(b);
  CHECK(b.data() == nullptr);
  CHECK(c.data() == p);
  CHECK(c.bytes() == 100);
  CHECK(c.data()[99] == std::byte{7});
}

TEST_CASE("buffer: says how much was refused") {
  for (std::size_t bytes : {SIZE_MAX, SIZE_MAX - 4096, std::size_t{1} << 62}) {
    try {
      buffer const b(bytes);
      FAIL("must throw");
    } catch (moe::error const& e) {
      CHECK(e.code == moe::errc::out_of_memory);
      CHECK(contains(e.what(), std::to_string(bytes)));
    }
  }
}

namespace {
struct layout {  // of the kind that operators have
  float* a;
  moe::vector_view<double> b;
  moe::matrix_view<std::uint8_t> c;
  explicit layout(arena& from) : a(from.take<float>(3)), b(from.vec<double>(9)), c(from.mat<std::uint8_t>(5, 13)) {}
};
}  // namespace

TEST_CASE("arena: measuring needs what using takes; every block is aligned and apart") {
  arena measure;
  CHECK(measure.measuring());
  layout const nothing(measure);
  CHECK(nothing.a == nullptr);
  CHECK(nothing.b.size() == 0);
  CHECK(nothing.c.size() == 0);
  CHECK(measure.peak() == 64 + 128 + 128);

  buffer const memory(measure.peak());
  arena use(memory);
  layout const l(use);
  CHECK(!use.measuring());
  CHECK(use.used() == measure.used());
  CHECK(use.peak() == measure.peak());
  CHECK(reinterpret_cast<std::byte*>(l.a) == memory.data());
  CHECK(reinterpret_cast<std::byte*>(l.b.data()) == memory.data() + 64);
  CHECK(reinterpret_cast<std::byte*>(l.c.data()) == memory.data() + 192);
  CHECK(l.b.extent<0>() == 9);
  CHECK(l.c.extent<0>() == 5);
  CHECK(l.c.extent<1>() == 13);

  arena short_of_one(memory.data(), memory.bytes() - 1);
  CHECK(error_of([&] { layout x(short_of_one); }) == "arena: 128 bytes asked, 127 of 319 left");
}

TEST_CASE("arena: without memory it is full; only a default-constructed one measures") {
  arena empty(nullptr, 0), of_empty_buffer{buffer()};
  CHECK(!empty.measuring());
  CHECK(!of_empty_buffer.measuring());
  CHECK(empty.take<float>(0) == nullptr);
  CHECK(error_of([&] { empty.take<float>(1); }) == "arena: 64 bytes asked, 0 of 0 left");
  CHECK(error_of([&] { of_empty_buffer.take<char>(1); }) == "arena: 64 bytes asked, 0 of 0 left");
}

TEST_CASE("arena: memory that is none; scratch that an operator finds too small") {
  CHECK(error_of([] { arena(nullptr, 64); }) == "arena: no memory, but 64 bytes of it");
  buffer const memory(128);
  arena a(memory), measuring;
  a.take<char>(1);
  moe::detail::check_scratch("op", a, 64);
  moe::detail::check_scratch("op", measuring, 0);
  CHECK(error_of([&] { moe::detail::check_scratch("op", a, 65); }) == "op: scratch has 64 bytes left, needs 65");
  CHECK(error_of([&] { moe::detail::check_scratch("op", measuring, 1); }) == "op: scratch is a measuring arena, which has no memory");
}

TEST_CASE("arena: the code of a full one is out_of_memory") {
  arena a(nullptr, 0);
  try {
    a.take<char>(1);
    FAIL("must throw");
  } catch (moe::error const& e) {
    CHECK(e.code == moe::errc::out_of_memory);
  }
}

TEST_CASE("arena: a scope gives back what was taken inside; the peak stays") {
  buffer const memory(1024);
  arena a(memory);
  a.take<char>(64);
  char* first = nullptr;
  {
    arena::scope const outer(a);
    first = a.take<char>(128);
    {
      arena::scope const inner(a);
      a.take<char>(256);
      CHECK(a.used() == 448);
    }
    CHECK(a.used() == 192);
  }
  CHECK(a.used() == 64);
  CHECK(a.peak() == 448);
  CHECK(a.take<char>(1) == first);
}

TEST_CASE("arena: sizes that make no sense or do not fit") {
  arena a;
  CHECK(error_of([&] { a.take<float>(-1); }) == "arena: take of -1 elements");
  CHECK(error_of([&] { a.take<double>(INT64_MAX); }) == "arena: take of 9223372036854775807 elements");
  CHECK(error_of([&] { a.mat<float>(INT64_MAX / 2, 3); }) ==
        "arena: 4611686018427387903 x 3 elements, sizes must not be negative and their product must fit 64 bits");
  CHECK(error_of([&] { a.mat<float>(INT64_MIN, 2); }) != "");
  CHECK(error_of([&] { a.mat<float>(-2, -3); }) != "");  // also where their product is positive
  CHECK(error_of([&] { (a.mat<float, 4>(INT64_MAX / 2)); }) != "");
  CHECK(error_of([&] { a.mat<float>(2, -3); }) != "");
  CHECK(error_of([&] { a.mat<float>(-2, 3); }) != "");
  CHECK(a.peak() == 0);
  a.take<char>(INT64_MAX - 64);
  a.take<char>(INT64_MAX - 64);
  CHECK(error_of([&] { a.take<char>(INT64_MAX - 64); }) != "");  // the count does not wrap around
  CHECK(a.mat<float>(3, 0).size() == 0);
}
