#include "eval/quality.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/interrupt.h"
#include "base/log.h"
#include "base/progress.h"
#include "base/thread_team.h"
#include "eval/logit_reader.h"

namespace vertebra {
namespace {

constexpr int64_t kShortestText = 32;  // tokens

[[noreturn]] void stop() { throw Interrupted("stopped while the models were compared"); }

// Mean and standard error of values as they come.
class Mean {
 public:
  void add(double value) {
    ++count_;
    sum_ += value;
    squares_ += value * value;
  }
  Estimate estimate() const {
    if (count_ == 0) return {};
    const auto n = static_cast<double>(count_);
    const double mean = sum_ / n, variance = std::max(0.0, squares_ / n - mean * mean);
    return {mean, count_ > 1 ? std::sqrt(variance / (n - 1)) : 0};
  }

 private:
  int64_t count_ = 0;
  double sum_ = 0, squares_ = 0;
};

// Of sorted values, between the two that lie around it.
double percentile(const std::vector<float>& sorted, double fraction) {
  const double place = fraction * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(place);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  const double share = place - static_cast<double>(below);
  return (1 - share) * sorted[below] + share * sorted[above];
}

double log_sum_exp(std::span<const float> logits, float largest) {
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - largest);
  return largest + std::log(sum);
}

// Tokenizers of one vocabulary may still cut differently, where a file says less than another.
void check_same_tokens(const Tokenizer& reference, const Tokenizer& model, const std::vector<int32_t>& ids) {
  for (const int32_t id : ids) {
    require(model.is_token(id) && model.token_bytes(id) == reference.token_bytes(id),
            "the models have different vocabularies: token {} is '{}' in the one and '{}' in the other. A "
            "model and what "
            "was made of it were wanted",
            id, reference.token_spelling(id), model.token_spelling(id));
  }
}

std::vector<int32_t> text_tokens(const Assistant& reference, const Assistant& model,
                                 const std::string& text) {
  const int64_t V = reference.model().shape().vocabulary, found = model.model().shape().vocabulary;
  require(V == found,
          "the models have vocabularies of {} and {} tokens; distributions over the same were wanted", V,
          found);
  std::vector<int32_t> ids = reference.tokenizer().encode(text);
  if (const auto theirs = model.tokenizer().encode(text); theirs != ids) {
    check_same_tokens(reference.tokenizer(), model.tokenizer(), ids);
    const auto at = std::mismatch(ids.begin(), ids.end(), theirs.begin(), theirs.end()).first - ids.begin();
    log_warning(
        "the models cut the text into different tokens, from token {} on; those of the reference are used "
        "for "
        "both",
        at);
  }
  require(static_cast<int64_t>(ids.size()) >= kShortestText,
          "the text has {} tokens; at least {} are needed to compare models", ids.size(), kShortestText);
  return ids;
}

// Every window begins as a text does: with the token, if any, that the tokenizer puts there.
std::optional<int32_t> first_token(const Assistant& assistant) {
  const std::vector<int32_t> ids = assistant.tokenizer().encode("");
  return ids.empty() ? std::nullopt : std::optional(ids[0]);
}

class Comparison {
 public:
  Comparison(Backend& backend, const Assistant& reference, const Assistant& model, std::vector<int32_t> ids,
             const QualityOptions& options)
      : reference_(reference), model_(model), ids_(std::move(ids)), options_(options), backend_(backend) {}

  Quality run() {
    measure_distributions();
    measure_texts();
    return out_;
  }

 private:
  int64_t context() const {
    return std::min(reference_.model().shape().context_length, model_.model().shape().context_length);
  }

