#pragma once
// A directory of its own for a test, with a space and letters beyond ASCII in its name, removed at the end.
#include <stdlib.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <moe/io/atomic_file.hpp>

namespace test {

class temporary_directory {
 public:
  temporary_directory() {
    std::string name = (std::filesystem::temp_directory_path() / "moe t\xc3\xa4st \xe6\x96\x87 XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw moe::error(moe::errc::io, "no temporary directory");
    path_ = name;
  }
  temporary_directory(temporary_directory const&) = delete;
  temporary_directory& operator=(temporary_directory const&) = delete;
  ~temporary_directory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::string const& path() const { return path_; }
  std::string operator/(std::string const& name) const { return path_ + "/" + name; }
  /// Names of what is in it, sorted.
  std::vector<std::string> names() const {
    std::vector<std::string> list;
    for (auto const& entry : std::filesystem::directory_iterator(path_)) list.push_back(entry.path().filename().string());
    std::sort(list.begin(), list.end());
    return list;
  }

 private:
  std::string path_;
};

/// Writes a file without the syncs that atomic_file waits for.
inline void put_file(std::string const& path, std::string const& content) { std::ofstream(path, std::ios::binary) << content; }

/// Lets one system call fail: the n-th of those that change something or read.
struct failing_calls {
  static inline int until_failure = 0;  ///< 1: the next call fails
  static inline int failures = 0;
  static bool fails() {
    if (--until_failure != 0) return false;
    errno = EIO;
    ++failures;
    return true;
  }
  static moe::file_calls at(int n) {
    until_failure = n;
    failures = 0;
    static moe::file_calls const real;
    moe::file_calls c;
    c.open = [](char const* p, int f, mode_t m) { return fails() ? -1 : real.open(p, f, m); };
    c.read = [](int f, void* p, std::size_t n_) { return fails() ? ssize_t{-1} : real.read(f, p, n_); };
    c.write = [](int f, void const* p, std::size_t n_) { return fails() ? ssize_t{-1} : real.write(f, p, n_); };
    c.seek = [](int f, off_t o, int w) { return fails() ? off_t{-1} : real.seek(f, o, w); };
    c.fsync = [](int f) { return fails() ? -1 : real.fsync(f); };
    c.close = [](int f) {
      real.close(f);
      return fails() ? -1 : 0;
    };
    c.rename = [](char const* a, char const* b) { return fails() ? -1 : real.rename(a, b); };
    c.unlink = [](char const* p) { return fails() ? -1 : real.unlink(p); };
    c.mkdir = [](char const* p, mode_t m) { return fails() ? -1 : real.mkdir(p, m); };
    return c;
  }
};

/// Calls f(changed text) for every truncation and every single flipped bit of a text.
template <class F>
void for_each_damage(std::string const& text, F&& f) {
  for (std::size_t n = 0; n < text.size(); ++n) f(text.substr(0, n));
  for (std::size_t i = 0; i < text.size(); ++i)
    for (int bit = 0; bit < 8; ++bit) {
      std::string damaged = text;
      damaged[i] = static_cast<char>(damaged[i] ^ (1 << bit));
      f(damaged);
    }
}

}  // namespace test
