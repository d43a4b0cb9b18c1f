// Line charts as HTML with an inline SVG: axes, few round ticks, a legend, and the data for the page's
// hover script. Labels are HTML, so that they keep their size on a phone. Used by report.cc.
#pragma once

#include <string>
#include <vector>

namespace vertebra {

struct ChartPoint {
  double x = 0, y = 0;
};

struct ChartSeries {
  std::string name;
  std::vector<ChartPoint> points;  // in rising x; points that are not finite are left out
  int color = 1;                   // 1 to 4, a class of the style sheet
  bool faint = false;              // thin and pale: raw values behind their average
  bool dots = false;               // a mark at every point: few, separate measurements
};

struct Chart {
  std::string title, unit, note;  // note: one line of plain text below the title
  std::string x_name = "step";
  std::vector<ChartSeries> series;
  bool from_zero = false;  // the y axis starts at 0
};

// Empty when no series has a point.
std::string render_chart(const Chart& chart);

// At most `limit` (>= 8) points that keep the first, the last and, of every stretch, the lowest and the
// highest, so that a spike stays visible.
std::vector<ChartPoint> downsample(const std::vector<ChartPoint>& points, size_t limit = 400);
// Mean over a window of `width` points around each (shorter at the ends, symmetric).
std::vector<ChartPoint> smooth(const std::vector<ChartPoint>& points, size_t width);
// Round numbers (1, 2 or 5 times a power of ten apart) in [low, high]; about `count` of them.
std::vector<double> round_ticks(double low, double high, int count);

}  // namespace vertebra
