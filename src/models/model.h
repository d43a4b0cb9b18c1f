// What a model architecture is: its configuration (Hugging Face names), its parameters, and one
// forward function for training and serving. One file per architecture; model_list.def lists them.
// Called by the trainer and the engine, each with a context of its own that owns attention.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/json.h"
#include "graph/graph.h"
#include "nn/parameter.h"

namespace vertebra {

struct AttendOptions {
  double scale = 0;      // of the scores; 0: 1/sqrt(D)
  int64_t window = 0;    // > 0: a query sees only keys at distance < window
  Value sinks = {};      // f32 [H], if any: a further score of every row, whose weight goes to nothing
  int cache_layer = -1;  // >= 0: k and v are those that this earlier layer attended to, and share its cache
};

// What a layer keeps of each request from step to step, beside keys and values.
struct LayerState {
  Value value;      // f32 [R, ...]
  Value request;    // i32 [N]: the row of `value` that a token's request has; < 0: a token of no request
  Value positions;  // i32 [N]: at 0 a request starts, whatever its state holds
};

// What surrounds a forward pass: the graph, the parameters as values, and memory of earlier tokens, which is
// dense in training, and in serving a paged cache and a state per request.
class ModelContext {
 public:
  ModelContext(Graph& graph, DType compute) : graph_(graph), compute_(compute) {}
  virtual ~ModelContext() = default;

  Graph& graph() { return graph_; }
  // Precision of matrix products: f32, or bf16 (operands rounded, f32 accumulation).
  DType compute() const { return compute_; }
  // The value of a declared parameter.
  virtual Value parameter(std::string_view name) = 0;
  // q [N, H, D], k and v [N, K, D] of one layer's tokens -> [N, H, D].
  virtual Value attend(int layer, Value q, Value k, Value v, const AttendOptions& options = {}) = 0;
  // A layer's state called `name`, `shape` of it for every request. What keep_state is given next stays.
  virtual LayerState state(int layer, std::string_view name, const Shape& shape) = 0;
  virtual void keep_state(int layer, std::string_view name, Value value) = 0;
  // The longest sequence that this graph may see, of which rotary scaling may depend.
  virtual int64_t longest_sequence() const = 0;
  // The residual stream [N, E], at the start and after each block adds to it: where a context on a mesh of
  // devices pins how it lies.
  virtual Value residual(Value x) { return x; }

 private:
  Graph& graph_;
  DType compute_;
};

// Sizes that engine and trainer need of any model.
struct ModelShape {
  int layers = 0;
  int64_t embedding = 0, heads = 0, key_value_heads = 0, head_dim = 0, vocabulary = 0;
  int64_t context_length = 0;
  int experts = 0, experts_per_token = 0;
};

// The names of a folder's tensors against the declared ones.
struct StoredNames {
  // A tensor whose name begins with `first` is declared with `second` in its place; the first that fits
  // counts.
  std::vector<std::pair<std::string, std::string>> prefixes;
  // Tensors that begin like this belong to parts of the model that are not computed (vision).
  std::vector<std::string> ignored;
};

class Model {
 public:
  virtual ~Model() = default;
  // The configuration as it is written to config.json.
  virtual const Json& config() const = 0;
  virtual const ModelShape& shape() const = 0;
  virtual const std::vector<ParameterSpec>& parameters() const = 0;
  // tokens i32 [N], positions i32 [N] -> hidden states after the final norm, f32 [N, E].
  virtual Value forward(ModelContext& context, Value tokens, Value positions) const = 0;
  // Name of the output head's parameter [V, E] (the embedding's, when tied).
  virtual std::string_view head() const = 0;
  // > 0: logits are cap * tanh(logits / cap).
  virtual double logit_softcap() const { return 0; }
  // Where a Hugging Face folder has other names or forms than the declarations.
  virtual StoredNames stored_names() const { return {}; }

  // hidden [N, E] -> logits f32 [N, V].
  Value logits(ModelContext& context, Value hidden) const;
  // Multiply-adds x 2 of one token's forward and backward pass in matrix products, at sequence length
  // `length` (attention counted causal): the usual 6 N + 6 L H D T estimate, by the declared shapes.
  double training_flops_per_token(int64_t length) const;
};

// Makes the model that a config.json describes ("model_type"). Throws invalid_argument naming key, value
// found and wanted; unimplemented with the list of known architectures. `source` names the config.
std::unique_ptr<Model> make_model(const Json& config, std::string_view source);
std::vector<std::string> known_model_types();
std::vector<std::string> sizable_model_types();  // those that default_config makes

// Sizes of a configuration, for the architectures: 1 to `limit`, whose default no real model comes near and
// whose products still fit. Throws invalid_argument naming key, value found and wanted.
inline constexpr int64_t kMaxLayers = 4096;
int64_t config_size(const Json& config, const std::string& key, std::string_view source,
                    int64_t limit = int64_t{1} << 24);
// The epsilon of a norm: more than 0 and below 1.
double config_epsilon(const Json& config, const std::string& key, std::string_view source, double fallback);

// The configuration for a width/depth dial: what `[model] architecture = "llama"` with sizes in a recipe
// becomes. Missing sizes follow from `depth` (layers): embedding 64 x depth, heads of 64, SwiGLU width 8/3.
Json default_config(std::string_view model_type, const Json& sizes, int64_t vocabulary,
                    int64_t context_length);

}  // namespace vertebra
