// vertebra pull hf:ORG/NAME: brings a model from the hub into the cache folder and prints where it lies.
#include "hub/pull.h"

#include <fmt/format.h>

#include "base/file.h"
#include "base/log.h"
#include "base/progress.h"
#include "cli/command.h"
#include "cli/model_argument.h"
#include "models/model.h"

namespace vertebra::cli {
namespace {

namespace fs = std::filesystem;

class PullCommand final : public Command {
 public:
  const char* name() const override { return "pull"; }
  const char* description() const override {
    return "Bring a model from the hub: hf:ORG/NAME[@REVISION][:Q4_K_M]";
  }

  void add_options(CLI::App& app) override {
    app.add_option("model", model_,
                   "hf:ORG/NAME, with @REVISION (branch, tag, commit) or :Q4_K_M (of GGUF files)")
        ->required();
    app.add_option("--file", files_, "Only this file of the repository; may be given several times")
        ->allow_extra_args(false);
  }

  int run(const GlobalOptions& global) override {
    PullRequest request{parse_hub_model(model_), files_, {}};
    // An architecture that is not known is told before its weights are fetched; --file fetches them all the
    // same.
    request.check_config = [&](const fs::path& config) {
      make_model(read_json_file(config), request.model.to_string() + ": config.json");
    };
    const PullResult result = pull(HubOptions::from_environment(), request);
    if (global.json) {
      print_json({{"model", request.model.to_string()},
                  {"path", result.path.string()},
                  {"folder", result.folder.string()},
                  {"commit", result.commit},
                  {"files", result.files},
                  {"size_bytes", result.size_bytes},
                  {"transferred_bytes", result.transferred_bytes}});
      return kDone;
    }
    log_info("{} files, {}, of which {} came now", result.files.size(), format_bytes(result.size_bytes),
             format_bytes(result.transferred_bytes));
    fmt::print("{}\n", result.path.string());
    return kDone;
  }

 private:
  std::string model_;
  std::vector<std::string> files_;
};

}  // namespace

fs::path model_argument(const std::string& given) {
  if (is_hub_model(given)) return find_pulled(model_cache(), parse_hub_model(given));
  std::error_code none;
  if (given.empty() || given.find('/') != std::string::npos || given.starts_with('.') ||
      fs::exists(given, none))
    return given;
  const fs::path cached = model_cache() / given;
  return fs::is_regular_file(cached / "manifest.json", none) ? cached : fs::path(given);
}

std::unique_ptr<Command> make_pull_command() { return std::make_unique<PullCommand>(); }

}  // namespace vertebra::cli
