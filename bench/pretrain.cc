// A finished pretraining run beside PyTorch: the same model, initial weights, batches in the same order,
// learning rates and held-out batches, taken from the run's folder and handed over in one file; what is
// compared is the loss of every logged step and the bits per byte of the held-out text at the end.
//   bench_pretrain RUN_FOLDER [--json] [--threads N] [--steps N]
// --steps ends earlier, at a step where the run evaluated. Needs a run of `llama` with AdamW in fp32
// (--set pretrain.precision=f32), without accumulation and skipped updates. The file is
// RUN_FOLDER/peer.safetensors.
#include <fmt/format.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/manifest.h"
#include "bench/figure.h"
#include "bench/options.h"
#include "data/loader.h"
#include "formats/safetensors.h"
#include "models/model.h"
#include "text/tokenizer.h"
#include "train/evaluate.h"
#include "train/schedule.h"

namespace vertebra::bench {
namespace {

namespace fs = std::filesystem;

struct Options {
  fs::path run;
  bool json = false;
  int threads = 2;
  int64_t steps = 0;  // 0: all of the run
};

// One line of the run's metrics.jsonl or of the peer's answer: the loss of a step, or the evaluation after
// it.
struct Curve {
  std::map<int64_t, double> losses, bits_per_byte;
};

Curve read_curve(const std::string& text, const std::string& source) {
  Curve out;
  for (size_t start = 0; start < text.size();) {
    const size_t end = std::min(text.find('\n', start), text.size());
    const Json line = parse_json(std::string_view(text).substr(start, end - start), source);
    const auto step = json_get<int64_t>(line, "step", source);
    out.losses[step] = json_get<double>(line, "loss", source);
    if (line.contains("validation_bits_per_byte"))
      out.bits_per_byte[step] = json_get<double>(line, "validation_bits_per_byte", source);
    start = end + 1;
  }
  return out;
}

// Batches one after the other: [batches, B, T] of each array.
void add_batches(const BatchSequence& batches, const std::string& prefix, std::vector<NamedTensor>& out) {
  std::vector<int32_t> tokens, labels, segments, positions;
  const auto append = [](std::vector<int32_t>& all, const std::vector<int32_t>& more) {
    all.insert(all.end(), more.begin(), more.end());
  };
  int64_t count = 0, rows = 0, length = 0;
  for (; const std::optional<Batch> batch = batches(count); ++count) {
    rows = batch->rows;
    length = batch->length;
    append(tokens, batch->tokens);
    append(labels, batch->labels);
    append(segments, batch->segments);
    append(positions, batch->positions);
  }
  const Shape shape{count, rows, length};
  out.push_back({prefix + "/tokens", Tensor::from<int32_t>(shape, tokens)});
  out.push_back({prefix + "/labels", Tensor::from<int32_t>(shape, labels)});
  out.push_back({prefix + "/segments", Tensor::from<int32_t>(shape, segments)});
  out.push_back({prefix + "/positions", Tensor::from<int32_t>(shape, positions)});
}

// The settings of a training stage as its manifest has them, those that followed from model and text among
// them.
Json read_settings(const Manifest& manifest, const std::string& source) {
  Json settings = json_get<Json>(manifest.recipe, "settings", source);
  const Json decided = json_get<Json>(manifest.results, "training", source);
  for (const auto& [key, value] : decided.items()) settings[key] = value;
  const auto precision = json_get<std::string>(manifest.results, "precision", source);
  const auto optimizer = json_get<std::string>(settings, "optimizer", source);
  require(precision == "f32" && optimizer == "adamw" &&
              json_get<int64_t>(settings, "accumulation", source) == 1 &&
              json_get<int64_t>(manifest.results, "skipped_updates", source) == 0,
          "{}: precision {}, optimizer {}; the peer repeats runs in f32 with adamw, without accumulation and "
          "without skipped updates",
          source, precision, optimizer);
  return settings;
}

void write_exchange(const fs::path& run, const Json& settings, uint64_t seed, int64_t steps) {
  const std::string source = "settings of the pretrain stage";
  const Json config = read_json_file(run / "pretrain" / "config.json");
  const auto model = make_model(config, "config.json");
  const auto shards = std::make_shared<const ShardSet>(run / "shards" / "tokens");
  LoaderOptions options;
  options.rows = json_get<int>(settings, "rows", source);
  options.length = json_get<int>(settings, "length", source);
  options.packing = packing_from_name(json_get<std::string>(settings, "packing", source));
  options.order = row_order_from_name(json_get<std::string>(settings, "order", source));
  options.too_long = too_long_from_name(json_get<std::string>(settings, "too_long", source));
  options.seed = seed;
  const BatchLoader training(shards, Split::kTrain, options);
  const BatchLoader held_out(shards, Split::kValidation,
                             evaluation_options(options.rows, options.length, options.packing));
  std::vector<NamedTensor> tensors;
  for (const ParameterSpec& spec : model->parameters())
    tensors.push_back({"initial/" + spec.name, initial_value(spec, seed)});
  const BatchSequence trained_on = [&](int64_t index) {
    return index < steps ? std::optional<Batch>(training.batch(index)) : std::nullopt;
  };
  add_batches(trained_on, "train", tensors);
  add_batches(spread_over(held_out, json_get<int64_t>(settings, "evaluation_batches", source)), "validation",
              tensors);
  const std::vector<int32_t> token_bytes = Tokenizer::load(run / "tokenizer").text_lengths();
  tensors.push_back(
      {"token_bytes", Tensor::from<int32_t>({static_cast<int64_t>(token_bytes.size())}, token_bytes)});

  Schedule schedule;
  schedule.kind = schedule_kind(json_get<std::string>(settings, "schedule", source));
  schedule.steps = json_get<int64_t>(settings, "steps", source);
  schedule.warmup_steps = json_get<int64_t>(settings, "warmup_steps", source);
  schedule.final_fraction = json_get<double>(settings, "final_fraction", source);
  schedule.decay_share = json_get<double>(settings, "decay_share", source);
  const auto rate = json_get<double>(settings, "learning_rate", source);
  std::vector<float> rates;  // as the trainer hands them to its optimizer
  for (int64_t step = 0; step < steps; ++step)
    rates.push_back(static_cast<float>(rate * schedule_factor(schedule, step)));
  tensors.push_back({"learning_rates", Tensor::from<float>({steps}, rates)});
  write_safetensors(run / "peer.safetensors", tensors,
                    {{"config", json_line(config)}, {"settings", json_line(settings)}});
}

Curve run_peer(const Options& options, const fs::path& log) {
  const std::string command =
      fmt::format("python3 '{}/bench/peers/pretrain.py' '{}' '{}' {}", VERTEBRA_SOURCE_DIR,
                  (options.run / "peer.safetensors").string(), log.string(), options.threads);
  require(std::system(command.c_str()) == 0, "the peer failed: {}", command);
  return read_curve(read_file(log), log.string());
}

void compare(const Options& options, const Curve& ours, const Curve& peer, int64_t steps) {
  const auto line = [&](const std::string& name, double value, const std::string& unit) {
    const std::string model = options.run.filename().string();
    if (options.json) return print_figure({name, value, unit, 0, model}, true, options.threads);
    fmt::print("{:24} {:42} {:10.6g} {}\n", model, name, value, unit);  // what counts is in the last digits
  };
  double furthest = 0;
  for (const auto& [step, loss] : peer.losses) {
    const auto it = ours.losses.find(step);
    if (it != ours.losses.end()) furthest = std::max(furthest, std::abs(it->second / loss - 1));
  }
  const double bits = ours.bits_per_byte.at(steps), peer_bits = peer.bits_per_byte.at(steps);
  for (const auto& [step, value] : peer.bits_per_byte) {
    const auto it = ours.bits_per_byte.find(step);
    if (it == ours.bits_per_byte.end() || step == steps) continue;
    line(fmt::format("held-out after step {}, ratio to torch", step), it->second / value, "x");
  }
  line("loss of the first logged step, vertebra", ours.losses.begin()->second, "nats");
  line("loss of the first logged step, torch", peer.losses.at(ours.losses.begin()->first), "nats");
  line("furthest apart of the logged losses", 100 * furthest, "%");
  line("held-out, vertebra", bits, "bits/byte");
  line("held-out, torch", peer_bits, "bits/byte");
  line("held-out, ratio to torch", bits / peer_bits, "x");
}

void run(const Options& options) {
  const fs::path stage = options.run / "pretrain";
  const Manifest manifest = read_manifest(stage);
  const Json settings = read_settings(manifest, (stage / "manifest.json").string());
  const fs::path metrics = stage / "metrics.jsonl";
  const Curve ours = read_curve(read_file(metrics), metrics.string());
  const int64_t steps =
      options.steps > 0 ? options.steps : json_get<int64_t>(settings, "steps", "the manifest");
  require(ours.bits_per_byte.contains(steps), "{} has no evaluation after step {}", metrics.string(), steps);
  write_exchange(options.run, settings, json_get<uint64_t>(manifest.recipe, "seed", "the manifest"), steps);
  compare(options, ours, run_peer(options, options.run / "peer.jsonl"), steps);
}

}  // namespace
}  // namespace vertebra::bench

int main(int argc, char** argv) {
  using namespace vertebra::bench;
  CLI::App app("A finished pretraining run repeated by PyTorch", "bench_pretrain");
  Options options;
  app.add_option("run", options.run, "The run's folder")->required();
  add_json_and_threads(app, options.json, options.threads);
  app.add_option("--steps", options.steps, "End after this step")->check(CLI::PositiveNumber);
  return bench_main(app, argc, argv, [&] { run(options); });
}
