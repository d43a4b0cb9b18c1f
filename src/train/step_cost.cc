#include "train/step_cost.h"

#include <algorithm>
#include <charconv>

#include "base/error.h"

namespace vertebra {
namespace {

double as_double(int64_t value) { return static_cast<double>(value); }

bool has_axis(const ParameterSpec& spec, Axis axis) {
  return std::find(spec.axes.begin(), spec.axes.end(), axis) != spec.axes.end();
}

// Into how many parts a parameter is cut along a mesh axis: 1, or the axis's length.
double parts_along(const ParameterSpec& spec, const Mesh& mesh, MeshAxis axis) {
  for (const auto& dim : parameter_sharding(spec, mesh).dims) {
    if (std::find(dim.begin(), dim.end(), axis) != dim.end()) return as_double(mesh.size(axis));
  }
  return 1;
}

// Sums over the declarations.
struct Counts {
  double products = 0;           // elements of matrices that take part in a product, the head among them
  double layer_products = 0;     // without the head
  double stored = 0, whole = 0;  // one chip's elements: of its part; of what fsdp gathers
  double gathered = 0, replicated = 0;  // whole, of those cut by fsdp; of those that are not
  double tied = 0;                      // whole, of an embedding that is the head as well
  double states = 0;                    // one chip's elements of optimizer state
  double muon_flops = 0;                // of one chip
  double cut_matrices = 0;              // of the layers, cut by tensor
  double widest = 0;                    // elements of the largest matrix outside of the layers
  int64_t feed_forward = 0, feed_forward_matrices = 0;
};

// Newton-Schulz, 5 rounds on an m x n matrix, m the shorter side: X X^T, its square, and a product with X.
double muon_flops(const Shape& shape) {
  const double m = as_double(std::min(shape[0], shape[1])), n = as_double(std::max(shape[0], shape[1]));
  return 5 * (4 * m * m * n + 2 * m * m * m);
}

Counts count(const Model& model, const StepShape& step) {
  Counts out;
  for (const ParameterSpec& spec : model.parameters()) {
    const double elements = as_double(spec.shape.elements());
    const double by_fsdp = parts_along(spec, step.graph.mesh, MeshAxis::kFsdp);
    const double whole = elements / parts_along(spec, step.graph.mesh, MeshAxis::kTensor);
    const double stored = whole / by_fsdp;
    const bool muon = step.graph.optimizer.kind == "muon" && spec.role == Role::kMatrix;
    if (spec.role == Role::kMatrix || spec.name == model.head()) out.products += elements;
    if (spec.role == Role::kMatrix) out.layer_products += elements;
    if (spec.role == Role::kMatrix && parts_along(spec, step.graph.mesh, MeshAxis::kTensor) > 1)
      ++out.cut_matrices;
    if (muon)
      out.muon_flops += muon_flops(spec.shape) / as_double(step.graph.mesh.fsdp * step.graph.mesh.tensor);
    if (spec.role == Role::kEmbedding || spec.role == Role::kHead) out.widest = std::max(out.widest, whole);
    if (spec.role == Role::kMatrix && has_axis(spec, Axis::kFeedForward)) {
      ++out.feed_forward_matrices;
      for (size_t i = 0; i < spec.axes.size(); ++i) {
        if (spec.axes[i] == Axis::kFeedForward) out.feed_forward = spec.shape[static_cast<int>(i)];
      }
    }
    out.stored += stored;
    out.whole += whole;
    (by_fsdp > 1 ? out.gathered : out.replicated) += whole;
    if (spec.role == Role::kEmbedding && spec.name == model.head()) out.tied = whole;
    out.states += stored * (muon ? 1 : 2);
  }
  return out;
}

class Predictor {
 public:
  Predictor(const Model& model, const StepShape& step)
      : model_(model), step_(step), shape_(model.shape()), counts_(count(model, step)) {
    tokens_ = as_double(step.graph.rows * step.graph.length) /
              as_double(step.graph.mesh.data * step.graph.mesh.fsdp);
    micro_batches_ = as_double(step.accumulation);
    compute_bytes_ = step.graph.compute == DType::kBF16 ? 2 : 4;
    tensor_ = as_double(step.graph.mesh.tensor);
    layers_ = shape_.layers;
  }

  StepCost run() {
    cost_.parameters = count_parameters(model_.parameters());
    cost_.tokens = as_double(step_.graph.rows * step_.graph.length) * micro_batches_;
    flops();
    memory();
    collectives();
    traffic();
    return std::move(cost_);
  }

