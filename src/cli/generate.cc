// vertebra generate MODEL -p TEXT: continues plain text, without a chat template.
#include <fmt/format.h>

#include <cmath>
#include <cstdio>

#include "base/interrupt.h"
#include "cli/command.h"
#include "cli/generation_options.h"
#include "cli/model_argument.h"

namespace vertebra::cli {
namespace {

class GenerateCommand final : public Command {
 public:
  const char* name() const override { return "generate"; }
  const char* description() const override { return "Continue a text with a model (raw completion)"; }

  void add_options(CLI::App& app) override {
    flags_.add(app);
    app.add_option("--logprobs", top_, "Report log probabilities, with this many alternatives a token")
        ->expected(0, 1)
        ->default_str("0")
        ->check(CLI::Range(0, 100));
  }

  int run(const GlobalOptions& global) override {
    require(!flags_.prompts.empty(), "generate needs a prompt: -p TEXT");
    check_sampling(flags_.text.sampling);
    flags_.text.top_log_probabilities = std::max(0, top_);
    Backend& backend = open_backend(global);
    Assistant assistant(backend, model_argument(flags_.model), flags_.engine(backend),
                        flags_.weight_form(backend));
    for (const std::string& prompt : flags_.prompts) {
      const bool stream = !global.json;
      if (stream) fmt::print("{}", prompt);
      const TextResult result =
          assistant.generate(assistant.text_prompt(prompt), flags_.text, [&](const std::string& piece) {
            if (stream) {
              std::fwrite(piece.data(), 1, piece.size(), stdout);
              std::fflush(stdout);
            }
            return true;
          });
      if (stream) std::puts("");
      if (top_ >= 0 || global.json) print_details(global, assistant.tokenizer(), prompt, result);
      if (interrupt_requested()) throw Interrupted("stopped");
    }
    return kDone;
  }

 private:
  void print_details(const GlobalOptions& global, const Tokenizer& tokenizer, const std::string& prompt,
                     const TextResult& result) const {
    if (!global.json) {
      for (const GeneratedToken& token : result.tokens) {
        fmt::print("{:>10.4f}  {}\n", token.log_probability, tokenizer.token_spelling(token.id));
      }
      return;
    }
    Json out = result_to_json(prompt, result);
    if (top_ >= 0) {
      for (const GeneratedToken& token : result.tokens) {
        Json entry = {{"id", token.id},
                      {"token", tokenizer.token_spelling(token.id)},
                      {"logprob", token.log_probability}};
        for (const SampledToken& other : token.top) {
          entry["top"].push_back({{"id", other.id},
                                  {"token", tokenizer.token_spelling(other.id)},
                                  {"logprob", other.log_probability}});
        }
        out["logprobs"].push_back(entry);
      }
    }
    print_json(out);
  }

  GenerationFlags flags_;
  int top_ = -1;
};

}  // namespace

std::unique_ptr<Command> make_generate_command() { return std::make_unique<GenerateCommand>(); }

}  // namespace vertebra::cli
