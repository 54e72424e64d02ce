#pragma once
#include <sstream>
#include <stdexcept>
#include <string>

namespace moe {

enum class errc { bad_argument, shape_mismatch, out_of_memory, bad_file, io, no_device, cuda, unsupported_machine };

/// The only exception the library throws: `code` is for programs, `what()` for people.
struct error : std::runtime_error {
  error(errc c, std::string const& what) : std::runtime_error(what), code(c) {}
  errc code;
};

/// Throws moe::error made of `parts`.
template <class... Parts>
[[noreturn]] void fail(errc code, Parts const&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  throw error(code, text.str());
}

/// Throws moe::error made of `parts` unless `ok`.
template <class... Parts>
void expects(bool ok, errc code, Parts const&... parts) {
  if (ok) [[likely]]
    return;
  fail(code, parts...);
}

}  // namespace moe
