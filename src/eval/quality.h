// What a model has lost against the one it was made from: perplexity of both, how far their next-token
// distributions lie apart, how often they choose the same token, how long they write the same text. The
// protocol is that of llama.cpp's llama-perplexity --kl-divergence, so that figures can be compared. Called
// by `convert --report` and `eval --against`.
#pragma once

#include <string>

#include "engine/assistant.h"

namespace vertebra {

struct QualityOptions {
  int64_t window = 512;  // tokens read from nothing; the second half of them is measured
  int64_t windows = 0;   // at most; 0: all that the text has
  int64_t prompts = 16;  // pieces of the text that both models go on with, choosing the likeliest token
  int64_t prompt_tokens = 32;
  int64_t continuation = 64;
};

// A mean and its standard error.
struct Estimate {
  double mean = 0, error = 0;
};

struct Quality {
  int64_t window = 0, windows = 0, tokens = 0;  // tokens: predictions measured
  Estimate reference_loss, loss;                // nats a token; their exp is the perplexity
  Estimate loss_difference;
  Estimate divergence;  // KL(reference || model), nats
  double divergence_median = 0, divergence_p99 = 0, divergence_max = 0;
  Estimate same_top;  // share of positions where the likeliest token is the same

  int64_t prompts = 0, prompt_tokens = 0, continuation = 0;
  int64_t equal_texts = 0;        // of `prompts`
  double mean_common_prefix = 0;  // tokens

  double reference_perplexity() const;
  double perplexity() const;
  Json to_json() const;
};

// Both models must have the same vocabulary, else invalid_argument, as for a text of less than 32 tokens; the
// text is cut by the reference's tokenizer, with a warning where the other would cut it otherwise. Memory:
// both models, and the logits of a few rows. Interruptible.
Quality compare_models(Backend& backend, const Assistant& reference, const Assistant& model,
                       const std::string& text, const QualityOptions& options = {});

// How an Assistant is opened that is only compared: with next to no cache, since the comparison brings its
// own.
EngineOptions smallest_engine();

// What is measured when the user has no text: a few kilobytes of English, written for this, in several
// registers.
extern const char* const kSampleText;

// One position: the logits of both models, and the token that the text goes on with.
struct Divergence {
  double reference_loss = 0, loss = 0, divergence = 0;
  bool same_top = false;
};
Divergence compare_rows(std::span<const float> reference, std::span<const float> model, int32_t next_token);

}  // namespace vertebra