 private:
  void flops() {
    const double length = as_double(step_.graph.length), chips = as_double(step_.graph.mesh.devices());
    cost_.model_flops = model_.training_flops_per_token(step_.graph.length) * cost_.tokens;
    // The decomposition computes the whole square of scores, not the causal half that the model's count has.
    const double square =
        2 * as_double(shape_.heads * shape_.head_dim) * length * layers_;  // forward, one of two
    const double recomputed = step_.graph.rematerialize ? 1 : 0;
    const double per_token =
        6 * counts_.products + 6 * square + recomputed * (2 * counts_.layer_products + 2 * square);
    cost_.chip_flops = per_token * cost_.tokens / chips + counts_.muon_flops;
    if (step_.one_hot_gradient)
      cost_.chip_f32_flops = 2 * as_double(shape_.vocabulary * shape_.embedding) * cost_.tokens / chips;
  }

  // What a layer keeps for its backward pass, f32, a token: its input and the middle of the residual stream;
  // queries, keys, values and the result of attention; what enters the activation. Norms and activations are
  // computed again.
  double kept_by_layer() const {
    const double q = as_double(shape_.heads * shape_.head_dim),
                 kv = as_double(shape_.key_value_heads * shape_.head_dim);
    const double inner =
        layers_ == 0 ? 0
                     : as_double((counts_.feed_forward_matrices / shape_.layers - 1) * counts_.feed_forward);
    return 4 * (2 * as_double(shape_.embedding) + (2 * q + 2 * kv + inner) / tensor_);
  }

  void memory() {
    StepMemory& m = cost_.memory;
    m.parameters = 4 * counts_.stored;
    m.gradients = 4 * counts_.stored * (step_.accumulation > 1 ? 2 : 1);
    m.optimizer = 4 * counts_.states;
    if (step_.graph.mesh.fsdp > 1 || compute_bytes_ < 4) {
      const double layer = layers_ == 0 ? 0 : counts_.layer_products / tensor_ / layers_;
      m.weights = compute_bytes_ * std::max(2 * layer, counts_.widest);
    }
    const double kept = kept_by_layer() * tokens_;
    const double stream = 4 * as_double(shape_.embedding) * tokens_;
    const double without = kept * layers_ + 2 * stream;  // and what the last norm takes and gives
    // The inputs of all layers, and one layer while its gradient is made.
    const double with = stream * (layers_ + 2) + kept;
    // Probabilities are kept; scores and the gradients of both live while a layer is at work.
    const double matrix = 4 * as_double(shape_.heads) / tensor_ * as_double(step_.graph.length) * tokens_;
    const double matrices_without = matrix * (layers_ + 2), matrices_with = matrix * 3;
    m.activations = step_.graph.rematerialize ? with : without;
    m.other_activations = step_.graph.rematerialize ? without : with;
    m.attention = step_.graph.rematerialize ? matrices_with : matrices_without;
    m.other_attention = step_.graph.rematerialize ? matrices_without : matrices_with;
    m.logits = 2 * 4 * as_double(shape_.vocabulary) / tensor_ * tokens_;
  }

  void add(Collective kind, std::string_view what, int64_t ways, int64_t stride, double bytes) {
    if (ways > 1 && bytes > 0) cost_.collectives.push_back({kind, what, ways, stride, bytes});
  }

  void collectives() {
    const Mesh& mesh = step_.graph.mesh;
    const int64_t replicas = mesh.data * mesh.fsdp;
    const bool fsdp = mesh.fsdp > 1;
    add(Collective::kAllGather, "weights over fsdp, forward and backward", mesh.fsdp, mesh.tensor,
        2 * compute_bytes_ * counts_.gathered * micro_batches_);
    // A tied embedding has two gradients, which compilers sum over the chips before they add them.
    const double cut = counts_.gathered + (fsdp ? counts_.tied : 0);
    const double rest = fsdp ? 0 : counts_.replicated + counts_.tied;
    add(Collective::kReduceScatter, "gradients over fsdp", mesh.fsdp, mesh.tensor, 4 * cut * micro_batches_);
    add(Collective::kAllReduce, "gradients over data", mesh.data, mesh.fsdp * mesh.tensor,
        4 * (cut / as_double(mesh.fsdp) + rest) * micro_batches_);
    if (fsdp)
      add(Collective::kAllReduce, "gradients of what is whole everywhere", replicas, mesh.tensor,
          4 * counts_.replicated * micro_batches_);
    // f32 [tokens, E]. Forward: after attention, after feed-forward, and the embedding. Backward: what each
    // matrix that begins a block gives (q, k, v; gate, up), which compilers sum over the chips before they
    // add them, and the head. Attention's forward sum again where it is recomputed.
    const double begin_blocks = layers_ == 0 ? 0 : counts_.cut_matrices / layers_ - 2;
    const double times = layers_ * (2 + begin_blocks + (step_.graph.rematerialize ? 1 : 0)) + 2;
    add(Collective::kAllReduce, "activations over tensor", mesh.tensor, 1,
        times * 4 * as_double(shape_.embedding) * tokens_ * micro_batches_);
  }

