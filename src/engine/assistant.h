// A model opened for use: weights on a device, tokenizer, chat template, engine; and text in and
// out: stop strings, streaming that never splits a character. Called by chat, generate and evaluation.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/manifest.h"
#include "engine/engine.h"
#include "engine/generation_config.h"
#include "engine/model_text.h"
#include "models/model_folder.h"
#include "text/chat_encoding.h"

namespace vertebra {

// What one text request may set.
struct TextOptions {
  int64_t max_tokens = 0;  // 0: as many as the context still holds
  SamplingOptions sampling;
  std::vector<std::string> stop;  // end the answer; not part of it
  int top_log_probabilities = 0;
  // An answer that the model itself holds less probable than its folder says is replaced by a refusal (see
  // Withholding); for chats. Its text then comes in one piece at the end.
  bool may_withhold = false;
};

// "withhold" in generation_config.json: {"below": PROBABILITY, "refusals": [TEXT...]}. A finished greedy
// answer whose probability as a whole is lower is not given; of the refusals, the one that the model would
// rather have begun with is.
struct Withholding {
  double below = 0;  // 0: never
  std::vector<std::string> refusals;
};

struct TextResult {
  std::string text;
  std::string stop_reason;  // "end_turn", "max_tokens", "stop_sequence", "cancelled"
  std::string stop_sequence;
  int64_t prompt_tokens = 0, output_tokens = 0;
  int64_t cached_tokens = 0;                        // of the prompt, taken over from earlier requests
  int64_t drafted_tokens = 0, accepted_tokens = 0;  // tried by prompt lookup, and right
  double log_probability = 0;                       // of the whole answer, as the model gave it
  bool withheld = false;                            // the text is a refusal put in its place
  std::vector<GeneratedToken> tokens;
};

// Turns tokens into text as they come: holds back what may be the beginning of a stop string or of a
// character.
class TextStream {
 public:
  TextStream(const Tokenizer& tokenizer, std::vector<std::string> stop);
  // Text that is certain now; empty often.
  std::string push(int32_t token);
  // True once a stop string has appeared: nothing more comes.
  bool stopped() const { return !stop_sequence_.empty(); }
  const std::string& stop_sequence() const { return stop_sequence_; }
  // What is left at the end of the answer.
  std::string finish();

 private:
  std::string release(bool at_end);
  StreamDecoder decoder_;
  std::vector<std::string> stop_;
  std::string pending_, stop_sequence_;
};

// An answer in the making: the engine calls back into it, so it stays where it is. Made and ended by
// Assistant.
class TextGeneration {
 public:
  TextGeneration(const TextGeneration&) = delete;
  TextGeneration& operator=(const TextGeneration&) = delete;

 private:
  friend class Assistant;
  using TextCallback = std::function<bool(const std::string& piece)>;
  TextGeneration(TextStream text_stream, TextCallback callback, bool withholds)
      : stream(std::move(text_stream)), on_text(std::move(callback)), may_withhold(withholds) {}
  bool push(const std::string& piece) {
    text += piece;
    return piece.empty() || !on_text || may_withhold || on_text(piece);
  }

  TextStream stream;
  TextCallback on_text;
  std::string text;  // so far
  int64_t number = 0;
  bool may_withhold;
};

class Assistant {
 public:
  // `path`: a model folder, a GGUF file, or a run folder (its model/ is taken). Throws what the files
  // deserve.
  // `form`: kStored where the backend multiplies blocks and no loss is measured with the parameters.
  Assistant(Backend& backend, const std::filesystem::path& path, EngineOptions options = {},
            WeightForm form = WeightForm::kF32);

  const std::filesystem::path& folder() const { return folder_; }  // or the file
  const Model& model() const { return *model_; }
  const Tokenizer& tokenizer() const { return tokenizer_; }
  bool has_chat_template() const { return encoder_.has_value(); }
  Engine& engine() { return *engine_; }
  const BufferSet& parameters() const { return buffers_; }
  DType compute() const { return compute_; }
  // The gate's verdict in the model's manifest; nothing for a model without one.
  std::optional<bool> gate_passed() const { return gate_passed_; }
  std::string name() const;
  // How the model wants its answers sampled.
  const SamplingDefaults& sampling_defaults() const { return sampling_; }

  // Prompts as token ids. chat_prompt throws failed_precondition for a model without a chat template;
  // `continues_last`: the answer goes on where the conversation's last message ends. Thread-safe.
  std::vector<int32_t> chat_prompt(const Conversation& conversation, bool continues_last = false) const;
  std::vector<int32_t> text_prompt(const std::string& text) const;

  // Called with pieces of text as they become certain; returns false to stop.
  using TextCallback = std::function<bool(const std::string& piece)>;
  TextResult generate(std::vector<int32_t> prompt, const TextOptions& options,
                      const TextCallback& on_text = {});
  // The same for a caller that drives the engine itself, with others beside it: start, then engine().step()
  // until finished, then collect. Throws what Engine::submit throws. `client` and `cache_scope` as in
  // GenerationRequest.
  std::unique_ptr<TextGeneration> start(std::vector<int32_t> prompt, const TextOptions& options,
                                        TextCallback on_text, std::string client = {},
                                        std::string cache_scope = {});
  void cancel(TextGeneration& generation);
  bool finished(const TextGeneration& generation) const;
  TextResult collect(TextGeneration& generation);
  // Many prompts at once, results in their order.
  std::vector<TextResult> generate_all(std::vector<std::vector<int32_t>> prompts, const TextOptions& options);

 private:
  Assistant(Backend& backend, std::filesystem::path path, ModelText text, EngineOptions options,
            WeightForm form);
  void run_to_end(const std::vector<std::unique_ptr<TextGeneration>>& generations);
  bool withholds(const TextOptions& options) const;
  void withhold_if_unsure(TextResult& result) const;

  std::filesystem::path folder_;
  std::unique_ptr<Model> model_;
  BufferSet buffers_;
  Tokenizer tokenizer_;
  std::optional<ChatEncoder> encoder_;
  ChatTemplateOptions template_options_;
  std::vector<int32_t> stop_tokens_;
  SamplingDefaults sampling_;
  Withholding withholding_;
  std::vector<int32_t> refusal_starts_;  // first token of each refusal
  std::optional<bool> gate_passed_;
  DType compute_;
  std::unique_ptr<Engine> engine_;
};

}  // namespace vertebra
