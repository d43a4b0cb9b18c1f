// The stages `pretrain` and `sft`: the same trainer on documents packed as a stream, or on whole
// conversations with the loss on the assistant's tokens. Each leaves a model folder in Hugging Face layout.
#include <cmath>

#include "base/file.h"
#include "base/log.h"
#include "base/sha256.h"
#include "data/loader.h"
#include "engine/engine.h"
#include "models/model_folder.h"
#include "models/sharding.h"
#include "recipe/chat.h"
#include "recipe/dial.h"
#include "recipe/model_settings.h"
#include "recipe/stage.h"
#include "text/chat_encoding.h"
#include "text/tokenizer.h"
#include "train/trainer.h"

namespace vertebra {
namespace {

namespace fs = std::filesystem;

enum class Kind { kPretrain, kSft };

// What the recipe says and what follows from it, as the manifest and the report show it.
Json describe(const TrainerOptions& options) {
  const OptimizerOptions& optimizer = options.graph.optimizer;
  Json out = {{"steps", options.schedule.steps},
              {"rows", options.graph.rows},
              {"length", options.graph.length},
              {"accumulation", options.accumulation},
              {"warmup_steps", options.schedule.warmup_steps},
              {"optimizer", optimizer.kind},
              {"learning_rate", optimizer.learning_rate}};
  if (optimizer.kind == "muon") {
    out["matrix_learning_rate"] = optimizer.matrix_learning_rate;
    out["matrix_weight_decay"] = optimizer.matrix_weight_decay;
  } else {
    out["weight_decay"] = optimizer.weight_decay;
  }
  return out;
}

// "steps 876, rows 16, ...".
std::string in_words(const Json& training) {
  std::vector<std::string> parts;
  for (const auto& [key, value] : training.items()) {
    parts.push_back(
        fmt::format("{} {}", key,
                    value.is_number_float() ? fmt::format("{:.4g}", value.get<double>()) : json_line(value)));
  }
  return fmt::format("{}", fmt::join(parts, ", "));
}

class TrainStage final : public Stage {
 public:
  explicit TrainStage(Kind kind) : kind_(kind) {}

  std::string_view name() const override { return kind_ == Kind::kPretrain ? "pretrain" : "sft"; }
  bool resumes() const override { return true; }
  void configure(const RunContext& context, Settings& settings) override;
  Json further_settings(const RunContext&) const override;
  std::vector<std::string> needs(const RunContext& context) const override;
  std::map<std::string, fs::path> files(const RunContext&) const override { return chat_.files(); }
  std::optional<Training> training(const GraphConditions& conditions) override;
  std::vector<StageGraph> graphs(const RunContext& context, const GraphConditions& conditions) override;
  Json run(const RunContext& context, const fs::path& folder) override;

 private:
  // Fine-tuning goes on from the pretrained model, where the recipe has one.
  bool starts_from_pretrained(const RunContext& context) const {
    return kind_ == Kind::kSft && context.has_stage("pretrain");
  }
  void configure_batches(Settings& settings);
  void configure_optimizer(Settings& settings);
  void check_mesh(const Mesh& mesh) const;
  void follow_plan(const Model& model, int64_t tokens_per_epoch, const Mesh& mesh);
  DType compute(bool native_bf16) const;
  EngineOptions sampling_options(bool native_bf16) const;
  int64_t count_steps(const BatchLoader& loader) const;
  void save(const fs::path& folder, const Trainer& trainer, const Model& model,
            const Tokenizer& tokenizer) const;
  Json sample(const RunContext& context, const BufferSet& parameters, const Model& model,
              const Tokenizer& tokenizer) const;

