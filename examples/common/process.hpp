#pragma once
// The operating system's side of a run: signals, the lock on a directory, other programs.
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace trainer {

/// While it lives, SIGINT, SIGTERM, SIGHUP, SIGXCPU and SIGPIPE ask the trainer to stop after the step at hand; a second SIGINT or SIGTERM ends the
/// process at once. A file that grows beyond the limit of its size is an error of write instead of SIGXFSZ. One object at a time.
class stop_signals {
 public:
  stop_signals();
  stop_signals(stop_signals const&) = delete;
  ~stop_signals();
  static int received();  ///< 0, or the number of the first signal
};

/// One process per directory. The system lets go of the lock when the process ends, however it ends.
class directory_lock {
 public:
  /// Throws errc::io naming the process that has it.
  explicit directory_lock(std::string const& directory);
  directory_lock(directory_lock const&) = delete;
  ~directory_lock();

 private:
  int file_ = -1;
};

/// Starts the program again, once, with GOMP_SPINCOUNT set, unless the environment already says how OpenMP's threads wait. By default they spin
/// for milliseconds at the end of every loop: beside one other busy process a step took 1189 ms on two cores instead of 237. The OpenMP runtime reads
/// its settings before main, so a program cannot change its own. Does nothing where it cannot be done.
void calm_waiting_threads(char* const* argv);

bool exists(std::string const& path);
bool program_exists(std::string const& name);  ///< on PATH

/// Runs a program without a shell, feeds it `input` and returns what it writes to stdout; empty if it cannot be run or fails.
std::optional<std::string> run_program(std::vector<std::string> const& arguments, std::string_view input = {});

/// Bytes of `text` after `xz -9`; empty if there is no xz.
std::optional<std::size_t> xz_bytes(std::string_view text);

}  // namespace trainer
