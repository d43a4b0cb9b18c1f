#include "train/trainer.h"

#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <deque>
#include <limits>

#include "base/file.h"
#include "base/interrupt.h"
#include "base/log.h"
#include "base/progress.h"
#include "formats/checkpoint.h"
#include "models/sharding.h"

namespace vertebra {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kNormHistory = 64;
constexpr size_t kNormsBeforeJudging = 16;  // the first norms say little about what is usual
// Steps handed to the device before the loss of an earlier one is waited for: the device then has the next
// step at hand when one ends, and the host prepares the batch after it meanwhile.
constexpr int64_t kStepsAhead = 1;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double core_seconds() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

uint64_t peak_memory_bytes() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<uint64_t>(usage.ru_maxrss) * 1024;
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

// Metrics written after the checkpoint that a run continues from would appear twice.
void drop_metrics_after(const std::filesystem::path& path, int64_t step) {
  if (!std::filesystem::exists(path)) return;
  const std::string text = read_file(path);
  std::string kept;
  for (size_t start = 0; start < text.size();) {
    const size_t end = text.find('\n', start);
    if (end == std::string::npos) break;  // a line cut off by a kill
    const std::string_view line(text.data() + start, end - start);
    const Json value = parse_json(line, path.string());
    if (json_get<int64_t>(value, "step", path.string()) <= step) kept.append(line) += '\n';
    start = end + 1;
  }
  if (kept.size() != text.size()) write_file_atomic(path, kept);
}

}  // namespace

struct Trainer::Impl {
  Backend& backend;
  const Model& model;
  TrainerOptions options;
  TrainerInputs inputs;
  BufferSet parameters;  // the model's
  BufferSet buffers;     // optimizer state, batch, scalars
  std::vector<StateSpec> states;
  std::unique_ptr<BoundExecutable> step_executable, accumulate_executable, update_executable;
  std::unique_ptr<LossEvaluator> evaluator;

  // What a checkpoint holds beside tensors.
  int64_t step = 0;  // steps done
  int64_t skipped = 0, skipped_in_a_row = 0;
  // Of updates made: the steps that made them, their norms.
  std::deque<std::pair<int64_t, double>> norms;
  std::deque<double> losses;

  // A step on the device, the oldest first.
  struct Launched {
    int64_t step = 0;  // counted from 0
    int64_t labels = 0;
    double norm_limit = 0;
    std::vector<std::unique_ptr<PendingTensor>> losses;  // of its micro-batches
    std::unique_ptr<PendingTensor> norm;
  };
  std::deque<Launched> launched;

  std::filesystem::path metrics_path() const { return options.folder / "metrics.jsonl"; }
  std::filesystem::path checkpoints_path() const { return options.folder / "checkpoints"; }

  Impl(Backend& backend_in, const Model& model_in, TrainerOptions options_in, TrainerInputs inputs_in)
      : backend(backend_in), model(model_in), options(std::move(options_in)), inputs(std::move(inputs_in)) {
    options.graph.mesh = backend.mesh();
    states = optimizer_state(model, options.graph.optimizer, options.graph.mesh);
  }

  void compile() {
    if (options.accumulation == 1) {
      step_executable = std::make_unique<BoundExecutable>(backend, build_training_step(model, options.graph),
                                                          buffers, &parameters);
    } else {
      accumulate_executable = std::make_unique<BoundExecutable>(
          backend, build_accumulation_step(model, options.graph), buffers, &parameters);
      update_executable = std::make_unique<BoundExecutable>(backend, build_update_step(model, options.graph),
                                                            buffers, &parameters);
    }
    if (inputs.validation) {
      evaluator =
          std::make_unique<LossEvaluator>(backend, model, parameters, options.graph.rows,
                                          options.graph.length, options.graph.compute, inputs.token_bytes);
    }
  }

  // Of parameters and optimizer state.
  uint64_t bytes_per_device() const {
    const Mesh& mesh = options.graph.mesh;
    int64_t elements = 0;
    for (const ParameterSpec& spec : model.parameters())
      elements += shard_shape(spec.shape, parameter_sharding(spec, mesh), mesh, spec.name).elements();
    for (const StateSpec& spec : states)
      elements += shard_shape(spec.shape, spec.sharding, mesh, spec.name).elements();
    return static_cast<uint64_t>(elements) * dtype_size(DType::kF32);
  }