  Kind kind_;
  ModelSettings model_;
  std::string precision_;
  ChatSettings chat_;
  LoaderOptions loader_;
  TrainerOptions trainer_;
  PretrainingChoices choices_;  // pretrain: what the recipe says; the rest follows from model and data
  int64_t steps_ = 0;           // sft
  double epochs_ = 0;
  int64_t evaluation_batches_ = 0;
  std::vector<std::string> sample_prompts_;
};

void TrainStage::configure(const RunContext& context, Settings& s) {
  model_ = ModelSettings::read(context);
  chat_ = ChatSettings::read(context);

  const bool sft = kind_ == Kind::kSft;
  configure_batches(s);
  loader_.seed = context.recipe.seed;
  trainer_.seed = context.recipe.seed;
  precision_ = s.choice("precision", "auto", {"auto", "f32", "bf16"});
  trainer_.graph.rematerialize = s.flag("rematerialize", false);
  trainer_.graph.clip_norm = s.number("clip_norm", 1, 0, 1e9);
  check_mesh(context.backend.mesh());
  configure_optimizer(s);
  trainer_.schedule.kind = schedule_kind(s.choice("schedule", "cosine", {"constant", "cosine", "wsd"}));
  if (sft) {
    trainer_.schedule.warmup_steps = s.integer("warmup_steps", 100, 0, 1 << 30);
  } else {
    choices_.warmup_steps = s.integer_if_set("warmup_steps", 0, 1 << 30);
  }
  trainer_.schedule.final_fraction = s.number("final_fraction", 0.02, 0, 1);
  trainer_.schedule.decay_share = s.number("decay_share", 0.2, 0, 1);
  trainer_.checkpoint_every = s.integer("checkpoint_every", 500, 0, 1 << 30);
  trainer_.keep_checkpoints = static_cast<int>(s.integer("keep_checkpoints", 2, 1, 1000));
  trainer_.evaluate_every = s.integer("evaluate_every", 0, 0, 1 << 30);
  trainer_.sample_every = s.integer("sample_every", 0, 0, 1 << 30);
  trainer_.log_every = s.integer("log_every", 10, 1, 1 << 30);
  trainer_.spike_factor = s.number("spike_factor", 50, 1, 1e9);
  trainer_.max_skips = static_cast<int>(s.integer("max_skips", 5, 0, 1 << 20));
  evaluation_batches_ = s.integer("evaluation_batches", 0, 0, 1 << 30);
  sample_prompts_ = s.texts("sample_prompts", std::vector<std::string>{});
}

void TrainStage::configure_batches(Settings& s) {
  const bool sft = kind_ == Kind::kSft;
  const int64_t context = model_.context_length;
  loader_.length =
      static_cast<int>(s.integer("length", sft ? std::min<int64_t>(context, 256) : context, 8, context));
  loader_.packing = packing_from_name(s.choice("packing", sft ? "whole" : "stream", {"stream", "whole"}));
  loader_.order = row_order_from_name(s.choice("order", "shuffled", {"shuffled", "as_written"}));
  loader_.too_long = too_long_from_name(s.choice("too_long", "cut", {"cut", "drop"}));
  if (sft) {
    loader_.rows = static_cast<int>(s.integer("rows", 16, 1, 1 << 16));
    trainer_.accumulation = s.integer("accumulation", 1, 1, 1 << 16);
    steps_ = s.integer("steps", 0, 0, int64_t{1} << 40);
    epochs_ = s.number("epochs", 1, 1e-6, 1e6);
    return;
  }
  choices_.rows = s.integer_if_set("rows", 1, 1 << 16);
  choices_.accumulation = s.integer_if_set("accumulation", 1, 1 << 16);
  choices_.steps = s.integer_if_set("steps", 1, int64_t{1} << 40);
  choices_.epochs = s.number_if_set("epochs", 1e-6, 1e6);
  choices_.tokens_per_parameter = s.number("tokens_per_parameter", choices_.tokens_per_parameter, 1e-6, 1e6);
  choices_.max_epochs = s.number("max_epochs", choices_.max_epochs, 1e-6, 1e6);
}

// As far as can be told before the vocabulary and the dial's plan are known; the trainer checks again.
void TrainStage::check_mesh(const Mesh& mesh) const {
  if (mesh.devices() == 1) return;
  check_model_fits(*model_.make(mesh.tensor), mesh);
  if (kind_ == Kind::kSft || choices_.rows)
    check_rows_fit(choices_.rows.value_or(loader_.rows), mesh, fmt::format("{}.rows", name()));
}

void TrainStage::configure_optimizer(Settings& s) {
  const bool sft = kind_ == Kind::kSft;
  OptimizerOptions& o = trainer_.graph.optimizer;
  o.kind = s.choice("optimizer", sft ? "adamw" : "muon", {"adamw", "muon"});
  o.beta1 = s.number("beta1", 0.9, 0, 0.999999);
  o.beta2 = s.number("beta2", 0.95, 0, 0.999999);
  o.epsilon = s.number("epsilon", 1e-8, 0, 1);
  if (sft) {
    o.learning_rate = s.number("learning_rate", 2e-4, 0, 100);
    o.weight_decay = s.number("weight_decay", 0.1, 0, 10);
  } else {
    choices_.learning_rate = s.number_if_set("learning_rate", 0, 100);
    choices_.weight_decay = s.number_if_set("weight_decay", 0, 10);
  }
  if (o.kind != "muon") return;
  o.momentum = s.number("momentum", 0.95, 0, 0.999999);
  if (sft) {
    o.matrix_learning_rate = s.number("matrix_learning_rate", 0.02, 0, 100);
    o.matrix_weight_decay = s.number("matrix_weight_decay", 0, 0, 10);
  } else {
    choices_.matrix_learning_rate = s.number_if_set("matrix_learning_rate", 0, 100);
    choices_.matrix_weight_decay = s.number_if_set("matrix_weight_decay", 0, 10);
  }
}

Json TrainStage::further_settings(const RunContext&) const { return {{"model", model_.resolved}}; }

std::vector<std::string> TrainStage::needs(const RunContext& context) const {
  std::vector<std::string> out = {"tokenizer", "shards"};
  if (starts_from_pretrained(context)) out.emplace_back("pretrain");
  return out;
}

DType TrainStage::compute(bool native_bf16) const {
  if (precision_ == "auto") return native_bf16 ? DType::kBF16 : DType::kF32;
  return *dtype_from_name(precision_);
}

EngineOptions TrainStage::sampling_options(bool native_bf16) const {
  EngineOptions out;
  out.context_length = std::min<int64_t>(model_.context_length, 256);
  out.compute = compute(native_bf16);
  return out;
}

std::optional<Training> TrainStage::training(const GraphConditions& conditions) {
  Training out;
  out.stage = name();
  out.model = model_.make(conditions.vocabulary);
  if (kind_ == Kind::kPretrain) {
    follow_plan(*out.model, int64_t{1} << 50, {});
    out.open_accumulation = !choices_.accumulation && !choices_.rows;
  }
  out.graph = trainer_.graph;
  out.graph.rows = loader_.rows;
  out.graph.length = loader_.length;
  out.graph.compute = compute(conditions.native_bf16);
  out.accumulation = trainer_.accumulation;
  return out;
}

std::vector<StageGraph> TrainStage::graphs(const RunContext&, const GraphConditions& conditions) {
  const Training plan = *training(conditions);
  const Model& model = *plan.model;
  const TrainGraphOptions& options = plan.graph;
  std::vector<StageGraph> out;
  // How many micro-batches a step has may follow from the data: then both forms occur.
  if (plan.open_accumulation || plan.accumulation == 1)
    out.push_back({"step", build_training_step(model, options)});
  if (plan.open_accumulation || plan.accumulation > 1) {
    out.push_back({"accumulation", build_accumulation_step(model, options)});
    out.push_back({"update", build_update_step(model, options)});
  }
  out.push_back({"evaluation", build_evaluation(model, options.rows, options.length, options.compute)});
  if (!sample_prompts_.empty()) {
    const EngineOptions sampling = sampling_options(conditions.native_bf16);
    DeviceGraphs serving = device_graphs(model, sampling);
    out.push_back({"serving", std::move(serving.step)});
    out.push_back({"sampling", std::move(serving.sampling)});
  }
  return out;
}

int64_t TrainStage::count_steps(const BatchLoader& loader) const {
  if (steps_ > 0) return steps_;
  const double batches =
      epochs_ * static_cast<double>(loader.steps_per_epoch()) / static_cast<double>(trainer_.accumulation);
  return std::max<int64_t>(1, static_cast<int64_t>(std::llround(batches)));
}

void TrainStage::follow_plan(const Model& model, int64_t tokens_per_epoch, const Mesh& mesh) {
  OptimizerOptions& optimizer = trainer_.graph.optimizer;
  PretrainingInputs inputs;
  inputs.parameters = count_parameters(model.parameters());
  inputs.inner_parameters = count_inner_parameters(model);
  inputs.layers = model.shape().layers;
  inputs.embedding = model.shape().embedding;
  inputs.length = loader_.length;
  inputs.tokens_per_epoch = tokens_per_epoch;
  inputs.batch_parts = mesh.data * mesh.fsdp;
  inputs.muon = optimizer.kind == "muon";
  inputs.beta2 = optimizer.beta2;
  const PretrainingPlan plan = plan_pretraining(inputs, choices_);
  loader_.rows = static_cast<int>(plan.rows);
  trainer_.accumulation = plan.accumulation;
  trainer_.schedule.steps = plan.steps;
  trainer_.schedule.warmup_steps = plan.warmup_steps;
  optimizer.learning_rate = plan.learning_rate;
  optimizer.weight_decay = plan.weight_decay;
  optimizer.matrix_learning_rate = plan.matrix_learning_rate;
  optimizer.matrix_weight_decay = plan.matrix_weight_decay;
}

Json TrainStage::run(const RunContext& context, const fs::path& folder) {
  const Tokenizer tokenizer = Tokenizer::load(context.stage_folder("tokenizer"));
  LoadedModel pretrained;
  std::unique_ptr<Model> fresh;
  std::map<std::string, Tensor> start;
  if (starts_from_pretrained(context)) {
    pretrained = read_model_folder(context.stage_folder("pretrain"));
    for (const auto& [name, tensor] : pretrained.parameters) start[name] = tensor;
  } else {
    fresh = model_.make(tokenizer.vocab_size());
  }
  const Model& model = pretrained.model ? *pretrained.model : *fresh;

  const auto shards = std::make_shared<const ShardSet>(context.stage_folder("shards") / "tokens");
  if (kind_ == Kind::kPretrain)
    follow_plan(model, shards->counts(Split::kTrain).tokens, context.backend.mesh());
  const BatchLoader loader(shards, Split::kTrain, loader_);
  if (kind_ == Kind::kSft) trainer_.schedule.steps = count_steps(loader);
  std::optional<BatchLoader> validation;
  if (shards->split(Split::kValidation).documents() > 0) {
    validation.emplace(shards, Split::kValidation,
                       evaluation_options(loader_.rows, loader_.length, loader_.packing));
  }
  const std::vector<int32_t> token_bytes = tokenizer.text_lengths();

  TrainerOptions options = trainer_;
  options.folder = folder;
  options.fingerprint = fingerprint;
  options.graph.rows = loader_.rows;
  options.graph.length = loader_.length;
  options.graph.compute = compute(context.backend.native_bf16());
  TrainerInputs inputs;
  inputs.token_bytes = token_bytes;
  inputs.batch = [&](int64_t index) { return loader.batch(index); };
  inputs.initial = [&](const ParameterSpec& spec) {
    const auto it = start.find(spec.name);
    return it != start.end() ? it->second : initial_value(spec, context.recipe.seed);
  };
  if (validation) inputs.validation = spread_over(*validation, evaluation_batches_);
  if (!sample_prompts_.empty()) {
    inputs.sample = [&](const BufferSet& parameters) {
      return sample(context, parameters, model, tokenizer);
    };
  }
  const Json training = describe(options);
  log_info("{}: {} parameters, {} tokens of text; {}", name(), count_parameters(model.parameters()),
           shards->counts(Split::kTrain).tokens, in_words(training));
  Trainer trainer(context.backend, model, options, std::move(inputs));
  const TrainResult result = trainer.run();
  save(folder, trainer, model, tokenizer);

  const DeviceInfo device = context.backend.device();
  Json out = {{"parameters", count_parameters(model.parameters())},
              {"steps", result.steps},
              {"tokens", result.tokens},
              {"loss", result.loss},
              {"skipped_updates", result.skipped},
              {"training", training},
              {"precision", dtype_name(options.graph.compute)},
              {"device", fmt::format("{} ({})", device.name, device.kind)},
              {"mesh", context.backend.mesh().to_string()},
              {"tokens_per_second", static_cast<double>(result.tokens) / std::max(1e-9, result.wall_seconds)},
              {"core_seconds", result.core_seconds},
              {"peak_memory_bytes", result.peak_memory_bytes}};
  if (validation) {
    out["validation_loss"] = result.validation.loss();
    out["validation_bits_per_byte"] = result.validation.bits_per_byte();
  }
  return out;
}

void TrainStage::save(const fs::path& folder, const Trainer& trainer, const Model& model,
                      const Tokenizer& tokenizer) const {
  const bool chats = kind_ == Kind::kSft;
  const std::string stop = chats ? chat_.end_of_turn : kEndOfText;
  const auto stop_token = tokenizer.token_id(stop);
  require(stop_token.has_value() || !chats,
          "the tokenizer has no token '{}', with which answers are to end (chat.end_of_turn)", stop);
  Json generation = Json::object();
  if (chats && chat_.withhold_below > 0) {
    generation["withhold"] = {{"below", chat_.withhold_below}, {"refusals", chat_.refusals}};
  }
  write_model_folder(folder, model, trainer.parameters_to_host(), stop_token.value_or(-1), generation);
  tokenizer.save(folder / "tokenizer.json");
  Json config = {{"tokenizer_class", "PreTrainedTokenizerFast"}, {"model_max_length", model_.context_length}};
  config["clean_up_tokenization_spaces"] = false;
  if (stop_token) config["eos_token"] = stop;
  if (chats) {
    const std::string source = chat_.load().source();
    write_file_atomic(folder / "chat_template.jinja", source);
    config["chat_template"] = source;
  }
  write_json_file(folder / "tokenizer_config.json", config);
}

Json TrainStage::sample(const RunContext& context, const BufferSet& parameters, const Model& model,
                        const Tokenizer& tokenizer) const {
  Engine engine(context.backend, model, parameters, sampling_options(context.backend.native_bf16()));
  std::vector<GenerationRequest> requests;
  for (const std::string& prompt : sample_prompts_) {
    GenerationRequest request;
    if (kind_ == Kind::kSft) {
      const ChatEncoder encoder(tokenizer, chat_.load());
      ChatTemplateOptions generation;
      generation.add_generation_prompt = true;
      request.prompt = encoder.encode({{{"user", prompt}}}, generation).tokens;
    } else {
      request.prompt = tokenizer.encode(prompt, false, false);
    }
    request.max_tokens = 48;
    for (const std::string& stop : {chat_.end_of_turn, std::string(kEndOfText)}) {
      if (const auto id = tokenizer.token_id(stop)) request.stop_tokens.push_back(*id);
    }
    requests.push_back(std::move(request));
  }
  const std::vector<GenerationResult> results = engine.generate(std::move(requests));
  Json out = Json::array();
  for (size_t i = 0; i < results.size(); ++i) {
    std::vector<int32_t> ids;
    for (const GeneratedToken& token : results[i].tokens) ids.push_back(token.id);
    out.push_back({{"prompt", sample_prompts_[i]}, {"text", tokenizer.decode(ids)}});
  }
  return out;
}

}  // namespace

std::unique_ptr<Stage> make_pretrain_stage() { return std::make_unique<TrainStage>(Kind::kPretrain); }
std::unique_ptr<Stage> make_sft_stage() { return std::make_unique<TrainStage>(Kind::kSft); }

}  // namespace vertebra
