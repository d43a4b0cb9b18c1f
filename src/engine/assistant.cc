#include "engine/assistant.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/file.h"
#include "base/interrupt.h"
#include "models/model_folder.h"
#include "models/sharding.h"

namespace vertebra {
namespace {

namespace fs = std::filesystem;

Withholding read_withholding(const Json& generation, const std::string& source) {
  Withholding out;
  const Json settings = json_get<Json>(generation, "withhold", source, Json());
  if (settings.is_null()) return out;
  out.below = json_get<double>(settings, "below", source);
  out.refusals = json_get<std::vector<std::string>>(settings, "refusals", source);
  require(out.below >= 0 && out.below <= 1, "{}: withhold.below is {}, a probability was wanted", source,
          out.below);
  require(out.below == 0 || !out.refusals.empty(),
          "{}: withhold.refusals is empty; at least one text was wanted", source);
  return out;
}

}  // namespace

TextStream::TextStream(const Tokenizer& tokenizer, std::vector<std::string> stop)
    : decoder_(tokenizer, /*skip_special=*/true), stop_(std::move(stop)) {
  for (const std::string& text : stop_) require(!text.empty(), "a stop string is empty");
}

std::string TextStream::push(int32_t token) {
  if (stopped()) return "";
  pending_ += decoder_.push(token);
  return release(false);
}

std::string TextStream::finish() {
  if (stopped()) return "";
  pending_ += decoder_.finish();
  return release(true);
}

std::string TextStream::release(bool at_end) {
  size_t first = std::string::npos;
  for (const std::string& stop : stop_) {
    const size_t found = pending_.find(stop);
    if (found < first) {
      first = found;
      stop_sequence_ = stop;
    }
  }
  size_t certain = pending_.size();
  if (first != std::string::npos) {
    certain = first;
  } else if (!at_end) {
    for (const std::string& stop : stop_) {  // the longest end of the text that could begin a stop string
      for (size_t length = std::min(stop.size() - 1, pending_.size()); length > 0; --length) {
        if (pending_.compare(pending_.size() - length, length, stop, 0, length) == 0) {
          certain = std::min(certain, pending_.size() - length);
          break;
        }
      }
    }
  }
  std::string out = pending_.substr(0, certain);
  pending_.erase(0, certain);
  return out;
}

Assistant::Assistant(Backend& backend, const fs::path& path, EngineOptions options, WeightForm form)
    : Assistant(backend, find_model(path), read_model_text(find_model(path)), options, form) {}

Assistant::Assistant(Backend& backend, fs::path path, ModelText text, EngineOptions options, WeightForm form)
    : folder_(std::move(path)), tokenizer_(std::move(text.tokenizer)), compute_(options.compute) {
  LoadedModel loaded = read_model(folder_, form);
  model_ = std::move(loaded.model);
  require(tokenizer_.vocab_size() <= model_->shape().vocabulary,
          "{}: the tokenizer has {} ids, the model only {}", folder_.string(), tokenizer_.vocab_size(),
          model_->shape().vocabulary);
  check_model_fits(*model_, backend.mesh());
  for (size_t i = 0; i < loaded.parameters.size(); ++i) {
    auto& [name, tensor] = loaded.parameters[i];
    buffers_.set(name,
                 backend.upload_sharded(tensor, parameter_sharding(model_->parameters()[i], backend.mesh())));
    tensor = Tensor();  // one copy of the weights at a time
  }
  stop_tokens_ = std::move(text.stop_tokens);
  sampling_ = vertebra::sampling_defaults(text.generation, folder_.string());
  withholding_ = read_withholding(text.generation, folder_.string());
  for (const std::string& refusal : withholding_.refusals) {
    const std::vector<int32_t> ids = tokenizer_.encode(refusal, false, false);
    require(!ids.empty(), "{}: a refusal of generation_config.json is empty", folder_.string());
    refusal_starts_.push_back(ids[0]);
  }
  template_options_.bos_token = std::move(text.bos_token);
  template_options_.eos_token = std::move(text.eos_token);
  template_options_.extra = std::move(text.other_tokens);
  template_options_.add_generation_prompt = true;
  if (text.chat_template.has_value()) {
    encoder_.emplace(tokenizer_,
                     ChatTemplate::parse(std::move(*text.chat_template), std::move(text.chat_template_name)));
  }
  if (fs::exists(folder_ / "manifest.json")) {
    const Manifest manifest = read_manifest(folder_);
    if (const auto gate = manifest.results.find("gate");
        gate != manifest.results.end() && gate->is_object()) {
      gate_passed_ = json_get<bool>(*gate, "passed", (folder_ / "manifest.json").string());
    }
  }
  engine_ = std::make_unique<Engine>(backend, *model_, buffers_, options);
}

std::string Assistant::name() const {
  const fs::path absolute = fs::weakly_canonical(folder_);
  if (!fs::is_directory(absolute)) return absolute.stem().string();
  return absolute.filename() == "model" ? absolute.parent_path().filename().string()
                                        : absolute.filename().string();
}

std::vector<int32_t> Assistant::chat_prompt(const Conversation& conversation, bool continues_last) const {
  require(encoder_.has_value(), Code::kFailedPrecondition,
          "'{}' has no chat template, so it cannot chat; 'vertebra generate' continues plain text",
          folder_.string());
  ChatTemplateOptions options = template_options_;
  if (continues_last) {
    options.add_generation_prompt = false;
    options.continue_field = "content";
  }
  return encoder_->encode(conversation, options).tokens;
}

std::vector<int32_t> Assistant::text_prompt(const std::string& text) const { return tokenizer_.encode(text); }

std::unique_ptr<TextGeneration> Assistant::start(std::vector<int32_t> prompt, const TextOptions& options,
                                                 TextCallback on_text, std::string client,
                                                 std::string cache_scope) {
  std::unique_ptr<TextGeneration> generation(
      new TextGeneration(TextStream(tokenizer_, options.stop), std::move(on_text), withholds(options)));
  GenerationRequest request;
  const auto room = engine_->context_length() - static_cast<int64_t>(prompt.size());
  require(room >= 1, Code::kOutOfRange,
          "the prompt has {} tokens, which leaves no room for an answer: the context holds {}", prompt.size(),
          engine_->context_length());
  request.prompt = std::move(prompt);
  request.max_tokens = options.max_tokens > 0 ? options.max_tokens : room;
  request.sampling = options.sampling;
  request.stop_tokens = stop_tokens_;
  request.top_log_probabilities = options.top_log_probabilities;
  // Enough to find how the model rates the first word of each refusal.
  if (generation->may_withhold) request.top_log_probabilities = std::max(request.top_log_probabilities, 64);
  request.client = std::move(client);
  request.cache_scope = std::move(cache_scope);
  TextGeneration* raw = generation.get();
  generation->number = engine_->submit(std::move(request), [raw](const GeneratedToken& token) {
    const bool wanted = raw->push(raw->stream.push(token.id));
    return wanted && !raw->stream.stopped();
  });
  return generation;
}

void Assistant::cancel(TextGeneration& generation) { engine_->cancel(generation.number); }
bool Assistant::finished(const TextGeneration& generation) const {
  return engine_->finished(generation.number);
}

TextResult Assistant::collect(TextGeneration& generation) {
  GenerationResult result = engine_->take(generation.number);
  generation.push(generation.stream.finish());
  TextResult out;
  out.text = std::move(generation.text);
  out.stop_reason =
      generation.stream.stopped() ? "stop_sequence" : std::string(stop_reason_name(result.stop_reason));
  out.stop_sequence = generation.stream.stop_sequence();
  out.prompt_tokens = result.prompt_tokens;
  out.cached_tokens = result.cached_prompt_tokens;
  out.output_tokens = static_cast<int64_t>(result.tokens.size());
  out.drafted_tokens = result.drafted;
  out.accepted_tokens = result.accepted;
  out.log_probability = result.log_probability;
  out.tokens = std::move(result.tokens);
  if (generation.may_withhold) {
    withhold_if_unsure(out);
    if (generation.on_text) generation.on_text(out.text);
  }
  return out;
}

bool Assistant::withholds(const TextOptions& options) const {
  return options.may_withhold && withholding_.below > 0 && options.sampling.temperature == 0;
}

void Assistant::withhold_if_unsure(TextResult& result) const {
  if (result.stop_reason != "end_turn" || std::exp(result.log_probability) >= withholding_.below) return;
  size_t best = 0;
  double best_log_probability = -INFINITY;
  for (size_t i = 0; i < refusal_starts_.size() && !result.tokens.empty(); ++i) {
    for (const SampledToken& token : result.tokens[0].top) {
      if (token.id != refusal_starts_[i] || token.log_probability <= best_log_probability) continue;
      best = i;
      best_log_probability = token.log_probability;
    }
  }
  result.text = withholding_.refusals[best];
  result.withheld = true;
}

void Assistant::run_to_end(const std::vector<std::unique_ptr<TextGeneration>>& generations) {
  while (engine_->step()) {
    if (!interrupt_requested()) continue;
    for (const auto& each : generations) cancel(*each);
  }
}

TextResult Assistant::generate(std::vector<int32_t> prompt, const TextOptions& options,
                               const TextCallback& on_text) {
  std::vector<std::unique_ptr<TextGeneration>> generations;
  generations.push_back(start(std::move(prompt), options, on_text));
  run_to_end(generations);
  return collect(*generations[0]);
}

std::vector<TextResult> Assistant::generate_all(std::vector<std::vector<int32_t>> prompts,
                                                const TextOptions& options) {
  std::vector<std::unique_ptr<TextGeneration>> generations;
  for (auto& prompt : prompts) generations.push_back(start(std::move(prompt), options, {}));
  run_to_end(generations);
  std::vector<TextResult> out;
  for (const auto& each : generations) out.push_back(collect(*each));
  return out;
}

}  // namespace vertebra
