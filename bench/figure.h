// A measured figure with its ceiling, for people or as one JSON line; shared by the benchmarks of models.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <string>
#include <vector>

#include "backend/cpu/kernels/isa.h"
#include "base/json.h"

namespace vertebra::bench {

inline double now_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

inline double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

inline std::string device_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("model name")) return line.substr(line.find(": ") + 2);
  }
  return "cpu";
}

struct Figure {
  std::string name;
  double value = 0;
  std::string unit;
  double ceiling = 0;  // 0: none
  std::string model;
};

inline void print_figure(const Figure& f, bool json, int threads) {
  const double share = f.ceiling > 0 ? f.value / f.ceiling : 0;
  if (json) {
    Json line = {{"name", f.name},         {"value", f.value},
                 {"unit", f.unit},         {"ceiling", f.ceiling > 0 ? Json(f.ceiling) : Json()},
                 {"threads", threads},     {"share", f.ceiling > 0 ? Json(share) : Json()},
                 {"model", f.model},       {"isa", std::string(isa_name(active_isa()))},
                 {"device", device_name()}};
    fmt::print("{}\n", json_line(line));
  } else {
    const std::string of_ceiling =
        f.ceiling > 0 ? fmt::format("  {:5.1f} % of {:.0f}", 100 * share, f.ceiling) : std::string();
    fmt::print("{:38} {:28} {:10.2f} {}{}\n", f.model, f.name, f.value, f.unit, of_ceiling);
  }
  std::fflush(stdout);
}

}  // namespace vertebra::bench
