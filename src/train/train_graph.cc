#include "train/train_graph.h"

#include <limits>
#include <map>

#include "models/dense_context.h"
#include "models/sharding.h"
#include "transforms/autodiff.h"
#include "transforms/passes.h"

namespace vertebra {
namespace {

struct Batch {
  Value tokens, labels, segments, positions;  // [B, T] each
  Sharding sharding;
};

Batch batch_inputs(Graph& graph, int64_t rows, int64_t length, const Sharding& sharding) {
  const TensorType type{DType::kI32, {rows, length}};
  return {graph.parameter(inputs::kTokens, type, sharding), graph.parameter(inputs::kLabels, type, sharding),
          graph.parameter(inputs::kSegments, type, sharding),
          graph.parameter(inputs::kPositions, type, sharding), sharding};
}

// Parameters as graph inputs; dense causal attention within the documents of a row.
class TrainingContext final : public DenseContext {
 public:
  TrainingContext(Graph& graph, const Model& model, DType compute, const Batch& batch, const Mesh& mesh)
      : DenseContext(graph, compute, batch.segments, batch.positions), rows_(batch.sharding) {
    for (const ParameterSpec& spec : model.parameters()) {
      parameters_[spec.name] =
          graph.parameter(spec.name, {DType::kF32, spec.shape}, parameter_sharding(spec, mesh));
    }
  }

  Value parameter(std::string_view name) override {
    const auto it = parameters_.find(name);
    VERTEBRA_CHECK(it != parameters_.end(), "a model uses a parameter that it does not declare");
    return it->second;
  }

  // Without it the partitioner may cut the stream by width, as the weights are, and give every device all
  // rows.
  Value residual(Value x) override { return rows_.is_replicated() ? x : with_sharding(x, rows_); }

