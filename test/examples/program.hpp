#pragma once
// Runs of the trainer in processes of their own, and what they wrote.
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <moe/core/random.hpp>
#include <moe/io/checkpoint.hpp>
#include <test/support.hpp>

namespace test {

struct result {
  int code;
  std::string out, err;
};

/// Calls body() in a child, which ends with the code that it returns.
template <class F>
result in_process(F const& body) {
  static int count = 0;
  std::string const out = "/tmp/moe_out_" + std::to_string(getpid()) + "_" + std::to_string(++count), err = out + "e";
  std::cout.flush();
  std::fflush(nullptr);  // or the child writes our buffers as well
  pid_t const child = fork();
  if (child == 0) {
    int const o = open(out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600), e = open(err.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    dup2(o, 1), dup2(e, 2);
    int const code = body();
    std::fflush(stdout);
    _exit(code);
  }
  int status = 0;
  waitpid(child, &status, 0);
  result r{WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status), moe::read_file(out), moe::read_file(err)};
  unlink(out.c_str()), unlink(err.c_str());
  return r;
}

/// A directory with a text, removed at the end.
struct folder {
  std::string path = "/tmp/moe_trainer_" + std::to_string(getpid()), text = path + "/a text.txt";
  folder() {
    moe::make_directories(path);
    std::ofstream file(text);
    moe::random_stream const random{1, moe::random_purpose::test, 3};
    for (std::uint64_t i = 0; i < 3000; ++i) file << (random.below(i, 3) == 0 ? "and the " : "of them\n");
  }
  folder(folder const&) = delete;
  ~folder() { (void)!std::system(("rm -rf " + path).c_str()); }
  std::string run(std::string const& name) const { return path + "/" + name; }
};

/// The tensor file and the manifest of the newest checkpoint.
inline std::pair<std::string, std::string> bytes_of(std::string const& directory) {
  auto const c = moe::latest_checkpoint(directory);
  REQUIRE(c.has_value());
  return {moe::read_file(c->path), moe::read_file(directory + "/" + moe::detail::step_name(c->manifest.step) + ".json")};
}
inline double number_after(std::string const& text, std::string const& label) {
  auto const at = text.rfind(label);
  return at == std::string::npos ? -1 : std::strtod(text.c_str() + at + label.size(), nullptr);
}

}  // namespace test