  void start_fresh() {
    for (const ParameterSpec& spec : model.parameters()) {
      const Tensor value = inputs.initial(spec);
      require(value.type() == TensorType{DType::kF32, spec.shape},
              "parameter '{}' starts as {}, {} was wanted", spec.name, value.type().to_string(),
              TensorType{DType::kF32, spec.shape}.to_string());
      parameters.set(spec.name, backend.upload_sharded(value, parameter_sharding(spec, options.graph.mesh)));
    }
    for (const StateSpec& spec : states)
      buffers.set(spec.name, backend.upload_sharded(Tensor::zeros({DType::kF32, spec.shape}), spec.sharding));
    std::filesystem::remove(metrics_path());
  }

  bool resume() {
    remove_unfinished_checkpoints(checkpoints_path());
    const std::optional<Checkpoint> checkpoint = load_latest_checkpoint(checkpoints_path());
    if (!checkpoint) return false;
    const std::string source = checkpoints_path().string();
    const Json& state = checkpoint->state;
    if (json_get<std::string>(state, "fingerprint", source) != options.fingerprint) {
      log_info("the checkpoints in {} are of another recipe; training starts anew", source);
      std::filesystem::remove_all(checkpoints_path());
      return false;
    }
    std::map<std::string, Tensor> tensors;
    for (const auto& [name, tensor] : checkpoint->tensors) tensors[name] = tensor;
    const auto take = [&](BufferSet& into, const std::string& name, const Shape& shape,
                          const Sharding& sharding) {
      const auto it = tensors.find(name);
      require(it != tensors.end(), Code::kDataLoss, "the checkpoint in {} lacks '{}'", source, name);
      require(it->second.type() == TensorType{DType::kF32, shape}, Code::kDataLoss,
              "the checkpoint in {} has '{}' as {}", source, name, it->second.type().to_string());
      into.set(name, backend.upload_sharded(it->second, sharding));
    };
    for (const ParameterSpec& spec : model.parameters())
      take(parameters, spec.name, spec.shape, parameter_sharding(spec, options.graph.mesh));
    for (const StateSpec& spec : states) take(buffers, spec.name, spec.shape, spec.sharding);
    step = checkpoint->step;
    skipped = json_get<int64_t>(state, "skipped", source);
    skipped_in_a_row = json_get<int64_t>(state, "skipped_in_a_row", source);
    norms = json_get<std::deque<std::pair<int64_t, double>>>(state, "norms", source);
    losses = json_get<std::deque<double>>(state, "losses", source);
    drop_metrics_after(metrics_path(), step);
    return true;
  }

  void save() {
    std::vector<NamedTensor> tensors;
    for (const ParameterSpec& spec : model.parameters())
      tensors.push_back({spec.name, parameters.at(spec.name).to_host()});
    for (const StateSpec& spec : states) tensors.push_back({spec.name, buffers.at(spec.name).to_host()});
    const Json state = {{"fingerprint", options.fingerprint},
                        {"skipped", skipped},
                        {"skipped_in_a_row", skipped_in_a_row},
                        {"norms", norms},
                        {"losses", losses}};
    save_checkpoint(checkpoints_path(), step, tensors, state, {}, options.keep_checkpoints);
  }

  void set_scalar(const char* name, double value) {
    const auto as_float = static_cast<float>(value);
    buffers.at(name).copy_from(Tensor::view({DType::kF32, {}}, &as_float, nullptr));
  }

  // The same whether or not the steps before were waited for: they do not count.
  double norm_limit() const {
    std::vector<double> known;
    for (const auto& [at, norm] : norms) {
      if (at < step - kStepsAhead) known.push_back(norm);
    }
    if (known.size() > kNormHistory) known.erase(known.begin(), known.end() - kNormHistory);
    if (known.size() < kNormsBeforeJudging) return std::numeric_limits<float>::max();
    return options.spike_factor * median(std::move(known));
  }

  struct StepResult {
    int64_t step = 0;  // counted from 1
    double loss = 0, norm = 0;
    int64_t labels = 0;
    bool updated = false;
  };

