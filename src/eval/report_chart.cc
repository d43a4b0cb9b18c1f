#include "eval/report_chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/json.h"
#include "eval/report_page.h"

namespace vertebra {
namespace {

constexpr double kWidth = 1000, kHeight = 400;  // of the SVG's own units; it is stretched to its place

struct Range {
  double low = 0, high = 1;
  double share(double value) const { return (value - low) / (high - low); }
};

std::vector<ChartPoint> finite_points(const std::vector<ChartPoint>& points) {
  std::vector<ChartPoint> out;
  for (const ChartPoint& p : points) {
    // Beyond this the arithmetic of axes overflows; no measured figure comes near.
    if (std::abs(p.x) < 1e100 && std::abs(p.y) < 1e100) out.push_back(p);
  }
  return out;
}

double step_of(double span, int count) {
  const double rough = span / std::max(1, count);
  const double power = std::pow(10, std::floor(std::log10(rough)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= rough * 0.999) return factor * power;
  }
  return 10 * power;
}

// The range of the y axis, widened to whole ticks. A few values far above all others (a spike) would flatten
// the rest: they are cut off, and `cut` says so.
Range y_range(const std::vector<ChartSeries>& series, bool from_zero, bool& cut) {
  std::vector<double> values;
  for (const ChartSeries& s : series) {
    for (const ChartPoint& p : s.points) values.push_back(p.y);
  }
  std::sort(values.begin(), values.end());
  Range range{values.front(), values.back()};
  const double usual = values[(values.size() - 1) * 98 / 100];
  cut = values.size() >= 50 && range.high - range.low > 4 * (usual - range.low) && usual > range.low;
  if (cut) range.high = range.low + 1.3 * (usual - range.low);
  if (from_zero) range.low = std::min(0.0, range.low);
  const double smallest = std::max(1e-12, 1e-6 * std::max(std::abs(range.low), std::abs(range.high)));
  if (range.high - range.low < smallest) {
    range.high += std::max(smallest, 0.05 * std::abs(range.high));
    if (!from_zero) range.low -= std::max(smallest, 0.05 * std::abs(range.low));
  }
  const double step = step_of(range.high - range.low, 4);
  return {std::floor(range.low / step + 1e-9) * step, std::ceil(range.high / step - 1e-9) * step};
}

Range x_range(const std::vector<ChartSeries>& series) {
  Range range{series[0].points.front().x, series[0].points.front().x};
  for (const ChartSeries& s : series) {
    for (const ChartPoint& p : s.points) {
      range.low = std::min(range.low, p.x);
      range.high = std::max(range.high, p.x);
    }
  }
  if (range.low > 0 && range.low < 0.1 * range.high) range.low = 0;
  if (range.high - range.low < 1e-9 * std::max(1.0, std::abs(range.high)))
    range.high = range.low + std::max(1.0, 1e-6 * std::abs(range.low));
  return range;
}

std::string line_of(const ChartSeries& s, const Range& x, const Range& y) {
  std::string path;
  for (const ChartPoint& p : s.points) {
    path += fmt::format("{}{:.1f} {:.1f}", path.empty() ? "M" : "L", kWidth * x.share(p.x),
                        kHeight * (1 - y.share(p.y)));
  }
  // A line of no length with round ends is a dot that keeps its size however the drawing is stretched.
  if (s.points.size() == 1) path += "h.01";
  std::string out = fmt::format("<path class=\"c{}{}\" d=\"{}\"/>", s.color, s.faint ? " faint" : "", path);
  if (!s.dots || s.points.size() > 60) return out;
  std::string marks;
  for (const ChartPoint& p : s.points) {
    marks += fmt::format("M{:.1f} {:.1f}h.01", kWidth * x.share(p.x), kHeight * (1 - y.share(p.y)));
  }
  return out + fmt::format("<path class=\"c{} dot\" d=\"{}\"/>", s.color, marks);
}

// What the hover script reads.
std::string hover_data(const Chart& chart, const std::vector<ChartSeries>& series, const Range& x) {
  Json data = {{"low", x.low}, {"high", x.high}, {"x", chart.x_name}, {"unit", chart.unit}};
  Json& list = data["series"] = Json::array();
  const auto rounded = [](double value) {
    return std::strtod(fmt::format("{:.6g}", value).c_str(), nullptr);
  };
  for (const ChartSeries& s : series) {
    Json points = Json::array();
    for (const ChartPoint& p : s.points) points.push_back({rounded(p.x), rounded(p.y)});
    list.push_back({{"name", s.name}, {"color", s.color}, {"points", points}});
  }
  return escape_html(json_line(data));
}

std::string legend(const std::vector<ChartSeries>& series) {
  if (series.size() < 2) return "";
  std::string out = "<span class=\"legend\">";
  for (const ChartSeries& s : series) {
    out += fmt::format("<span><i class=\"key k{}{}\"></i>{}</span>", s.color, s.faint ? " faint" : "",
                       escape_html(s.name));
  }
  return out + "</span>";
}

}  // namespace

std::vector<ChartPoint> downsample(const std::vector<ChartPoint>& points, size_t limit) {
  if (points.size() <= limit) return points;
  const size_t buckets = (limit - 2) / 2, inner = points.size() - 2;
  const auto lower = [](const ChartPoint& a, const ChartPoint& b) { return a.y < b.y; };
  std::vector<ChartPoint> out = {points.front()};
  for (size_t b = 0; b < buckets; ++b) {
    const auto begin = points.begin() + 1 + static_cast<std::ptrdiff_t>(inner * b / buckets);
    const auto end = points.begin() + 1 + static_cast<std::ptrdiff_t>(inner * (b + 1) / buckets);
    if (begin == end) continue;
    auto [low, high] = std::minmax_element(begin, end, lower);
    if (low > high) std::swap(low, high);
    out.push_back(*low);
    if (low != high) out.push_back(*high);
  }
  out.push_back(points.back());
  return out;
}

std::vector<ChartPoint> smooth(const std::vector<ChartPoint>& points, size_t width) {
  std::vector<ChartPoint> out = points;
  std::vector<double> sums = {0};
  for (const ChartPoint& p : points) sums.push_back(sums.back() + p.y);
  for (size_t i = 0; i < points.size(); ++i) {
    const size_t reach = std::min({width / 2, i, points.size() - 1 - i});
    out[i].y = (sums[i + reach + 1] - sums[i - reach]) / static_cast<double>(2 * reach + 1);
  }
  return out;
}

std::vector<double> round_ticks(double low, double high, int count) {
  std::vector<double> out;
  if (!(high > low)) return {low};
  const double step = step_of(high - low, count);
  for (double i = std::ceil(low / step - 1e-6); i <= std::floor(high / step + 1e-6) && out.size() < 20; ++i) {
    out.push_back(i == 0 ? 0 : i * step);
  }
  return out;
}

std::string render_chart(const Chart& chart) {
  std::vector<ChartSeries> series;
  for (ChartSeries s : chart.series) {
    s.points = downsample(finite_points(s.points));
    if (!s.points.empty()) series.push_back(std::move(s));
  }
  if (series.empty()) return "";
  const Range x = x_range(series);
  bool cut = false;
  const Range y = y_range(series, chart.from_zero, cut);

  std::string grid, y_labels, x_labels, lines;
  for (const double tick : round_ticks(y.low, y.high, 4)) {
    grid += fmt::format("<path class=\"grid\" d=\"M0 {0:.1f}H{1}\"/>", kHeight * (1 - y.share(tick)), kWidth);
    y_labels +=
        fmt::format("<span style=\"top:{:.2f}%\">{}</span>", 100 * (1 - y.share(tick)), format_compact(tick));
  }
  for (const double tick : round_ticks(x.low, x.high, 5)) {
    x_labels +=
        fmt::format("<span style=\"left:{:.2f}%\">{}</span>", 100 * x.share(tick), format_compact(tick));
  }
  for (const ChartSeries& s : series) lines += line_of(s, x, y);
  std::string note = chart.note;
  if (cut) note += std::string(note.empty() ? "" : "; ") + "values far above the others are cut off";
  return fmt::format(
      "<figure class=\"chart\"><figcaption><b>{}</b> <span class=\"unit\">{}</span>{}</figcaption>"
      "<p class=\"note\">{}</p><div class=\"area\"><div class=\"ys\">{}</div>"
      "<div class=\"plot\" data-chart=\"{}\">"
      "<svg viewBox=\"0 0 {} {}\" preserveAspectRatio=\"none\" role=\"img\" "
      "aria-label=\"{}\">{}{}</svg></div>"
      "<div class=\"xs\">{}</div><div class=\"xname\">{}</div></div></figure>\n",
      escape_html(chart.title), escape_html(chart.unit), legend(series), escape_html(note), y_labels,
      hover_data(chart, series, x), kWidth, kHeight, escape_html(chart.title), grid, lines, x_labels,
      escape_html(chart.x_name));
}

}  // namespace vertebra
