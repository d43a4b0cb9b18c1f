// One updating line on stderr for long work: how far, rate, time left, and whatever the caller adds.
// Shown only when stderr is a terminal (quiet in a pipe) and redrawn at most ten times a second.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

namespace vertebra {

class Progress {
 public:
  // `total` in `unit`s; 0 when unknown.
  Progress(std::string label, uint64_t total, std::string unit);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void update(uint64_t done, std::string_view extra = {});
  // Clears the line so that other output can be printed; the next update draws it again.
  void clear();

 private:
  std::string label_, unit_;
  uint64_t total_, first_ = 0;
  bool shown_ = false, enabled_, started_ = false;
  std::chrono::steady_clock::time_point start_, last_draw_;
};

// "3 s", "4 min 05 s", "2 h 10 min".
std::string format_duration(double seconds);
// "1.5 GiB"; "812 B".
std::string format_bytes(uint64_t bytes);

}  // namespace vertebra
