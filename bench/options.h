// The flags that benchmarks share, and the frame of their main().
#pragma once

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <string>

#include "backend/cpu/kernels/isa.h"
#include "base/thread_team.h"

namespace vertebra::bench {

struct CommonOptions {
  bool json = false;
  int threads = default_thread_count();
  int rounds = 5;
  std::string only;
};

inline void add_json_and_threads(CLI::App& app, bool& json, int& threads) {
  app.add_flag("--json", json, "One line of JSON a figure");
  app.add_option("--threads", threads)->check(CLI::Range(1, 1024))->capture_default_str();
}

inline void add_rounds(CLI::App& app, int& rounds) {
  app.add_option("--rounds", rounds, "How often everything is measured")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
}

inline void add_isa(CLI::App& app) {
  app.add_option_function<std::string>(
      "--isa",
      [](const std::string& name) {
        const auto isa = isa_from_name(name);
        if (!isa.has_value()) throw CLI::ValidationError("--isa", name + " is not known");
        set_isa(*isa);
      },
      "Force an instruction set");
}

inline void add_common(CLI::App& app, CommonOptions& options) {
  add_json_and_threads(app, options.json, options.threads);
  add_rounds(app, options.rounds);
  app.add_option("--only", options.only, "What has this in its name, no more");
  add_isa(app);
}

// Parses, runs and turns exceptions into a message and exit code 1.
template <class Run>
int bench_main(CLI::App& app, int argc, char** argv, const Run& run) {
  CLI11_PARSE(app, argc, argv);
  try {
    run();
    return 0;
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}: {}\n", app.get_name(), error.what());
    return 1;
  }
}

}  // namespace vertebra::bench
