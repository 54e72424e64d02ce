#pragma once
#include <moe/core/random.hpp>
#include <moe/core/tensor.hpp>
#include <moe/data/tokenizer.hpp>
#include <moe/io/checksum.hpp>

namespace moe::inline MOE_ISA {

/// A text in two parts, whose pieces together are the text.
struct text_split {
  std::string_view training, held_out;
};

/// Holds out the last `fraction` of the text, from the start of a line: the last one that begins in the 64 KiB before the exact place. If there is
/// none, from the first byte of a UTF-8 character at most 3 bytes before it. Throws bad_argument unless 0 <= fraction < 1.
inline text_split split_text(std::string_view text, double fraction = 0.1) {
  expects(fraction >= 0 && fraction < 1, errc::bad_argument, "split_text: fraction is ", fraction, ", needs [0, 1)");
  auto at = text.size() - static_cast<std::size_t>(fraction * static_cast<double>(text.size()));
  if (at < text.size() && at > 0) {
    std::size_t const lowest = at > 65536 ? at - 65536 : 1;
    std::size_t line = at;
    while (line > lowest && text[line - 1] != '\n') --line;
    auto const is_continuation = [&](std::size_t i) { return (static_cast<unsigned char>(text[i]) & 0xc0u) == 0x80u; };
    if (text[line - 1] == '\n') at = line;
    else
      for (int i = 0; i < 3 && at > 1 && is_continuation(at); ++i) --at;
  }
  return {text.substr(0, at), text.substr(at)};
}

/// A sequence of tokens seen through windows of `length` inputs, each with the token behind it as its target.
class token_windows {
 public:
  /// Throws bad_argument, naming `what`, if the tokens do not fill one window and the target of its last input.
  token_windows(std::vector<int> tokens, index_t length, std::string const& what) : token_(std::move(tokens)), length_(length) {
    expects(length >= 1, errc::bad_argument, what, ": a window of ", length, " tokens");
    expects(size() > length, errc::bad_argument, what, " has ", size(), " tokens, too few for one window of ", length,
            " and the token to predict behind it: use more text or a smaller window");
  }

  index_t size() const { return static_cast<index_t>(token_.size()); }
  index_t length() const { return length_; }
  std::vector<int> const& tokens() const { return token_; }

  /// Fills rows first_row, first_row + 1, ... of the batch of training step `step` with windows at random places. What a row holds depends on
  /// (seed, step, row) only, so a batch may be drawn in parts.
  ///
  ///   input   [rows * length]  out
  ///   target  [rows * length]  out  target[i] is the token behind input[i]
  ///
  /// Throws  shape_mismatch unless both hold the same number of whole rows.
  void random_rows(std::uint64_t seed, std::uint32_t step, index_t first_row, vector_view<int> input, vector_view<int> target) const {
    index_t const rows = rows_in(input, target);
    random_stream const random{seed, random_purpose::data_order, step};
    for (index_t r = 0; r < rows; ++r) {
      auto const start = random.below(static_cast<std::uint64_t>(first_row + r), static_cast<std::uint64_t>(size() - length_));
      int const* const from = token_.data() + start;
      std::copy_n(from, length_, input.data() + r * length_);
      std::copy_n(from + 1, length_, target.data() + r * length_);
    }
  }

  /// Number of consecutive windows that have every token but the first as a target, once.
  index_t count() const { return (size() - 1 + length_ - 1) / length_; }

  /// Fills rows with the consecutive windows first, first + 1, ...; what lies behind the last token is input 0 with target -1 (ignored).
  void consecutive_rows(index_t first, vector_view<int> input, vector_view<int> target) const {
    index_t const rows = rows_in(input, target);
    expects(first >= 0, errc::bad_argument, "token_windows: window ", first);
    for (index_t i = 0; i < rows * length_; ++i) {
      index_t const at = first * length_ + i;
      bool const inside = at + 1 < size();
      input.data()[i] = inside ? token_[static_cast<std::size_t>(at)] : 0;
      target.data()[i] = inside ? token_[static_cast<std::size_t>(at + 1)] : -1;
    }
  }

 private:
  index_t rows_in(vector_view<int> input, vector_view<int> target) const {
    index_t const n = input.template extent<0>();
    expects(n == target.template extent<0>() && n % length_ == 0, errc::shape_mismatch, "token_windows: input has ", n, " and target has ",
            target.template extent<0>(), " elements, both need the same number of whole windows of ", length_);
    return n / length_;
  }
  std::vector<int> token_;
  index_t length_;
};

/// A text as a trainer sees it.
struct dataset {
  token_windows training, held_out;
  index_t predicted_bytes;  ///< of the held-out text without its first token: what the sum of its losses is divided by for bits per byte
  std::uint64_t hash;       ///< of the whole text
};

/// Splits (split_text), encodes and checks a text. Any bytes will do.
/// Throws  bad_argument where the text is empty or one of its parts is shorter than a window of `length` tokens.
inline dataset make_dataset(std::string_view text, tokenizer const& tokens, index_t length, double held_out = 0.1) {
  expects(!text.empty(), errc::bad_argument, "dataset: the text is empty");
  auto const parts = split_text(text, held_out);
  token_windows training(tokens.encode(parts.training), length, "dataset: the training text");
  token_windows rest(tokens.encode(parts.held_out), length, "dataset: the held-out text");
  auto const first = static_cast<index_t>(tokens.token(rest.tokens().front()).size());
  return {std::move(training), std::move(rest), static_cast<index_t>(parts.held_out.size()) - first, fnv1a(text)};
}

}  // namespace moe::inline MOE_ISA
