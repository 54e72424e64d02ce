#pragma once
// Small functions on text that the trainer's parts share: durations, nearest names, numbers for people.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace trainer {

/// Seconds of "90s", "10m", "1h30m", "250ms": whole or decimal numbers, each with a unit, largest first.
/// Throws bad_argument for anything else (also for a number without a unit) and for 0.
double parse_duration(std::string_view text);

/// Levenshtein distance: the number of inserted, deleted or replaced bytes; swapping two neighbours counts once.
int edit_distance(std::string_view a, std::string_view b);
/// The candidate with the smallest distance, if that is at most a third of its length (and at least 2); else empty.
std::string nearest(std::string_view name, std::vector<std::string> const& candidates);

std::string thousands(std::int64_t n);                                     ///< 4,404,412
std::string bytes_text(double bytes);                                      ///< 1.5 GiB
std::string duration_text(double seconds);                                 ///< 1h 02m, 3m 05s, 12.3 s
std::string fixed(double x, int digits);                                   ///< 2.345
std::string shortest(double x);                                            ///< the shortest text that reads back as the same double, for any locale
double parse_double(std::string_view text, std::string_view what);         ///< throws bad_file naming `what`
std::int64_t parse_integer(std::string_view text, std::string_view what);  ///< throws bad_file naming `what`

}  // namespace trainer
