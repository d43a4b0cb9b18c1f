#include "cli/quality_report.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/file.h"
#include "base/log.h"
#include "base/progress.h"
#include "base/sha256.h"

namespace vertebra::cli {
namespace {

namespace fs = std::filesystem;

// 1234567 -> "1.23 M".
std::string format_count(int64_t count) {
  const auto value = static_cast<double>(count);
  if (count >= 1'000'000'000) return fmt::format("{:.2f} G", value / 1e9);
  if (count >= 1'000'000) return fmt::format("{:.2f} M", value / 1e6);
  if (count >= 10'000) return fmt::format("{:.1f} k", value / 1e3);
  return fmt::format("{}", count);
}

void print_sizes(const std::string& kind, const WeightSize* before, const WeightSize* after) {
  const auto column = [](const WeightSize* size) {
    return size == nullptr ? std::string("-")
                           : fmt::format("{} {:.2f}", size->type_names(), size->bits_per_weight());
  };
  const auto bytes = [](const WeightSize* size) {
    return size == nullptr ? std::string("-") : format_bytes(size->size_bytes);
  };
  const WeightSize& any = after != nullptr ? *after : *before;
  fmt::print("  {:<34} {:>9}  {:>14} {:>10}  {:>16} {:>10}\n", kind, format_count(any.weights),
             column(before), bytes(before), column(after), bytes(after));
}

}  // namespace

Json QualityReport::to_json() const {
  Json out = {{"reference", reference_name},
              {"model", model_name},
              {"text", text_name},
              {"text_sha256", text_sha256}};
  out.update(quality.to_json());
  out["sizes"] = {{"reference", reference_sizes.to_json()}, {"model", sizes.to_json()}};
  return out;
}

void QualityReport::print() const {
  const Quality& q = quality;
  fmt::print("{} against {}\n", model_name, reference_name);
  fmt::print("  text             {}: {} windows of {} tokens, {} predictions\n", text_name, q.windows,
             q.window, q.tokens);
  const double ratio = q.perplexity() / q.reference_perplexity();
  fmt::print("  perplexity       {:.4f} -> {:.4f}, x {:.4f} ± {:.4f}\n", q.reference_perplexity(),
             q.perplexity(), ratio, ratio * q.loss_difference.error);
  fmt::print(
      "  KL divergence    mean {:.6f} ± {:.6f}, median {:.6f}, 99 % below {:.6f}, largest {:.6f} (nats)\n",
      q.divergence.mean, q.divergence.error, q.divergence_median, q.divergence_p99, q.divergence_max);
  fmt::print("  likeliest token  the same in {:.2f} ± {:.2f} %\n", 100 * q.same_top.mean,
             100 * q.same_top.error);
  fmt::print("  greedy texts     {} of {} equal over {} tokens; {:.1f} tokens in common on average\n",
             q.equal_texts, q.prompts, q.continuation, q.mean_common_prefix);
  fmt::print("  {:<34} {:>9}  {:>25}  {:>27}\n", "tensors", "weights", "reference: bits, size",
             "model: bits, size");
  const auto find = [](const WeightSizes& in, const std::string& kind) {
    const auto it = in.kinds.find(kind);
    return it == in.kinds.end() ? nullptr : &it->second;
  };
  for (const auto& [kind, size] : sizes.kinds) print_sizes(kind, find(reference_sizes, kind), &size);
  for (const auto& [kind, size] : reference_sizes.kinds) {
    if (!sizes.kinds.contains(kind)) print_sizes(kind, &size, nullptr);
  }
  WeightSize before = reference_sizes.total, after = sizes.total;
  before.types.clear();  // a total has no type
  after.types.clear();
  print_sizes("all", &before, &after);
}

QualityReport measure_quality(const GlobalOptions& global, const fs::path& reference, const fs::path& model,
                              const std::string& text, int64_t windows) {
  QualityReport out;
  out.reference_name = reference.string();
  out.model_name = model.string();
  out.text_name = text.empty() ? "the text that comes with the program" : text;
  const std::string content = text.empty() ? kSampleText : read_file(text);
  out.text_sha256 = sha256_hex(content);
  Backend& backend = open_backend(global);
  const WeightForm form = backend.host_memory() ? WeightForm::kStored : WeightForm::kF32;
  const fs::path reference_path = find_model(reference), model_path = find_model(model);
  out.reference_sizes = weight_sizes(reference_path);
  out.sizes = weight_sizes(model_path);
  const Assistant first(backend, reference_path, smallest_engine(), form);
  const Assistant second(backend, model_path, smallest_engine(), form);
  QualityOptions options;
  options.windows = windows;
  out.quality = compare_models(backend, first, second, content, options);
  return out;
}

}  // namespace vertebra::cli
