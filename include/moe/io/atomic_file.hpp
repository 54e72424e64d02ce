#pragma once
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>
#include <system_error>

#include <moe/core/error.hpp>
#include <moe/core/macros.hpp>

namespace moe::inline MOE_ISA {

/// Every system call that files are read and written with. Replace a member to let the n-th call fail.
struct file_calls {
  int (*open)(char const* path, int flags, mode_t mode) = [](char const* path, int flags, mode_t mode) { return ::open(path, flags, mode); };
  ssize_t (*read)(int file, void* to, std::size_t bytes) = [](int file, void* to, std::size_t bytes) { return ::read(file, to, bytes); };
  ssize_t (*write)(int file, void const* from, std::size_t bytes) = [](int file, void const* from, std::size_t n) { return ::write(file, from, n); };
  off_t (*seek)(int file, off_t offset, int whence) = [](int file, off_t offset, int whence) { return ::lseek(file, offset, whence); };
  int (*stat)(char const* path, struct stat* to) = [](char const* path, struct stat* to) { return ::stat(path, to); };
  int (*fsync)(int file) = [](int file) { return ::fsync(file); };
  int (*close)(int file) = [](int file) { return ::close(file); };
  int (*rename)(char const* from, char const* to) = [](char const* from, char const* to) { return ::rename(from, to); };
  int (*unlink)(char const* path) = [](char const* path) { return ::unlink(path); };
  int (*mkdir)(char const* path, mode_t mode) = [](char const* path, mode_t mode) { return ::mkdir(path, mode); };
};

namespace detail {
/// Throws errc::io: what was tried, on which path, and what the system said (`code` is an errno).
[[noreturn]] inline void fail_io(std::string_view operation, std::string const& path, int code) {
  throw error(errc::io, std::string(operation) + " \"" + path + "\": " + std::generic_category().message(code));
}
inline std::string parent_directory(std::string const& path) {
  auto const slash = path.find_last_of('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}
/// A path with a byte 0 would be cut there by the system.
inline void check_path(std::string const& path) {
  if (path.empty() || path.find('\0') != std::string::npos) throw error(errc::bad_argument, "file: the path is empty or contains a zero byte");
}
inline int open_retrying(file_calls const& calls, std::string const& path, int flags) {
  int file = -1;
  do file = calls.open(path.c_str(), flags | O_CLOEXEC, 0666);
  while (file < 0 && errno == EINTR);
  return file;
}
}  // namespace detail

/// Writes a file so that its path names either the old content or the whole new one, also after a crash or a power cut: the bytes go to a sibling
/// "<path>.tmp-<process id>", which commit() syncs and renames. Without commit() nothing but the temporary file is touched, and that is removed.
///
/// Throws  io, naming operation and path, when a system call fails or when the path names something that is not a regular file (renaming over a
///         device or a directory is never what was meant). After a throw the old content is still there, except where only the final sync of
///         the directory failed: then the new one is in place, but a power cut might undo it.
class atomic_file {
 public:
  explicit atomic_file(std::string path, file_calls const& calls = {})
      : calls_(calls), path_(std::move(path)), temporary_(path_ + ".tmp-" + std::to_string(::getpid())) {
    detail::check_path(path_);
    struct stat status {};
    if (calls_.stat(path_.c_str(), &status) == 0 && !S_ISREG(status.st_mode))
      throw error(errc::io, "write \"" + path_ + "\": exists and is not a regular file");
    file_ = detail::open_retrying(calls_, temporary_, O_WRONLY | O_CREAT | O_TRUNC);
    if (file_ < 0) detail::fail_io("create", temporary_, errno);
  }
  atomic_file(atomic_file const&) = delete;
  atomic_file& operator=(atomic_file const&) = delete;
  ~atomic_file() {
    if (file_ >= 0) calls_.close(file_);
    if (!renamed_) calls_.unlink(temporary_.c_str());
  }

  void write(void const* data, std::size_t bytes) {
    auto const* p = static_cast<char const*>(data);
    while (bytes > 0) {
      ssize_t const n = calls_.write(file_, p, std::min(bytes, std::size_t{1} << 30));
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) detail::fail_io("write", temporary_, n < 0 ? errno : ENOSPC);
      p += n;
      bytes -= static_cast<std::size_t>(n);
    }
  }
  void write(std::string_view text) { write(text.data(), text.size()); }

  /// Puts the file in place; call it once.
  void commit() {
    if (calls_.fsync(file_) != 0) detail::fail_io("fsync", temporary_, errno);
    int const closed = calls_.close(file_);
    file_ = -1;
    if (closed != 0) detail::fail_io("close", temporary_, errno);
    if (calls_.rename(temporary_.c_str(), path_.c_str()) != 0) {
      int const code = errno;
      detail::fail_io("rename \"" + temporary_ + "\" to", path_, code);
    }
    renamed_ = true;
    sync_directory(calls_, detail::parent_directory(path_));
  }

  /// Makes renames and removals in a directory last. File systems that cannot (EINVAL) are left alone.
  static void sync_directory(file_calls const& calls, std::string const& directory) {
    int const file = detail::open_retrying(calls, directory, O_RDONLY | O_DIRECTORY);
    if (file < 0) detail::fail_io("open directory", directory, errno);
    int const synced = calls.fsync(file), code = errno;
    calls.close(file);
    if (synced != 0 && code != EINVAL) detail::fail_io("fsync directory", directory, code);
  }

 private:
  file_calls calls_;
  std::string path_, temporary_;
  int file_ = -1;
  bool renamed_ = false;
};

inline void write_file(std::string const& path, std::string_view content, file_calls const& calls = {}) {
  atomic_file file(path, calls);
  file.write(content);
  file.commit();
}

/// A file being read. Throws errc::io where a system call fails, errc::bad_file where the file ends early.
class input_file {
 public:
  explicit input_file(std::string path, file_calls const& calls = {}) : calls_(calls), path_(std::move(path)) {
    detail::check_path(path_);
    file_ = detail::open_retrying(calls_, path_, O_RDONLY);
    if (file_ < 0) detail::fail_io("open", path_, errno);
  }
  input_file(input_file const&) = delete;
  input_file& operator=(input_file const&) = delete;
  ~input_file() { calls_.close(file_); }