  void launch_step() {
    std::vector<Batch> batches;
    Launched out;
    out.step = step;
    out.norm_limit = norm_limit();
    for (int64_t i = 0; i < options.accumulation; ++i) {
      batches.push_back(inputs.batch(step * options.accumulation + i));
      out.labels += batches.back().loss_tokens;
    }
    const double factor = schedule_factor(options.schedule, step);
    set_scalar(inputs::kLearningRate, factor * options.graph.optimizer.learning_rate);
    set_scalar(inputs::kMatrixLearningRate, factor * options.graph.optimizer.matrix_learning_rate);
    set_scalar(inputs::kStep, static_cast<double>(step + 1));
    set_scalar(inputs::kNormLimit, out.norm_limit);
    set_scalar(inputs::kLossScale, 1.0 / static_cast<double>(std::max<int64_t>(1, out.labels)));
    for (const Batch& batch : batches) {
      upload_batch(batch, buffers);
      (step_executable ? *step_executable : *accumulate_executable).run();
      out.losses.push_back(buffers.at(outputs::kLoss).read());
    }
    if (update_executable) update_executable->run();
    out.norm = buffers.at(outputs::kGradientNorm).read();
    launched.push_back(std::move(out));
    ++step;
  }

  // Waits for the oldest launched step; keeps the books by which a spike is told from the usual.
  StepResult settle_step() {
    Launched& oldest = launched.front();
    StepResult result = {.step = oldest.step + 1, .labels = oldest.labels};
    for (const auto& loss : oldest.losses) result.loss += loss->wait().at(0);
    result.loss /= static_cast<double>(std::max<int64_t>(1, result.labels));
    result.norm = oldest.norm->wait().at(0);
    const double limit = oldest.norm_limit;
    result.updated = result.norm <= limit;
    launched.pop_front();
    if (result.updated) {
      norms.emplace_back(result.step - 1, result.norm);
      if (norms.size() > kNormHistory + kStepsAhead) norms.pop_front();
      losses.push_back(result.loss);
      if (losses.size() > loss_history()) losses.pop_front();
      skipped_in_a_row = 0;
    } else {
      skip(result, limit);
    }
    return result;
  }

  void skip(const StepResult& result, double limit) {
    ++skipped;
    ++skipped_in_a_row;
    log_warning("step {}: loss {:.4g}, gradient norm {:.4g} is above the limit {:.4g}; the update is skipped",
                result.step, result.loss, result.norm, limit);
    require(
        skipped_in_a_row <= options.max_skips, Code::kDataLoss,
        "training became unsound: {} updates in a row were skipped, the last at step {} with loss {:.4g} and "
        "gradient norm "
        "{:.4g}. The newest checkpoint in {} is from before; lower the learning rate, or look at the data",
        skipped_in_a_row, result.step, result.loss, result.norm, checkpoints_path().string());
  }

  // The result's loss is the mean over the last tenth of the run.
  size_t loss_history() const {
    return static_cast<size_t>(std::max<int64_t>(1, options.schedule.steps / 10));
  }
};

Trainer::Trainer(Backend& backend, const Model& model, TrainerOptions options, TrainerInputs inputs)
    : impl_(std::make_unique<Impl>(backend, model, std::move(options), std::move(inputs))) {
  require(impl_->options.schedule.steps >= 1, "training needs at least 1 step, {} were asked for",
          impl_->options.schedule.steps);
  require(impl_->options.accumulation >= 1, "accumulation is {}, at least 1 was wanted",
          impl_->options.accumulation);
  const Mesh& mesh = impl_->options.graph.mesh;
  check_model_fits(model, mesh);
  check_rows_fit(impl_->options.graph.rows, mesh, "rows");
}

Trainer::~Trainer() = default;

const BufferSet& Trainer::parameters() const { return impl_->parameters; }

std::vector<NamedTensor> Trainer::parameters_to_host() const {
  std::vector<NamedTensor> out;
  for (const ParameterSpec& spec : impl_->model.parameters()) {
    out.push_back({spec.name, impl_->parameters.at(spec.name).to_host()});
  }
  return out;
}