 private:
  Sharding rows_;  // of the batch; of [B T, E] as well
  std::map<std::string, Value, std::less<>> parameters_;
};

// Loss of every token, f32 [B*T], 0 where there is no label.
Value token_losses(const Model& model, TrainingContext& context, const Batch& batch) {
  const Shape flat{batch.tokens.shape().elements()};
  require(model.logit_softcap() == 0, Code::kUnimplemented,
          "a model with final_logit_softcapping cannot be trained or scored yet");
  const Value hidden = model.forward(context, reshape(batch.tokens, flat), reshape(batch.positions, flat));
  const Graph::Scope scope(context.graph(), "head");
  return linear_cross_entropy(hidden, context.parameter(model.head()), reshape(batch.labels, flat),
                              context.compute());
}

// Adds the forward and backward pass; returns the gradients of `loss_scale` times the summed loss.
std::vector<Value> add_loss_and_gradients(Graph& graph, const Model& model,
                                          const TrainGraphOptions& options) {
  const Batch batch = batch_inputs(graph, options.rows, options.length, batch_sharding(options.mesh));
  TrainingContext context(graph, model, options.compute, batch, options.mesh);
  const Value scale = graph.parameter(inputs::kLossScale, {DType::kF32, {}});
  const Value loss = reduce_sum(token_losses(model, context, batch), {0});
  graph.add_output(outputs::kLoss, loss);
  std::vector<Value> parameters;
  for (const ParameterSpec& spec : model.parameters()) parameters.push_back(context.parameter(spec.name));
  std::vector<Value> out = gradients(multiply(loss, scale), parameters);
  if (options.mesh.devices() == 1) return out;
  for (size_t i = 0; i < out.size(); ++i)  // so that the sum over devices leaves each its part
    out[i] = with_sharding(out[i], parameter_sharding(model.parameters()[i], options.mesh));
  return out;
}

bool uses_muon(const ParameterSpec& spec, const OptimizerOptions& options) {
  return options.kind == "muon" && spec.role == Role::kMatrix && spec.shape.rank() == 2;
}

// Adds clipping and the optimizer; parameters are graph inputs already.
void add_update(Graph& graph, const Model& model, const TrainGraphOptions& options,
                const std::vector<Value>& raw_gradients) {
  const Graph::Scope scope(graph, "optimizer");
  const OptimizerOptions& optimizer = options.optimizer;
  const auto scalar = [&](const char* name) { return graph.parameter(name, {DType::kF32, {}}); };
  const Value rate = scalar(inputs::kLearningRate), matrix_rate = scalar(inputs::kMatrixLearningRate);
  const Value step = scalar(inputs::kStep), limit = scalar(inputs::kNormLimit);

  const Value norm = global_norm(raw_gradients);
  graph.add_output(outputs::kGradientNorm, norm);
  // NaN compares false, so a gradient that is not finite, or larger than the limit, moves nothing.
  const Value sound = compare(norm, limit, Comparison::kLessEqual);
  const Value zero = constant(graph, 0), one = constant(graph, 1);
  Value factor = one;
  if (options.clip_norm > 0)
    factor = minimum(one, divide(options.clip_norm, maximum(norm, constant(graph, 1e-30))));
  const Value safe_rate = select(sound, rate, zero), safe_matrix_rate = select(sound, matrix_rate, zero);
  const Value gradient_scale = select(sound, factor, zero);

  for (size_t i = 0; i < raw_gradients.size(); ++i) {
    const ParameterSpec& spec = model.parameters()[i];
    const Value parameter = graph.inputs()[static_cast<size_t>(graph.input_index(spec.name))].value;
    const auto state = [&](const std::string& name) {
      return graph.parameter(name, {DType::kF32, spec.shape}, parameter_sharding(spec, options.mesh));
    };
    if (uses_muon(spec, optimizer)) {
      const Shape shape = spec.shape;
      const Value everywhere = broadcast_in_dim(sound, shape, {});
      const Value gradient = select(
          everywhere, multiply(raw_gradients[i], broadcast_in_dim(factor, shape, {})), full(graph, shape, 0));
      const Value momentum = state("momentum/" + spec.name);
      const auto updated = muon_update(parameter, gradient, momentum, safe_matrix_rate,
                                       {.momentum = optimizer.momentum,
                                        .weight_decay = optimizer.matrix_weight_decay,
                                        .compute = options.compute});
      graph.add_output(spec.name, updated[0], parameter);
      graph.add_output("momentum/" + spec.name, updated[1], momentum);
    } else {
      const Value m = state("m/" + spec.name), v = state("v/" + spec.name);
      const bool decays = spec.role != Role::kVector && optimizer.kind == "adamw";
      const auto updated = adamw_update(parameter, raw_gradients[i], m, v, safe_rate, step, gradient_scale,
                                        {.beta1 = optimizer.beta1,
                                         .beta2 = optimizer.beta2,
                                         .epsilon = optimizer.epsilon,
                                         .weight_decay = decays ? optimizer.weight_decay : 0});
      graph.add_output(spec.name, updated[0], parameter);
      graph.add_output("m/" + spec.name, updated[1], m);
      graph.add_output("v/" + spec.name, updated[2], v);
    }
  }
}

Graph finish(Graph graph, const TrainGraphOptions& options) {
  return options.rematerialize ? rematerialize(graph) : recompute_cheap(graph);
}

}  // namespace

std::string gradient_name(const std::string& parameter) { return "gradient/" + parameter; }

std::vector<StateSpec> optimizer_state(const Model& model, const OptimizerOptions& options,
                                       const Mesh& mesh) {
  require(options.kind == "adamw" || options.kind == "muon", "optimizer '{}' is unknown; adamw and muon are",
          options.kind);
  std::vector<StateSpec> out;
  for (const ParameterSpec& spec : model.parameters()) {
    const Sharding sharding = parameter_sharding(spec, mesh);
    if (uses_muon(spec, options)) {
      out.push_back({"momentum/" + spec.name, spec.shape, sharding});
    } else {
      out.push_back({"m/" + spec.name, spec.shape, sharding});
      out.push_back({"v/" + spec.name, spec.shape, sharding});
    }
  }
  return out;
}

Graph build_training_step(const Model& model, const TrainGraphOptions& options) {
  Graph graph;
  add_update(graph, model, options, add_loss_and_gradients(graph, model, options));
  return finish(std::move(graph), options);
}

Graph build_accumulation_step(const Model& model, const TrainGraphOptions& options) {
  Graph graph;
  const std::vector<Value> fresh = add_loss_and_gradients(graph, model, options);
  for (size_t i = 0; i < fresh.size(); ++i) {
    const std::string name = gradient_name(model.parameters()[i].name);
    const Value sum =
        graph.parameter(name, fresh[i].type(), parameter_sharding(model.parameters()[i], options.mesh));
    graph.add_output(name, add(sum, fresh[i]), sum);
  }
  return finish(std::move(graph), options);
}

Graph build_update_step(const Model& model, const TrainGraphOptions& options) {
  Graph graph;
  std::vector<Value> sums;
  for (const bool gradient : {false, true}) {
    for (const ParameterSpec& spec : model.parameters()) {
      const Value input = graph.parameter(gradient ? gradient_name(spec.name) : spec.name,
                                          {DType::kF32, spec.shape}, parameter_sharding(spec, options.mesh));
      if (gradient) sums.push_back(input);
    }
  }
  add_update(graph, model, options, sums);
  for (size_t i = 0; i < sums.size(); ++i) {
    graph.add_output(gradient_name(model.parameters()[i].name), full(graph, sums[i].shape(), 0), sums[i]);
  }
  return graph;
}

Graph build_evaluation(const Model& model, int64_t rows, int64_t length, DType compute, const Mesh& mesh) {
  Graph graph;
  // A few rows, as questions come, are computed by every device.
  const bool divides = rows % (mesh.data * mesh.fsdp) == 0;
  const Sharding sharding = divides ? batch_sharding(mesh) : Sharding{};
  const Batch batch = batch_inputs(graph, rows, length, sharding);
  TrainingContext context(graph, model, compute, batch, mesh);
  graph.add_output(outputs::kTokenLoss, reshape(token_losses(model, context, batch), {rows, length}), {},
                   sharding);
  return graph;
}

}  // namespace vertebra