  void measure_distributions() {
    const auto total = static_cast<int64_t>(ids_.size());
    out_.window = std::min({options_.window, context(), total});
    out_.windows = total / out_.window;
    if (options_.windows > 0) out_.windows = std::min(out_.windows, options_.windows);
    LogitReader reference(backend_, reference_.model(), reference_.parameters(), out_.window,
                          reference_.compute());
    LogitReader model(backend_, model_.model(), model_.parameters(), out_.window, model_.compute());
    const std::optional<int32_t> first = first_token(reference_);
    Progress progress("comparing", static_cast<uint64_t>(out_.windows * out_.window), "tokens");
    for (int64_t index = 0; index < out_.windows; ++index) {
      const auto begin = ids_.begin() + index * out_.window;
      std::vector<int32_t> window(begin, begin + out_.window);
      if (first.has_value()) window[0] = *first;
      for (int64_t at = 0; at < out_.window; at += LogitReader::kRows) {
        if (interrupt_requested()) stop();
        const int64_t count = std::min(LogitReader::kRows, out_.window - at);
        const std::span<const int32_t> piece =
            std::span(window).subspan(static_cast<size_t>(at), static_cast<size_t>(count));
        add(reference.feed(piece, at), model.feed(piece, at), window, at, count);
        progress.update(static_cast<uint64_t>(index * out_.window + at + count),
                        fmt::format("KL {:.5f}", divergence_.estimate().mean));
      }
    }
    finish();
  }

  // Positions of the first half have little before them, and the last one predicts nothing.
  void add(const Tensor& reference, const Tensor& model, const std::vector<int32_t>& window, int64_t at,
           int64_t count) {
    const auto V = static_cast<size_t>(reference_.model().shape().vocabulary);
    const int64_t first = std::max(at, out_.window / 2), last = std::min(at + count, out_.window - 1);
    if (first >= last) return;
    std::vector<Divergence> found(static_cast<size_t>(last - first));
    global_thread_team().parallel_for(last - first, [&](int64_t i, int) {
      const auto row = static_cast<size_t>(first + i - at) * V;
      found[static_cast<size_t>(i)] =
          compare_rows(reference.data<float>().subspan(row, V), model.data<float>().subspan(row, V),
                       window[static_cast<size_t>(first + i + 1)]);
    });
    for (const Divergence& each : found) {  // in their order, whatever the number of threads
      reference_loss_.add(each.reference_loss);
      loss_.add(each.loss);
      difference_.add(each.loss - each.reference_loss);
      divergence_.add(each.divergence);
      same_top_.add(each.same_top ? 1 : 0);
      divergences_.push_back(static_cast<float>(each.divergence));
    }
  }

  void finish() {
    out_.tokens = static_cast<int64_t>(divergences_.size());
    out_.reference_loss = reference_loss_.estimate();
    out_.loss = loss_.estimate();
    out_.loss_difference = difference_.estimate();
    out_.divergence = divergence_.estimate();
    out_.same_top = same_top_.estimate();
    std::sort(divergences_.begin(), divergences_.end());
    out_.divergence_median = percentile(divergences_, 0.5);
    out_.divergence_p99 = percentile(divergences_, 0.99);
    out_.divergence_max = divergences_.back();
  }

  void measure_texts() {
    const auto total = static_cast<int64_t>(ids_.size());
    out_.prompt_tokens = std::min({options_.prompt_tokens, context() / 2, total});
    out_.continuation = std::min(options_.continuation, context() - out_.prompt_tokens);
    out_.prompts = std::min(options_.prompts, total / out_.prompt_tokens);
    const std::optional<int32_t> first = first_token(reference_);
    std::vector<std::vector<int32_t>> prompts;
    for (int64_t i = 0; i < out_.prompts; ++i) {  // evenly over the text
      const int64_t spare = total - out_.prompt_tokens;
      const int64_t at = out_.prompts > 1 ? i * spare / (out_.prompts - 1) : 0;
      prompts.emplace_back(ids_.begin() + at, ids_.begin() + at + out_.prompt_tokens);
      if (first.has_value()) prompts.back()[0] = *first;
    }
    Progress progress("writing", static_cast<uint64_t>(2 * out_.prompts * out_.continuation), "tokens");
    const auto wanted = write(reference_, prompts, progress, 0);
    const auto found =
        write(model_, prompts, progress, static_cast<uint64_t>(out_.prompts * out_.continuation));
    int64_t common = 0;
    for (size_t i = 0; i < prompts.size(); ++i) {
      const auto end =
          std::mismatch(wanted[i].begin(), wanted[i].end(), found[i].begin(), found[i].end()).first;
      common += end - wanted[i].begin();
      out_.equal_texts += end == wanted[i].end() ? 1 : 0;
    }
    if (out_.prompts > 0)
      out_.mean_common_prefix = static_cast<double>(common) / static_cast<double>(out_.prompts);
  }