  // Weights are read forward and twice backward, their gradients written; what is kept is written and read,
  // likewise matrices of attention (twice) and logits; the optimizer reads parameters, gradients and state
  // and writes all but gradients.
  void traffic() {
    const StepMemory& m = cost_.memory;
    const double passes = step_.graph.rematerialize ? 4 : 3;
    const double gradients = step_.accumulation > 1 ? 12 : 4;
    const double per_micro_batch =
        passes * compute_bytes_ * counts_.whole + gradients * counts_.stored +
        2 * kept_by_layer() * tokens_ * layers_ + 2 * m.logits +
        4 * 4 * as_double(shape_.heads) / tensor_ * as_double(step_.graph.length) * tokens_ * layers_;
    cost_.chip_memory_traffic = per_micro_batch * micro_batches_ + (3 * 4 * counts_.stored + 2 * m.optimizer);
  }

  const Model& model_;
  const StepShape& step_;
  const ModelShape& shape_;
  Counts counts_;
  double tokens_ = 0;  // of a micro-batch on one chip
  double micro_batches_ = 1, compute_bytes_ = 4, tensor_ = 1, layers_ = 0;
  StepCost cost_;
};

}  // namespace

Mesh parse_mesh(std::string_view text) {
  Mesh out;
  while (!text.empty()) {
    const size_t comma = std::min(text.find(','), text.size());
    const std::string_view part = text.substr(0, comma);
    text.remove_prefix(std::min(comma + 1, text.size()));
    const size_t equals = part.find('=');
    const std::string_view name = part.substr(0, equals);
    int64_t* axis = name == "data"     ? &out.data
                    : name == "fsdp"   ? &out.fsdp
                    : name == "tensor" ? &out.tensor
                                       : nullptr;
    require(axis != nullptr && equals != std::string_view::npos,
            "the mesh's '{}' is not known; data=N, fsdp=N, tensor=N, with commas between, are", part);
    const std::string_view number = part.substr(equals + 1);
    const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), *axis);
    require(error == std::errc() && end == number.data() + number.size() && *axis >= 1 && *axis <= 1 << 20,
            "the mesh's {} is '{}', a number from 1 to {} was wanted", name, number, 1 << 20);
  }
  return out;
}

std::string_view collective_name(Collective kind) {
  switch (kind) {
    case Collective::kAllReduce:
      return "all-reduce";
    case Collective::kAllGather:
      return "all-gather";
    case Collective::kReduceScatter:
      return "reduce-scatter";
  }
  return "";
}

StepCost predict_step_cost(const Model& model, const StepShape& step) {
  check_model_fits(model, step.graph.mesh);
  check_rows_fit(step.graph.rows, step.graph.mesh, "the rows of a micro-batch");
  return Predictor(model, step).run();
}

double collective_bytes(const StepCost& cost, Collective kind) {
  double out = 0;
  for (const CollectiveCost& each : cost.collectives) out += each.kind == kind ? each.bytes : 0;
  return out;
}

// A ring of k chips sends (k - 1) / k of the bytes for all-gather and reduce-scatter, twice that for
// all-reduce. Where the chips lie in several groups, first within them, then one k-th of the bytes between
// them.
WireBytes wire_bytes(const CollectiveCost& cost, int64_t link_chips) {
  const int64_t reach = std::max<int64_t>(1, link_chips / cost.stride);
  int64_t inside = std::min(cost.ways, reach);  // the largest group of equal ones that links connect
  while (cost.ways % inside != 0) --inside;
  const int64_t outside = cost.ways / inside;
  const double bytes = cost.bytes * (cost.kind == Collective::kAllReduce ? 2 : 1);
  const auto ring = [](int64_t ways) { return as_double(ways - 1) / as_double(ways); };
  return {bytes * ring(inside), bytes / as_double(inside) * ring(outside)};
}

}  // namespace vertebra
