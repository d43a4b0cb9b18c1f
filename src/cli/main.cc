// The entry point: parses the command line, runs one command, turns what it throws into a message and
// an exit code (0 done, 1 failed, 2 wrong usage, 3 a gate said no, 130 interrupted with state saved).
#include <cstdio>
#include <iostream>
#include <new>
#include <vector>

#include "base/error.h"
#include "base/interrupt.h"
#include "base/log.h"
#include "base/manifest.h"
#include "base/thread_team.h"
#include "cli/command.h"

namespace vertebra::cli {

#define VERTEBRA_COMMAND(factory) std::unique_ptr<Command> factory();
#include "cli/command_list.def"
#undef VERTEBRA_COMMAND

void print_json(const Json& value) {
  const std::string line = json_line(value) + "\n";
  std::fwrite(line.data(), 1, line.size(), stdout);
  std::fflush(stdout);
}

namespace {

void add_global_options(CLI::App& app, GlobalOptions& global) {
  app.add_flag("--json", global.json, "Print JSON on stdout and nothing else there");
  app.add_option("--threads", global.threads,
                 "Threads to use (default: physical cores within the cgroup quota)")
      ->check(CLI::Range(1, 1024));
  app.add_option("--isa", global.isa, "Force an instruction set (see 'vertebra devices')");
  app.add_option("--device", global.device,
                 "Device to run on: cpu, pjrt:NAME or pjrt:/path/to/plugin.so (see 'vertebra devices')")
      ->capture_default_str();
  app.add_flag("--verbose", global.verbose, "Log more to stderr");
}

int run_command(Command& command, const GlobalOptions& global) {
  if (global.verbose) set_log_level(LogLevel::kDebug);
  if (global.threads > 0) set_global_thread_count(global.threads);
  try {
    return command.run(global);
  } catch (const Interrupted& error) {
    log_message(LogLevel::kWarning, error.what());
    return kInterrupted;
  } catch (const Error& error) {
    log_message(LogLevel::kError, error.what());
    return error.code() == Code::kInvalidArgument ? kWrongUsage : kFailed;
  } catch (const std::bad_alloc&) {
    log_message(LogLevel::kError, "out of memory; a smaller model, batch or context needs less");
    return kFailed;
  } catch (const std::exception& error) {
    log_message(LogLevel::kError, error.what());
    return kFailed;
  }
}

}  // namespace
}  // namespace vertebra::cli

int main(int argc, char** argv) {
  using namespace vertebra;
  using namespace vertebra::cli;
  install_interrupt_handler();
  CLI::App app("Vertebra: train an AI assistant from text, make it safe, serve it, on any chip.", "vertebra");
  app.set_version_flag("--version", program_version());
  app.require_subcommand(1);

  GlobalOptions global;
  std::vector<std::unique_ptr<Command>> commands;
#define VERTEBRA_COMMAND(factory) commands.push_back(factory());
#include "cli/command_list.def"
#undef VERTEBRA_COMMAND
  std::vector<CLI::App*> subcommands;
  for (auto& command : commands) {
    CLI::App* subcommand = app.add_subcommand(command->name(), command->description());
    add_global_options(*subcommand, global);
    command->add_options(*subcommand);
    subcommands.push_back(subcommand);
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error, std::cout, std::cerr) == 0 ? kDone : kWrongUsage;
  }
  for (size_t i = 0; i < commands.size(); ++i) {
    if (subcommands[i]->parsed()) return run_command(*commands[i], global);
  }
  return kWrongUsage;
}
