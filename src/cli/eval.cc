// vertebra eval MODEL: scores on tasks (JSONL) and the loss of text files.
#include <fmt/format.h>

#include "base/file.h"
#include "cli/command.h"
#include "cli/model_argument.h"
#include "eval/task.h"

namespace vertebra::cli {
namespace {

class EvalCommand final : public Command {
 public:
  const char* name() const override { return "eval"; }
  const char* description() const override {
    return "Score a model: tasks as JSONL, perplexity and bits per byte of text files";
  }

  void add_options(CLI::App& app) override {
    app.add_option("model", model_, "A model folder, a GGUF file, or a run folder")->required();
    app.add_option("--task", tasks_, "A task (.jsonl) or a text file; may be given several times")
        ->required()
        ->allow_extra_args(false);
    app.add_option("--limit", limit_, "Only the first questions of each task")
        ->check(CLI::Range(int64_t{1}, int64_t{1} << 40));
    app.add_option("--max-tokens", options_.max_tokens, "Longest generated answer")->capture_default_str();
    app.add_flag("!--no-chat", options_.use_chat_template,
                 "Plain prompts, even for a model with a chat template");
  }

  int run(const GlobalOptions& global) override {
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

  std::string model_;
  std::vector<std::string> tasks_;
  int64_t limit_ = 0;
  TaskOptions options_;
};

}  // namespace

std::unique_ptr<Command> make_eval_command() { return std::make_unique<EvalCommand>(); }

}  // namespace vertebra::cli
