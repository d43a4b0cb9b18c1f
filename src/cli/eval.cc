// vertebra eval MODEL: scores on tasks (JSONL), the loss of text files, and what was lost against another
// model.
#include <fmt/format.h>

#include "base/error.h"
#include "base/file.h"
#include "cli/command.h"
#include "cli/model_argument.h"
#include "cli/quality_report.h"
#include "eval/task.h"

namespace vertebra::cli {
namespace {

class EvalCommand final : public Command {
 public:
  const char* name() const override { return "eval"; }
  const char* description() const override {
    return "Score a model: tasks as JSONL, perplexity and bits per byte of text files, and what it lost "
           "against "
           "the model that it was made from";
  }

  void add_options(CLI::App& app) override {
    app.add_option("model", model_, "A model folder, a GGUF file, or a run folder")->required();
    app.add_option("--task", tasks_, "A task (.jsonl) or a text file; may be given several times")
        ->allow_extra_args(false);
    app.add_option(
        "--against", reference_,
        "A model that this one was made from: perplexity of both, KL divergence, agreement, sizes; on the "
        "text files, or a text that comes with the program");
    app.add_option("--limit", limit_,
                   "Only the first questions of each task; with --against, windows of each text")
        ->check(CLI::Range(int64_t{1}, int64_t{1} << 40));
    app.add_option("--max-tokens", options_.max_tokens, "Longest generated answer")->capture_default_str();
    app.add_flag("!--no-chat", options_.use_chat_template,
                 "Plain prompts, even for a model with a chat template");
  }

  int run(const GlobalOptions& global) override {
    require(!tasks_.empty() || !reference_.empty(),
            "--task FILE or --against MODEL was wanted: what is to be measured");
    if (!reference_.empty()) return compare(global);
    EngineOptions engine;
    engine.max_requests = 32;
    Backend& backend = open_backend(global);
    Assistant assistant(backend, model_argument(model_), engine);
    for (const std::string& path : tasks_) {
      if (path.ends_with(".jsonl")) {
        print(global, run_task(backend, assistant, read_task(path, limit_), options_));
      } else {
        print(global, path, measure_text(backend, assistant, read_file(path)));
      }
    }
    return kDone;
  }

 private:
  int compare(const GlobalOptions& global) const {
    std::vector<std::string> texts = tasks_;
    if (texts.empty()) texts.emplace_back();  // the program's own
    for (const std::string& text : texts) {
      require(!text.ends_with(".jsonl"), "'{}' is a task; --against compares models on text files", text);
      const QualityReport report =
          measure_quality(global, model_argument(reference_), model_argument(model_), text, limit_);
      if (global.json) {
        print_json(report.to_json());
      } else {
        report.print();
      }
    }
    return kDone;
  }

  static void print(const GlobalOptions& global, const TaskResult& result) {
    if (global.json) return print_json(result.to_json());
    fmt::print("{}: {:.1f} % ({} of {})\n", result.name, 100 * result.score(), result.right,
               result.questions);
    for (const auto& [tag, counts] : result.by_tag) {
      fmt::print("  {}: {:.1f} % ({} of {})\n", tag,
                 100.0 * static_cast<double>(counts.first) / static_cast<double>(counts.second), counts.first,
                 counts.second);
    }
  }

  static void print(const GlobalOptions& global, const std::string& path, const TextLoss& loss) {
    if (global.json) {
      Json out = loss.to_json();
      out["text"] = path;
      return print_json(out);
    }
    fmt::print("{}: perplexity {:.3f}, {:.4f} bits per byte, loss {:.4f} over {} tokens\n", path,
               loss.perplexity, loss.bits_per_byte, loss.loss, loss.tokens);
  }

  std::string model_, reference_;
  std::vector<std::string> tasks_;
  int64_t limit_ = 0;
  TaskOptions options_;
};

}  // namespace

std::unique_ptr<Command> make_eval_command() { return std::make_unique<EvalCommand>(); }

}  // namespace vertebra::cli
