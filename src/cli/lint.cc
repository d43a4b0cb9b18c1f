// vertebra lint RECIPE --chip NAME: the StableHLO modules that a recipe would hand to a chip, and every line
// that the chip's documented rules forbid. Neither the chip's plugin nor the recipe's data are needed.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "backend/pjrt/chip_modules.h"
#include "backend/pjrt/chip_rules.h"
#include "backend/pjrt/verify_stablehlo.h"
#include "base/error.h"
#include "base/file.h"
#include "base/thread_team.h"
#include "cli/command.h"
#include "recipe/run.h"

namespace vertebra::cli {
namespace {

struct LintedModule {
  std::string graph;  // "chat/serving"
  std::string name;   // with the sizes that bounded dimensions are padded to: "chat/serving.256.1"
  std::string text;
  std::vector<pjrt::RuleBreach> breaches;
};

std::string module_name(const std::string& graph, const std::vector<int64_t>& sizes) {
  std::string out = graph;
  for (const int64_t size : sizes) out += fmt::format(".{}", size);
  return out;
}

LintedModule lint_module(const std::string& graph, pjrt::ChipModule module, const pjrt::Vendor& vendor) {
  LintedModule out = {graph, module_name(graph, module.sizes), std::move(module.text), {}};
  out.breaches = find_breaches(pjrt::parse_stablehlo(out.text), vendor.rules);
  if (out.breaches.empty()) pjrt::verify_stablehlo(out.text, vendor);  // the printer's own slips
  return out;
}

size_t count_lines(const std::string& text) {
  return static_cast<size_t>(std::count(text.begin(), text.end(), '\n'));
}

class LintCommand final : public Command {
 public:
  const char* name() const override { return "lint"; }
  const char* description() const override {
    return "Check what a recipe would hand to a chip against the chip's documented rules";
  }

  void add_options(CLI::App& app) override {
    app.add_option("recipe", recipe_, "The recipe, a TOML file")->required();
    app.add_option("--chip", chip_,
                   "A vendor (neuron, tpu, cuda, ...) or one of its chips (trn2, v5p, H100, ...)")
        ->required();
    app.add_option("--set", overrides_, "Override a key: --set model.depth=6")->allow_extra_args(false);
    app.add_option("--module", module_, "Print this module's StableHLO on standard output, and no summary");
    app.add_option("--out", out_, "Folder to write every module to, as NAME.mlir");
  }

  int run(const GlobalOptions& global) override {
    const pjrt::Vendor& vendor = *pjrt::require_chip(chip_).vendor;
    const std::vector<LintedModule> modules = make_modules(global, vendor);
    if (!out_.empty()) write(modules);
    if (!module_.empty()) return print_module(modules);
    size_t found = 0;
    for (const LintedModule& module : modules) found += module.breaches.size();
    if (global.json) {
      print_as_json(vendor, modules, found);
    } else {
      print_for_people(vendor, modules, found);
    }
    return found == 0 ? kDone : kFailed;
  }

 private:
  std::vector<LintedModule> make_modules(const GlobalOptions& global, const pjrt::Vendor& vendor) const {
    GlobalOptions cpu = global;
    cpu.device = "cpu";  // nothing runs
    const Recipe recipe = load_recipe(recipe_, overrides_);
    std::vector<LintedModule> out;
    for (const StageGraph& each :
         recipe_graphs(recipe, open_backend(cpu), global_thread_team(), vendor.native_bf16)) {
      for (pjrt::ChipModule& module : chip_modules(each.graph, vendor))
        out.push_back(lint_module(each.name, std::move(module), vendor));
    }
    return out;
  }

  std::string file_of(const LintedModule& module) const {
    std::string file = module.name + ".mlir";
    std::replace(file.begin(), file.end(), '/', '.');
    return (std::filesystem::path(out_) / file).string();
  }
  // Where a line lies, as editors take it.
  std::string place(const LintedModule& module, int line) const {
    return fmt::format("{}:{}", out_.empty() ? module.name : file_of(module), line);
  }

  void write(const std::vector<LintedModule>& modules) const {
    std::filesystem::create_directories(out_);
    for (const LintedModule& module : modules) write_file_atomic(file_of(module), module.text);
  }

  int print_module(const std::vector<LintedModule>& modules) const {
    std::vector<std::string> names;
    for (const LintedModule& module : modules) {
      if (module.name == module_) {
        std::fwrite(module.text.data(), 1, module.text.size(), stdout);
        return module.breaches.empty() ? kDone : kFailed;
      }
      names.push_back(module.name);
    }
    fail(Code::kInvalidArgument, "--module {}: the recipe has no such module; it has {}", module_,
         fmt::join(names, ", "));
  }

  void print_as_json(const pjrt::Vendor& vendor, const std::vector<LintedModule>& modules,
                     size_t found) const {
    Json list = Json::array();
    for (const LintedModule& module : modules) {
      Json breaches = Json::array();
      for (const pjrt::RuleBreach& each : module.breaches) {
        breaches.push_back({{"line", each.line},
                            {"operation", each.operation},
                            {"rule", each.rule},
                            {"remedy", each.remedy}});
      }
      list.push_back({{"module", module.name}, {"lines", count_lines(module.text)}, {"found", breaches}});
    }
    print_json({{"chip", vendor.name}, {"modules", list}, {"found", found}});
  }

  void print_for_people(const pjrt::Vendor& vendor, const std::vector<LintedModule>& modules,
                        size_t found) const {
    // Modules of one graph on one line: they differ in sizes.
    for (size_t first = 0, next = 0; first < modules.size(); first = next) {
      size_t breaches = 0;
      for (; next < modules.size() && modules[next].graph == modules[first].graph; ++next)
        breaches += modules[next].breaches.size();
      const std::string sizes = next - first == 1 ? ""
                                                  : fmt::format("  {} sizes, {} to {}", next - first,
                                                                modules[first].name, modules[next - 1].name);
      fmt::print("{:<20} {:>7} lines  {}{}\n", modules[first].graph, count_lines(modules[first].text),
                 breaches == 0 ? "nothing found" : fmt::format("{} found", breaches), sizes);
    }
    for (const LintedModule& module : modules) {
      for (const pjrt::RuleBreach& each : module.breaches)
        fmt::print("{}: {}: {}; instead: {}\n", place(module, each.line), each.operation, each.rule,
                   each.remedy);
    }
    const pjrt::ChipRules& rules = vendor.rules;
    const bool has_rules = !rules.banned_operations.empty() || !rules.element_types.empty();
    fmt::print("{} ({}): {} modules, {} lines that its rules forbid{}\n", vendor.name, vendor.description,
               modules.size(), found, has_rules ? "" : " (static shapes are the only rule that is known)");
    if (!out_.empty()) fmt::print("the modules are in {}\n", out_);
  }

  std::string recipe_, chip_, module_, out_;
  std::vector<std::string> overrides_;
};

}  // namespace

std::unique_ptr<Command> make_lint_command() { return std::make_unique<LintCommand>(); }

}  // namespace vertebra::cli
