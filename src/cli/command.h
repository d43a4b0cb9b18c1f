// What a command of the program is: its options on a CLI11 subcommand, and what it does. One file per
// command; command_list.def lists them.
#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <optional>
#include <string>

#include "backend/backend.h"
#include "base/json.h"

namespace vertebra::cli {

// Options that every command has.
struct GlobalOptions {
  bool json = false;
  int threads = 0;  // 0: what the machine allows
  std::string isa;  // empty: the best there is
  std::string device = "cpu";
  bool verbose = false;
};

enum ExitCode { kDone = 0, kFailed = 1, kWrongUsage = 2, kGateSaidNo = 3, kInterrupted = 130 };

class Command {
 public:
  virtual ~Command() = default;
  virtual const char* name() const = 0;
  virtual const char* description() const = 0;
  virtual void add_options(CLI::App& app) = 0;
  // Returns an exit code; throws Error for what goes wrong.
  virtual int run(const GlobalOptions& global) = 0;
};

// The backend named by --device, made on first use with --threads and --isa, on as many devices as the mesh
// has.
Backend& open_backend(const GlobalOptions& global, const Mesh& mesh = {});

// One JSON document or line on stdout.
void print_json(const Json& value);

}  // namespace vertebra::cli
