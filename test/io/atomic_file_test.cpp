#include <moe/io/atomic_file.hpp>

#include "test/io/temporary.hpp"
#include "test/support.hpp"

TEST_CASE("atomic_file: what was written is read back, and nothing else is left") {
  test::temporary_directory const directory;
  std::string const path = directory / "a b.txt";
  std::string const large(3'000'000, 'x');
  for (std::string const& content : {std::string(), std::string("one"), std::string("zero \0 byte", 11), large}) {
    moe::write_file(path, content);
    CHECK(moe::read_file(path) == content);
    CHECK(directory.names() == std::vector<std::string>{"a b.txt"});
  }
}

TEST_CASE("atomic_file: without commit the old content stays and the temporary file goes") {
  test::temporary_directory const directory;
  std::string const path = directory / "file";
  moe::write_file(path, "old");
  {
    moe::atomic_file file(path);
    file.write("new");
    CHECK(directory.names().size() == 2);
    CHECK(moe::read_file(path) == "old");
  }
  CHECK(moe::read_file(path) == "old");
  CHECK(directory.names().size() == 1);
}

TEST_CASE("atomic_file: whichever call fails, there is one whole content and no temporary file") {
  test::temporary_directory const directory;
  std::string const path = directory / "file";
  int failed = 0;
  for (int n = 1;; ++n) {
    moe::write_file(path, "old");
    auto const calls = test::failing_calls::at(n);
    std::string const message = test::error_of([&] { moe::write_file(path, "new", calls); });
    std::string const content = moe::read_file(path);
    CHECK(directory.names() == std::vector<std::string>{"file"});
    if (test::failing_calls::failures == 0) {
      CHECK(message.empty());
      CHECK(content == "new");
      break;
    }
    ++failed;
    CHECK((content == "old" || content == "new"));
    if (!message.empty()) {  // a failing close of the directory is of no consequence
      CHECK(test::contains(message, directory.path()));
      CHECK(test::contains(message, "Input/output error"));
    } else {
      CHECK(content == "new");
    }
  }
  CHECK(failed == 8);  // open, write, fsync, close, rename, open, fsync, close
}

TEST_CASE("atomic_file: short and interrupted writes are continued") {
  test::temporary_directory const directory;
  moe::file_calls calls;
  static int turn;
  turn = 0;
  calls.write = [](int file, void const* p, std::size_t n) {
    if (++turn % 2 == 0) return errno = EINTR, ssize_t{-1};
    return ::write(file, p, n > 3 ? 3 : n);
  };
  moe::write_file(directory / "f", "0123456789", calls);
  CHECK(moe::read_file(directory / "f") == "0123456789");
  calls.write = [](int, void const*, std::size_t) { return ssize_t{0}; };  // would never end
  CHECK(test::contains(test::error_of([&] { moe::write_file(directory / "f", "x", calls); }), "No space left"));
}

TEST_CASE("atomic_file: a device or a directory is not replaced") {
  test::temporary_directory const directory;
  CHECK(test::contains(test::error_of([&] { moe::write_file("/dev/full", "x"); }), "write \"/dev/full\": exists and is not a regular file"));
  CHECK(test::contains(test::error_of([&] { moe::write_file(directory.path(), "x"); }), "exists and is not a regular file"));
  CHECK(test::contains(test::error_of([&] { moe::write_file(directory / "missing/f", "x"); }), "No such file or directory"));
  CHECK(test::contains(test::error_of([] { moe::write_file("", "x"); }), "path is empty"));
  CHECK(test::contains(test::error_of([] { moe::write_file(std::string("a\0b", 3), "x"); }), "zero byte"));
}

TEST_CASE("atomic_file: a full device") {
  test::temporary_directory const directory;
  moe::file_calls calls;
  calls.write = [](int, void const* p, std::size_t n) {
    int const full = ::open("/dev/full", O_WRONLY);
    ssize_t const r = ::write(full, p, n);
    int const code = errno;
    ::close(full);
    return errno = code, r;
  };
  moe::write_file(directory / "f", "old");
  std::string const message = test::error_of([&] { moe::write_file(directory / "f", "new", calls); });
  CHECK(test::contains(message, "write \"" + (directory / "f.tmp-")));
  CHECK(test::contains(message, "No space left on device"));
  CHECK(moe::read_file(directory / "f") == "old");
  CHECK(directory.names().size() == 1);
}

TEST_CASE("read_file: limits, missing files, directories, devices") {
  test::temporary_directory const directory;
  moe::write_file(directory / "f", "12345");
  CHECK(moe::read_file(directory / "f", 5) == "12345");
  CHECK(test::contains(test::error_of([&] { moe::read_file(directory / "f", 4); }), "longer than the 4 bytes allowed"));
  CHECK(test::contains(test::error_of([&] { moe::read_file(directory / "g"); }), "open \"" + (directory / "g") + "\": No such file"));
  CHECK(test::contains(test::error_of([&] { moe::read_file(directory.path()); }), "Is a directory"));
  CHECK(moe::read_file("/dev/null").empty());
  CHECK(test::contains(test::error_of([&] { moe::read_file("/dev/zero", 1 << 20); }), "longer than"));
  moe::input_file const file(directory / "f");
  char six[6];
  CHECK(test::contains(test::error_of([&] { file.read(six, 6); }), "the file ends 1 bytes early"));
}

TEST_CASE("make_directories: creates what is missing") {
  test::temporary_directory const directory;
  moe::make_directories(directory / "a/b c/d");
  moe::make_directories(directory / "a/b c/d");
  moe::make_directories(directory / "a/b c/e/");
  moe::write_file(directory / "a/b c/d/f", "x");
  CHECK(test::contains(test::error_of([&] { moe::make_directories(directory / "a/b c/d/f/g"); }), "create directory"));
}