TrainResult Trainer::run() {
  Impl& t = *impl_;
  const TrainerOptions& options = t.options;
  std::filesystem::create_directories(options.folder);
  TrainResult result;
  result.resumed = t.resume();
  if (result.resumed) {
    log_info("continuing from step {} of {}", t.step, options.schedule.steps);
  } else {
    t.start_fresh();
  }
  if (const Mesh& mesh = options.graph.mesh; mesh.devices() > 1)
    log_info("{} devices ({}), each with {} of parameters and optimizer state", mesh.devices(),
             mesh.to_string(), format_bytes(t.bytes_per_device()));
  t.compile();
  if (t.update_executable) {
    for (const ParameterSpec& spec : t.model.parameters()) {
      t.buffers.at(gradient_name(spec.name)).copy_from(Tensor::zeros({DType::kF32, spec.shape}));
    }
  }

  const int64_t steps = options.schedule.steps;
  const int64_t tokens_per_step = options.accumulation * options.graph.rows * options.graph.length;
  const double flops_per_token = t.model.training_flops_per_token(options.graph.length);
  const double peak = t.backend.peak_flops(options.graph.compute);
  Progress progress("step", static_cast<uint64_t>(steps), "steps");
  const auto start = Clock::now();
  const double core_start = core_seconds();
  auto last_log = start;
  int64_t logged_step = t.step;
  const auto due = [](int64_t step, int64_t every) { return every > 0 && step % every == 0; };
  const auto evaluates_at = [&](int64_t step) {
    return t.evaluator && (due(step, options.evaluate_every) || step == steps);
  };
  const auto samples_at = [&](int64_t step) {
    return t.inputs.sample && options.sample_every > 0 && (due(step, options.sample_every) || step == steps);
  };
  const auto saves_at = [&](int64_t step) { return due(step, options.checkpoint_every) || step == steps; };

  // Parameters are those of the step settled only when no other step was launched.
  const auto settle = [&] {
    const Impl::StepResult step = t.settle_step();
    const bool evaluates = evaluates_at(step.step), samples = samples_at(step.step);
    if (!due(step.step, options.log_every) && step.step != steps && !evaluates && !samples) return;
    const double rate = static_cast<double>((step.step - logged_step) * tokens_per_step) /
                        std::max(1e-9, seconds_since(last_log));
    Json line = {{"step", step.step},
                 {"loss", step.loss},
                 {"learning_rate_factor", schedule_factor(options.schedule, step.step - 1)},
                 {"gradient_norm", step.norm},
                 {"labels", step.labels},
                 {"tokens_per_second", rate},
                 {"share_of_ceiling", rate * flops_per_token / peak},
                 {"seconds", seconds_since(start)}};
    if (evaluates) {
      const LossSummary summary = t.evaluator->run(t.inputs.validation);
      line["validation_loss"] = summary.loss();
      line["validation_bits_per_byte"] = summary.bits_per_byte();
      if (step.step == steps) result.validation = summary;
    }
    if (samples) line["samples"] = t.inputs.sample(t.parameters);
    append_line(t.metrics_path(), json_line(line));
    last_log = Clock::now();
    logged_step = step.step;
    progress.update(static_cast<uint64_t>(step.step),
                    fmt::format("loss {:.3f}  {:.0f} tokens/s  {:.0f} % of the ceiling", step.loss, rate,
                                100 * rate * flops_per_token / peak));
  };

  while (t.step < steps) {
    if (interrupt_requested()) {
      while (!t.launched.empty()) settle();
      t.save();
      progress.clear();
      throw Interrupted(
          fmt::format("stopped at step {} of {}; the state is saved, the same command goes on from there",
                      t.step, steps));
    }
    t.launch_step();
    const bool pauses = evaluates_at(t.step) || samples_at(t.step) || saves_at(t.step);
    while (!t.launched.empty() && (pauses || std::ssize(t.launched) > kStepsAhead)) settle();
    if (saves_at(t.step)) t.save();
  }
  progress.clear();
  if (t.evaluator && result.validation.labels == 0) result.validation = t.evaluator->run(t.inputs.validation);

  result.steps = steps;
  result.tokens = steps * tokens_per_step;
  result.skipped = t.skipped;
  for (const double loss : t.losses) result.loss += loss / static_cast<double>(t.losses.size());
  result.wall_seconds = seconds_since(start);
  result.core_seconds = core_seconds() - core_start;
  result.peak_memory_bytes = peak_memory_bytes();
  return result;
}

}  // namespace vertebra
