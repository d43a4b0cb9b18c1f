// The graph every model, trainer and engine step is written as: nodes in topological order, each an
// op applied to values. Owns nodes, names and the input-output aliases (donation). What an op means
// lives in op.h and src/ops; how it runs lives in src/backend.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "graph/sharding.h"
#include "tensor/shape.h"
#include "tensor/tensor.h"

namespace vertebra {

class Graph;
struct Node;
struct OpDef;

// Result `index` of `node`. A default-made Value is "none".
struct Value {
  Node* node = nullptr;
  int index = 0;

  bool defined() const { return node != nullptr; }
  const TensorType& type() const;
  const Shape& shape() const { return type().shape; }
  DType dtype() const { return type().dtype; }
  Graph& graph() const;
  bool operator==(const Value&) const = default;
};

using Attr = std::variant<bool, int64_t, double, std::string, std::vector<int64_t>, DType, Tensor, Shape>;

// Named attributes of a node, in insertion order.
class Attrs {
 public:
  Attrs() = default;
  Attrs(std::initializer_list<std::pair<std::string, Attr>> items) : items_(items) {}

  Attrs& set(std::string name, Attr value);
  const Attr* find(std::string_view name) const;
  bool has(std::string_view name) const { return find(name) != nullptr; }

  // The attribute of that type. A missing or differently typed one is a mistake in the program (ops
  // are built by the functions of ops.h), hence a check.
  template <class T>
  const T& get(std::string_view name) const {
    const Attr* found = find(name);
    VERTEBRA_CHECK(found != nullptr && std::holds_alternative<T>(*found),
                   "a node lacks an attribute of its op");
    return std::get<T>(*found);
  }
  template <class T>
  T get_or(std::string_view name, T fallback) const {
    const Attr* found = find(name);
    return found != nullptr && std::holds_alternative<T>(*found) ? std::get<T>(*found) : fallback;
  }
  const std::vector<std::pair<std::string, Attr>>& items() const { return items_; }
  bool operator==(const Attrs& other) const;  // tensors compare by type and bits

 private:
  std::vector<std::pair<std::string, Attr>> items_;
};

std::string to_string(const Attr& attr);

struct Node {
  Graph* graph = nullptr;
  const OpDef* op = nullptr;
  std::vector<Value> operands;
  Attrs attrs;
  std::vector<TensorType> results;
  int id = 0;         // position in the graph: operands have smaller ids
  std::string scope;  // where it was built, for people: "layers.3/attention"
};

class Graph {
 public:
  Graph() = default;
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  Graph(Graph&& other) noexcept;
  Graph& operator=(Graph&& other) noexcept;

  // A graph input. Names are unique within the inputs; invalid_argument otherwise. `sharding`: how it lies on
  // a mesh of devices.
  Value parameter(std::string name, TensorType type, Sharding sharding = {});
  Value constant(Tensor value);

  // Appends a node: infers the result types (an error names the op, the operands' types and the
  // scope) and returns the results. Operands must belong to this graph.
  std::vector<Value> add_node(const OpDef& op, std::vector<Value> operands, Attrs attrs = {});

  // Declares an output. With `donated_input`, the output takes over that input's buffer: the types
  // must be equal, and an input may be donated once; the output then lies on a mesh as the input does, and
  // else as `sharding` says.
  void add_output(std::string name, Value value, Value donated_input = {}, Sharding sharding = {});
  // For passes: inputs and outputs lie as those of the same position in `source`.
  void copy_shardings(const Graph& source);

  struct Input {
    std::string name;
    Value value;
    Sharding sharding;
  };
  struct Output {
    std::string name;
    Value value;
    int donated_input = -1;  // index into inputs(), or -1
    Sharding sharding;
  };
  const std::vector<Input>& inputs() const { return inputs_; }
  const std::vector<Output>& outputs() const { return outputs_; }
  const std::vector<std::unique_ptr<Node>>& nodes() const { return nodes_; }
  int input_index(std::string_view name) const;  // -1 when absent
  int output_index(std::string_view name) const;

  // The text of the graph, one line a node:
  //   %5 = linear(%3, %4) {transpose_b = true} : f32[4, 8]   # layers.0/attention
  std::string to_string() const;

  // Checks structure: operands precede their users and belong to the graph, result types equal what
  // inference gives, outputs exist, aliases are sound. Throws internal naming the node. For tests and passes.
  void verify() const;

  // Prefix for Node::scope while alive; nests with '/'.
  class Scope {
   public:
    Scope(Graph& graph, std::string_view name);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Graph& graph_;
    size_t length_before_;
  };
  const std::string& scope() const { return scope_; }
  void set_scope(std::string scope) { scope_ = std::move(scope); }

 private:
  Node& append(const OpDef& op, std::vector<Value> operands, Attrs attrs, std::vector<TensorType> results);
  std::vector<std::unique_ptr<Node>> nodes_;
  std::vector<Input> inputs_;
  std::vector<Output> outputs_;
  std::string scope_;
};

// Builds a new graph out of an old one, node by node; the base of every pass. `rewrite` gets the old
// node and its operands in the new graph and returns the new results (graph.add_node for a plain
// copy: see copy_node). Inputs, outputs, donations, scopes are carried over. With `only_live`, nodes
// that no output depends on are left out (inputs stay).
template <class Rewrite>
Graph rebuild(const Graph& source, bool only_live, Rewrite&& rewrite);

std::vector<Value> copy_node(Graph& target, const Node& node, std::vector<Value> operands);
// live[node id]: some output depends on the node.
std::vector<bool> live_nodes(const Graph& graph);
bool is_parameter(const Node& node);
bool is_constant(const Node& node);
const Tensor& constant_value(const Node& node);

// The end of a pass that builds `target` out of `source`, whose inputs it has in their order: outputs with
// their donations, and shardings. `translate` gives the new value of an old one.
template <class Translate>
void copy_outputs(const Graph& source, Graph& target, const Translate& translate) {
  target.set_scope("");
  for (const auto& output : source.outputs()) {
    const Value donated =
        output.donated_input < 0 ? Value{} : target.inputs()[static_cast<size_t>(output.donated_input)].value;
    target.add_output(output.name, translate(output.value), donated);
  }
  target.copy_shardings(source);
}

template <class Rewrite>
Graph rebuild(const Graph& source, bool only_live, Rewrite&& rewrite) {
  const std::vector<bool> live = live_nodes(source);
  Graph target;
  std::vector<std::vector<Value>> mapped(source.nodes().size());
  const auto translate = [&](Value v) {
    return mapped[static_cast<size_t>(v.node->id)][static_cast<size_t>(v.index)];
  };
  for (const auto& node : source.nodes()) {
    auto& results = mapped[static_cast<size_t>(node->id)];
    target.set_scope(node->scope);
    if (is_parameter(*node)) {
      results = {target.parameter(node->attrs.get<std::string>("name"), node->results[0])};
      continue;
    }
    if (only_live && !live[static_cast<size_t>(node->id)]) continue;
    std::vector<Value> operands;
    for (const Value& operand : node->operands) operands.push_back(translate(operand));
    results = rewrite(target, *node, std::move(operands));
  }
  copy_outputs(source, target, translate);
  return target;
}

}  // namespace vertebra
