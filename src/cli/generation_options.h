// The flags that chat and generate share, and those among them that serve has too.
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "engine/assistant.h"

namespace vertebra::cli {

// How a model is held and run.
struct ServingFlags {
  int64_t context = 0;
  std::optional<int64_t> draft_tokens;
  std::optional<bool> dequantize;
  std::string cache = "f32";

  void add_serving(CLI::App& app) {
    app.add_option("--context", context, "Context length in tokens (default: the model's)")
        ->check(CLI::Range(int64_t{2}, int64_t{1} << 24));
    app.add_option(
           "--draft-tokens", draft_tokens,
           "Tokens tried at once where the text repeats itself; the answer stays the same (default: 8 on "
           "the CPU, else 0)")
        ->check(CLI::Range(int64_t{0}, int64_t{64}));
    app.add_flag(
        "--dequantize,!--no-dequantize", dequantize,
        "Turn block-quantized weights into f32 when they are loaded (default: on a device, not on the "
        "CPU)");
    app.add_option("--cache-type", cache, "Element type of cached keys and values: f32, bf16, f16 or q8_0")
        ->capture_default_str()
        ->check(CLI::IsMember({"f32", "bf16", "f16", "q8_0"}));
  }

  // A device's compiler turns quantized weights into floats in every step, which takes time.
  WeightForm weight_form(const Backend& backend) const {
    return dequantize.value_or(!backend.host_memory()) ? WeightForm::kF32 : WeightForm::kStored;
  }

  // A device compiles one more step for every number of rows: there nothing is tried unless asked for.
  EngineOptions engine(const Backend& backend) const {
    EngineOptions out;
    out.draft_tokens = draft_tokens.value_or(backend.host_memory() ? 8 : 0);
    out.context_length = context;
    out.cache = *dtype_from_name(cache);
    return out;
  }
};

struct GenerationFlags : ServingFlags {
  std::string model;
  std::vector<std::string> prompts;
  TextOptions text;

  void add(CLI::App& app) {
    app.add_option("model", model, "A model folder, a GGUF file, or a run folder")->required();
    app.add_option("-p,--prompt", prompts, "A prompt; may be given several times")->allow_extra_args(false);
    app.add_option("-n,--max-tokens", text.max_tokens,
                   "Longest answer in tokens (default: what the context holds)")
        ->check(CLI::Range(int64_t{1}, int64_t{1} << 24));
    temperature_ = app.add_option("--temperature", text.sampling.temperature, "0: the likeliest token")
                       ->capture_default_str();
    top_k_ = app.add_option("--top-k", text.sampling.top_k, "Keep the k likeliest tokens (0: all)")
                 ->capture_default_str();
    top_p_ = app.add_option("--top-p", text.sampling.top_p,
                            "Keep the likeliest tokens that together have this probability")
                 ->capture_default_str();
    min_p_ = app.add_option("--min-p", text.sampling.min_p,
                            "Keep tokens with this share of the likeliest's probability")
                 ->capture_default_str();
    repetition_penalty_ =
        app.add_option("--repetition-penalty", text.sampling.repetition_penalty, "Above 1: repeat less")
            ->capture_default_str();
    app.add_option("--seed", text.sampling.seed, "The same seed gives the same text")->capture_default_str();
    app.add_option("--stop", text.stop, "End the answer before this text; may be given several times")
        ->allow_extra_args(false);
    add_serving(app);
  }

  // What was not asked for is as the model's own configuration has it.
  void take_defaults(const SamplingDefaults& model) {
    const auto take = [](const CLI::Option* option, const auto& from, auto& to) {
      if (option != nullptr && option->count() == 0 && from.has_value()) to = *from;
    };
    take(temperature_, model.temperature, text.sampling.temperature);
    take(top_k_, model.top_k, text.sampling.top_k);
    take(top_p_, model.top_p, text.sampling.top_p);
    take(min_p_, model.min_p, text.sampling.min_p);
    take(repetition_penalty_, model.repetition_penalty, text.sampling.repetition_penalty);
  }

  EngineOptions engine(const Backend& backend) const {
    EngineOptions out = ServingFlags::engine(backend);
    out.max_requests = 1;
    return out;
  }

 private:
  CLI::Option *temperature_ = nullptr, *top_k_ = nullptr, *top_p_ = nullptr, *min_p_ = nullptr,
              *repetition_penalty_ = nullptr;
};

inline Json result_to_json(const std::string& prompt, const TextResult& result) {
  Json out = {{"prompt", prompt}, {"text", result.text}, {"stop_reason", result.stop_reason}};
  out["usage"] = {{"input_tokens", result.prompt_tokens}, {"output_tokens", result.output_tokens}};
  if (result.cached_tokens > 0) out["usage"]["cached_tokens"] = result.cached_tokens;
  if (result.drafted_tokens > 0)
    out["usage"]["drafted"] = {{"tried", result.drafted_tokens}, {"right", result.accepted_tokens}};
  if (result.withheld) out["withheld"] = true;
  out["log_probability"] = result.log_probability;  // of the whole answer, its end included
  return out;
}

}  // namespace vertebra::cli
