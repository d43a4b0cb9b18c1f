// The program as a user runs it: in a folder, with its outputs caught.
#pragma once

#include <fmt/format.h>
#include <sys/wait.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "base/file.h"
#include "base/json.h"

namespace vertebra {

struct Outcome {
  int code = -1;  // 128 + the signal's number when one ended it
  std::string out, err;
  Json json() const { return parse_json(out, "stdout"); }
};

// In `folder`; the files "stdout" and "stderr" are left in `outputs`.
inline Outcome run_program(const std::filesystem::path& folder, const std::string& arguments,
                           const std::filesystem::path& outputs) {
  const std::string command =
      fmt::format("cd '{}' && {} {} > '{}/stdout' 2> '{}/stderr' < /dev/null", folder.string(),
                  VERTEBRA_PROGRAM, arguments, outputs.string(), outputs.string());
  const int status = std::system(command.c_str());
  Outcome outcome;
  outcome.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  outcome.out = read_file(outputs / "stdout");
  outcome.err = read_file(outputs / "stderr");
  return outcome;
}

}  // namespace vertebra
