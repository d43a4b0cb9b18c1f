#include "base/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>

namespace vertebra {

using Clock = std::chrono::steady_clock;

Progress::Progress(std::string label, uint64_t total, std::string unit)
    : label_(std::move(label)),
      unit_(std::move(unit)),
      total_(total),
      enabled_(isatty(STDERR_FILENO) != 0),
      start_(Clock::now()) {}

Progress::~Progress() { clear(); }

void Progress::update(uint64_t done, std::string_view extra) {
  if (!enabled_) return;
  const auto now = Clock::now();
  if (!started_) {  // resumed work must not count what was done before into the rate
    started_ = true;
    first_ = done;
    start_ = now;
  }
  if (shown_ && now - last_draw_ < std::chrono::milliseconds(100) && done != total_) return;
  last_draw_ = now;
  const double seconds = std::chrono::duration<double>(now - start_).count();
  const double rate = seconds > 0 ? static_cast<double>(done - first_) / seconds : 0;
  std::string line = total_ > 0 ? fmt::format("{} {}/{} {}", label_, done, total_, unit_)
                                : fmt::format("{} {} {}", label_, done, unit_);
  if (rate > 0) line += fmt::format("  {:.3g} {}/s", rate, unit_);
  if (rate > 0 && total_ > done)
    line += fmt::format("  {} left", format_duration(static_cast<double>(total_ - done) / rate));
  if (!extra.empty()) line += fmt::format("  {}", extra);
  std::fprintf(stderr, "\r\033[K%s", line.c_str());
  std::fflush(stderr);
  shown_ = true;
}

void Progress::clear() {
  if (!shown_) return;
  std::fputs("\r\033[K", stderr);
  std::fflush(stderr);
  shown_ = false;
}

std::string format_duration(double seconds) {
  const auto whole = static_cast<int64_t>(std::llround(seconds));
  if (whole < 60) return fmt::format("{} s", whole);
  if (whole < 3600) return fmt::format("{} min {:02} s", whole / 60, whole % 60);
  return fmt::format("{} h {:02} min", whole / 3600, whole % 3600 / 60);
}

std::string format_bytes(uint64_t bytes) {
  static constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  auto value = static_cast<double>(bytes);
  int unit = 0;
  while (value >= 1024 && unit < 4) {
    value /= 1024;
    ++unit;
  }
  return unit == 0 ? fmt::format("{} B", bytes) : fmt::format("{:.1f} {}", value, kUnits[unit]);
}

}  // namespace vertebra
