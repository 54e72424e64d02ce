#include <examples/common/corpus.hpp>

#include <algorithm>
#include <filesystem>
#include <vector>

#include <examples/common/process.hpp>
#include <examples/common/text.hpp>
#include <moe/data/dataset.hpp>
#include <moe/io/atomic_file.hpp>
#include <moe/io/checksum.hpp>

namespace trainer {
namespace {

namespace fs = std::filesystem;

/// The sources and documents of this repository, in the order of their paths.
std::string repository_text() {
  fs::path const root = MOE_SOURCE_DIR;
  std::vector<std::string> files;
  std::error_code ignored;
  for (char const* folder : {"include", "examples", "test", "bench", "docs", "cmake"})
    for (fs::recursive_directory_iterator it(root / folder, ignored), end; !ignored && it != end; it.increment(ignored)) {
      std::string const kind = it->path().extension().string();
      bool const text = kind == ".hpp" || kind == ".cuh" || kind == ".cpp" || kind == ".cu" || kind == ".md" || kind == ".txt" || kind == ".cmake";
      if (text && it->is_regular_file(ignored)) files.push_back(it->path().string());
    }
  for (char const* name : {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "CMakeLists.txt"})
    if (fs::exists(root / name, ignored)) files.push_back((root / name).string());
  std::sort(files.begin(), files.end());
  std::string text;
  for (auto const& f : files) text += moe::read_file(f);
  return text;
}

}  // namespace

std::string without_first_words(std::string_view text) {
  std::string s;
  s.reserve(text.size());
  for (std::size_t b = 0, e; b < text.size(); b = e + 1) {
    e = std::min(text.find('\n', b), text.size());
    std::size_t const space = text.find(' ', b);
    if (space < e) s.append(text.substr(space + 1, e - space - 1)) += '\n';
  }
  return s;
}

corpus make_corpus(std::string name, std::string text) {
  moe::expects(text.size() >= 100, moe::errc::bad_argument, name, ": ", text.size(),
               " bytes, needs at least 100 to learn from nine tenths and hold out one");
  corpus c{std::move(name), std::move(text), 0, 0};
  c.split = moe::split_text(c.text).training.size();
  c.hash = moe::crc64(c.text);
  return c;
}

/// The text that --data names.
std::string read_text(std::string const& path) {
  try {
    return moe::read_file(path);
  } catch (moe::error const& e) {
    throw moe::error(e.code, std::string(e.what()) + "; --data needs a text file that can be read");
  }
}

corpus load_corpus(std::string const& path) {
  if (!path.empty()) return make_corpus(path, read_text(path));
  if (program_exists("bible"))
    if (auto const verses = run_program({"bible", "-f", "gen1:1-rev22:21"}); verses && verses->size() > 1000000)
      return make_corpus("King James Bible (bible-kjv)", without_first_words(*verses));
  return make_corpus(
      "sources of this repository (the program `bible`, Debian: bible-kjv bible-kjv-text, is not installed; --data FILE takes any text)",
      repository_text());
}

}  // namespace trainer