  std::string const& path() const { return path_; }
  std::uint64_t bytes() const {
    off_t const end = calls_.seek(file_, 0, SEEK_END);
    if (end < 0) detail::fail_io("seek in", path_, errno);
    return static_cast<std::uint64_t>(end);
  }
  void seek(std::uint64_t offset) const {
    if (calls_.seek(file_, static_cast<off_t>(offset), SEEK_SET) < 0) detail::fail_io("seek in", path_, errno);
  }
  /// At most `bytes` bytes; 0 at the end of the file.
  std::size_t read_some(void* to, std::size_t bytes) const {
    for (;;) {
      ssize_t const n = calls_.read(file_, to, std::min(bytes, std::size_t{1} << 30));
      if (n >= 0) return static_cast<std::size_t>(n);
      if (errno != EINTR) detail::fail_io("read", path_, errno);
    }
  }
  void read(void* to, std::size_t bytes) const {
    for (std::size_t done = 0; done < bytes;) {
      std::size_t const n = read_some(static_cast<char*>(to) + done, bytes - done);
      if (n == 0) throw error(errc::bad_file, "read \"" + path_ + "\": the file ends " + std::to_string(bytes - done) + " bytes early");
      done += n;
    }
  }

 private:
  file_calls calls_;
  std::string path_;
  int file_ = -1;
};

/// The whole content of a file or pipe. Throws errc::bad_file if that is more than `limit` bytes.
inline std::string read_file(std::string const& path, std::size_t limit = SIZE_MAX, file_calls const& calls = {}) {
  input_file const file(path, calls);
  std::string text, block(std::size_t{1} << 18, '\0');
  while (std::size_t const n = file.read_some(block.data(), block.size())) {
    if (n > limit - text.size()) throw error(errc::bad_file, "read \"" + path + "\": longer than the " + std::to_string(limit) + " bytes allowed");
    text.append(block, 0, n);
  }
  return text;
}

/// Creates a directory and those above it, where they are missing.
inline void make_directories(std::string const& path, file_calls const& calls = {}) {
  detail::check_path(path);
  for (std::size_t slash = path.find('/', 1);; slash = path.find('/', slash + 1)) {
    std::string const part = path.substr(0, slash);
    struct stat status {};
    if (calls.mkdir(part.c_str(), 0777) != 0) {
      int const code = errno;
      if (calls.stat(part.c_str(), &status) != 0 || !S_ISDIR(status.st_mode)) detail::fail_io("create directory", part, code);
    }
    if (slash == std::string::npos) return;
  }
}

}  // namespace moe::inline MOE_ISA
