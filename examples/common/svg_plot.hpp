#pragma once
#include <string>
#include <utility>
#include <vector>

namespace trainer {

struct plot_series {
  std::string name;
  std::vector<std::pair<double, double>> points;  ///< x ascending; pairs that are not finite are left out
  bool marks = false;                             ///< a dot at each point
};
struct plot_text {
  std::string title, x_label, y_label;
};
/// A horizontal line with a name, for what another program reaches.
struct plot_level {
  std::string name;
  double y;
};

/// A line plot as an SVG document: axes with round ticks, a grid, a legend, the text escaped. Readable on white and without other files.
/// Series without points are left out; a plot without any point says so. More than 1000 points of a series are averaged in groups.
std::string svg_plot(plot_text const& text, std::vector<plot_series> const& series, std::vector<plot_level> const& levels = {});

/// Multiples of 1, 2 or 5 times a power of ten: about `count` of them, the first not above low, the last not below high.
std::vector<double> round_ticks(double low, double high, int count);

}  // namespace trainer
