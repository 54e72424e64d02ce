#include <examples/common/process.hpp>

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include <moe/core/error.hpp>

extern char** environ;

namespace trainer {

using moe::errc;
using moe::expects;

namespace {

constexpr int handled[] = {SIGINT, SIGTERM, SIGHUP, SIGXCPU, SIGPIPE};
struct sigaction before[std::size(handled)], before_limit;
volatile sig_atomic_t first_signal = 0, quits = 0;  // quits: a SIGINT or SIGTERM has come

extern "C" void on_signal(int number) {
  if (number == SIGINT || number == SIGTERM) {
    if (quits != 0) _exit(128 + number);
    quits = 1;
  }
  if (first_signal == 0) first_signal = number;
}

}  // namespace

stop_signals::stop_signals() {
  first_signal = 0;
  quits = 0;
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  for (std::size_t i = 0; i < std::size(handled); ++i) {
    sigaction(handled[i], nullptr, &before[i]);
    bool const ignored = before[i].sa_handler == SIG_IGN && handled[i] == SIGHUP;  // nohup
    if (!ignored) sigaction(handled[i], &action, nullptr);
  }
  action.sa_handler = SIG_IGN;  // a file beyond the limit of its size is then an error of write, with a message
  sigaction(SIGXFSZ, &action, &before_limit);
}
stop_signals::~stop_signals() {
  for (std::size_t i = 0; i < std::size(handled); ++i) sigaction(handled[i], &before[i], nullptr);
  sigaction(SIGXFSZ, &before_limit, nullptr);
}
int stop_signals::received() { return first_signal; }

directory_lock::directory_lock(std::string const& directory) {
  std::string const path = directory + "/lock";
  file_ = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  expects(file_ >= 0, errc::io, path, ": ", std::strerror(errno));
  if (flock(file_, LOCK_EX | LOCK_NB) != 0) {
    char owner[32] = {};
    ssize_t const n = pread(file_, owner, sizeof owner - 1, 0);
    close(file_);
    file_ = -1;
    std::string const who(owner, static_cast<std::size_t>(n > 0 ? n : 0));
    moe::fail(errc::io, directory, ": another trainer works here (process ", who.empty() ? "unknown" : who, "); give this one another --out");
  }
  std::string const own = std::to_string(getpid());
  if (ftruncate(file_, 0) != 0 || pwrite(file_, own.data(), own.size(), 0) < 0) {
    // the lock holds without the number, which only serves the message of the next trainer
  }
}
directory_lock::~directory_lock() {
  if (file_ >= 0) close(file_);
}

void calm_waiting_threads(char* const* argv) {
#if defined(__linux__)
  if (std::getenv("OMP_WAIT_POLICY") != nullptr || std::getenv("GOMP_SPINCOUNT") != nullptr) return;
  setenv("GOMP_SPINCOUNT", "2000", 1);  // some microseconds: longer than a short gap, shorter than a time slice
  execv("/proc/self/exe", argv);        // returns only if it failed: then the threads spin
#endif
  (void)argv;
}

bool exists(std::string const& path) {
  struct stat info {};
  return stat(path.c_str(), &info) == 0;
}

bool program_exists(std::string const& name) {
  char const* const all = std::getenv("PATH");
  std::string const path = all == nullptr ? "/usr/local/bin:/usr/bin:/bin:/usr/games" : all;
  for (std::size_t b = 0, e; b <= path.size(); b = e + 1) {
    e = std::min(path.find(':', b), path.size());
    if (e > b && access((path.substr(b, e - b) + "/" + name).c_str(), X_OK) == 0) return true;
  }
  return false;
}

std::optional<std::string> run_program(std::vector<std::string> const& arguments, std::string_view input) {
  int to[2], from[2];
  if (pipe2(to, O_CLOEXEC) != 0) return {};
  if (pipe2(from, O_CLOEXEC) != 0) return close(to[0]), close(to[1]), std::nullopt;
  std::vector<char*> argv;
  for (auto const& a : arguments) argv.push_back(const_cast<char*>(a.c_str()));
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, to[0], 0);
  posix_spawn_file_actions_adddup2(&actions, from[1], 1);
  posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
  pid_t child = 0;
  int const status = posix_spawnp(&child, argv[0], &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  close(to[0]), close(from[1]);
  fcntl(to[1], F_SETFL, O_NONBLOCK);
  struct sigaction ignore {
  }, saved{};
  ignore.sa_handler = SIG_IGN;  // a program that does not read all of its input is no reason to stop
  sigaction(SIGPIPE, &ignore, &saved);
  std::string output;
  bool feeding = status == 0, reading = status == 0;
  while (reading) {
    if (feeding && input.empty()) close(to[1]), feeding = false;
    pollfd wait[2] = {{from[0], POLLIN, 0}, {feeding ? to[1] : -1, POLLOUT, 0}};
    if (poll(wait, 2, -1) < 0 && errno != EINTR) break;
    if (wait[1].revents != 0) {
      ssize_t const n = write(to[1], input.data(), input.size());
      if (n > 0) input.remove_prefix(static_cast<std::size_t>(n));
      else if (n < 0 && errno != EAGAIN && errno != EINTR) close(to[1]), feeding = false;
    }
    if (wait[0].revents != 0) {
      char block[65536];
      ssize_t const n = read(from[0], block, sizeof block);
      if (n > 0) output.append(block, static_cast<std::size_t>(n));
      else if (n == 0 || (errno != EAGAIN && errno != EINTR)) reading = false;
    }
  }
  if (feeding || status != 0) close(to[1]);
  close(from[0]);
  sigaction(SIGPIPE, &saved, nullptr);
  if (status != 0) return {};
  int result = 0;
  while (waitpid(child, &result, 0) < 0 && errno == EINTR) continue;
  if (!WIFEXITED(result) || WEXITSTATUS(result) != 0) return {};
  return output;
}

std::optional<std::size_t> xz_bytes(std::string_view text) {
  auto const packed = run_program({"xz", "-9", "-c"}, text);
  if (!packed) return {};
  return packed->size();
}

}  // namespace trainer
