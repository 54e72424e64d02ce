#pragma once
#include <cstdint>
#include <string>
#include <string_view>

namespace trainer {

/// A text and where it came from. The last tenth is held out: it is never trained on, nor seen by the tokenizer.
struct corpus {
  std::string name;  ///< for people
  std::string text;
  std::size_t split = 0;  ///< bytes of training text (moe::split_text)
  std::uint64_t hash = 0;

  std::string_view training() const { return std::string_view(text).substr(0, split); }
  std::string_view held_out() const { return std::string_view(text).substr(split); }
};

/// `path`, if not empty. Else the King James Bible of the program `bible` (Debian: bible-kjv), one verse a line; without it, sources and documents
/// of this repository. Throws errc::io, or bad_argument for a text too short to split.
corpus load_corpus(std::string const& path);
corpus make_corpus(std::string name, std::string text);

/// Each line without what stands before its first space: "Ge1:1 In the beginning" becomes "In the beginning".
std::string without_first_words(std::string_view text);

}  // namespace trainer