  // The likeliest token after the likeliest, past any end of text.
  std::vector<std::vector<int32_t>> write(const Assistant& assistant,
                                          const std::vector<std::vector<int32_t>>& prompts,
                                          Progress& progress, uint64_t done) const {
    EngineOptions options;
    options.context_length = out_.prompt_tokens + out_.continuation;
    options.compute = assistant.compute();
    Engine engine(backend_, assistant.model(), assistant.parameters(), options);
    std::vector<int64_t> numbers;
    for (const auto& prompt : prompts) {
      GenerationRequest request;
      request.prompt = prompt;
      request.max_tokens = out_.continuation;
      numbers.push_back(engine.submit(std::move(request), [&](const GeneratedToken&) {
        progress.update(++done);
        return !interrupt_requested();
      }));
    }
    while (engine.step()) {
      if (interrupt_requested()) stop();
    }
    std::vector<std::vector<int32_t>> out;
    for (const int64_t number : numbers) {
      out.emplace_back();
      for (const GeneratedToken& token : engine.take(number).tokens) out.back().push_back(token.id);
    }
    return out;
  }

  const Assistant& reference_;
  const Assistant& model_;
  std::vector<int32_t> ids_;
  const QualityOptions& options_;
  Backend& backend_;
  Quality out_;
  Mean reference_loss_, loss_, difference_, divergence_, same_top_;
  std::vector<float> divergences_;  // four bytes a token: for the percentiles
};

Json to_json(const Estimate& estimate) {
  return {{"mean", estimate.mean}, {"standard_error", estimate.error}};
}

}  // namespace

Divergence compare_rows(std::span<const float> reference, std::span<const float> model, int32_t next_token) {
  const auto top_reference = std::max_element(reference.begin(), reference.end());
  const auto top_model = std::max_element(model.begin(), model.end());
  const double sum_reference = log_sum_exp(reference, *top_reference),
               sum_model = log_sum_exp(model, *top_model);
  Divergence out;
  for (size_t i = 0; i < reference.size(); ++i) {
    const double log_p = reference[i] - sum_reference, log_q = model[i] - sum_model;
    const double p = std::exp(log_p);
    if (p > 0) out.divergence += p * (log_p - log_q);
  }
  const auto next = static_cast<size_t>(next_token);
  out.reference_loss = sum_reference - reference[next];
  out.loss = sum_model - model[next];
  out.same_top = top_reference - reference.begin() == top_model - model.begin();
  return out;
}

EngineOptions smallest_engine() {
  EngineOptions out;
  out.max_requests = 1;
  out.context_length = 2;
  return out;
}

Quality compare_models(Backend& backend, const Assistant& reference, const Assistant& model,
                       const std::string& text, const QualityOptions& options) {
  return Comparison(backend, reference, model, text_tokens(reference, model, text), options).run();
}

double Quality::reference_perplexity() const { return std::exp(reference_loss.mean); }
double Quality::perplexity() const { return std::exp(loss.mean); }

Json Quality::to_json() const {
  return {{"window", window},
          {"windows", windows},
          {"tokens", tokens},
          {"perplexity",
           {{"reference", reference_perplexity()},
            {"model", perplexity()},
            {"ratio", std::exp(loss_difference.mean)},
            {"ratio_standard_error", std::exp(loss_difference.mean) * loss_difference.error}}},
          {"kl_divergence",
           {{"mean", divergence.mean},
            {"standard_error", divergence.error},
            {"median", divergence_median},
            {"p99", divergence_p99},
            {"max", divergence_max}}},
          {"same_top_token", vertebra::to_json(same_top)},
          {"greedy",
           {{"prompts", prompts},
            {"prompt_tokens", prompt_tokens},
            {"continuation_tokens", continuation},
            {"equal", equal_texts},
            {"mean_common_prefix", mean_common_prefix}}}};
}

}  // namespace vertebra
