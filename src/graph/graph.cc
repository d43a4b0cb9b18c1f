#include "graph/graph.h"

#include <algorithm>
#include <set>

#include "graph/op.h"

namespace vertebra {
namespace {

// The two ops that the graph itself knows: their result type is an attribute.
const OpDef kParameter = {.name = "parameter",
                          .infer = [](const InferInput&) -> std::vector<TensorType> { return {}; },
                          .no_vjp = "a graph input"};
const OpDef kConstant = {.name = "constant",
                         .infer = [](const InferInput& in) -> std::vector<TensorType> {
                           return {in.attrs.get<Tensor>("value").type()};
                         },
                         .no_vjp = "a constant"};

std::string value_name(Value v) {
  return v.node->results.size() == 1 ? fmt::format("%{}", v.node->id)
                                     : fmt::format("%{}.{}", v.node->id, v.index);
}

std::string types_of(const std::vector<Value>& operands) {
  std::string out;
  for (const Value& v : operands) out += (out.empty() ? "" : ", ") + v.type().to_string();
  return out;
}

std::vector<TensorType> infer(const OpDef& op, const std::vector<Value>& operands, const Attrs& attrs) {
  std::vector<TensorType> types;
  for (const Value& v : operands) {
    types.push_back(v.type());
    require(
        op.takes_blocks || !is_block_quantized(v.dtype()),
        "{}: operand {} has the block-quantized type {}, which this op does not take: dequantize it first",
        op.name, types.size() - 1, v.type().to_string());
  }
  return op.infer(InferInput{op.name, types, attrs});
}

}  // namespace

const TensorType& Value::type() const {
  VERTEBRA_CHECK(defined(), "the type of no value was asked for");
  return node->results[static_cast<size_t>(index)];
}

Graph& Value::graph() const {
  VERTEBRA_CHECK(defined(), "the graph of no value was asked for");
  return *node->graph;
}

Attrs& Attrs::set(std::string name, Attr value) {
  for (auto& [key, old] : items_) {
    if (key == name) {
      old = std::move(value);
      return *this;
    }
  }
  items_.emplace_back(std::move(name), std::move(value));
  return *this;
}

const Attr* Attrs::find(std::string_view name) const {
  for (const auto& [key, value] : items_) {
    if (key == name) return &value;
  }
  return nullptr;
}

bool Attrs::operator==(const Attrs& other) const {
  if (items_.size() != other.items_.size()) return false;
  for (const auto& [name, value] : items_) {
    const Attr* theirs = other.find(name);
    if (theirs == nullptr || theirs->index() != value.index()) return false;
    if (const auto* tensor = std::get_if<Tensor>(&value)) {
      if (!tensor->same_bits(std::get<Tensor>(*theirs))) return false;
    } else {
      const bool same = std::visit(
          [&]<class T>(const T& mine) {
            if constexpr (std::is_same_v<T, Tensor>) {
              return true;
            } else {
              return mine == std::get<T>(*theirs);
            }
          },
          value);
      if (!same) return false;
    }
  }
  return true;
}

std::string to_string(const Attr& attr) {
  struct Printer {
    std::string operator()(bool v) const { return v ? "true" : "false"; }
    std::string operator()(int64_t v) const { return fmt::format("{}", v); }
    std::string operator()(double v) const { return fmt::format("{}", v); }
    std::string operator()(const std::string& v) const { return "\"" + v + "\""; }
    std::string operator()(const std::vector<int64_t>& v) const {
      return fmt::format("[{}]", fmt::join(v, ", "));
    }
    std::string operator()(DType v) const { return std::string(dtype_name(v)); }
    std::string operator()(const Shape& v) const { return v.to_string(); }
    std::string operator()(const Tensor& v) const {
      constexpr int64_t kShown = 4;
      std::string out;
      for (int64_t i = 0; i < std::min(kShown, v.elements()); ++i)
        out += (i > 0 ? ", " : "") + fmt::format("{}", v.at(i));
      return v.elements() > kShown ? out + ", ..." : out;
    }
  };
  return std::visit(Printer{}, attr);
}

Graph::Graph(Graph&& other) noexcept { *this = std::move(other); }

Graph& Graph::operator=(Graph&& other) noexcept {
  nodes_ = std::move(other.nodes_);
  inputs_ = std::move(other.inputs_);
  outputs_ = std::move(other.outputs_);
  scope_ = std::move(other.scope_);
  for (auto& node : nodes_) node->graph = this;
  return *this;
}

Node& Graph::append(const OpDef& op, std::vector<Value> operands, Attrs attrs,
                    std::vector<TensorType> results) {
  auto node = std::make_unique<Node>();
  *node = {
      this,  &op, std::move(operands), std::move(attrs), std::move(results), static_cast<int>(nodes_.size()),
      scope_};
  nodes_.push_back(std::move(node));
  return *nodes_.back();
}

Value Graph::parameter(std::string name, TensorType type, Sharding sharding) {
  require(input_index(name) < 0, "the graph already has an input named '{}'", name);
  Node& node = append(kParameter, {}, {{"name", name}}, {type});
  inputs_.push_back({std::move(name), {&node, 0}, std::move(sharding)});
  return {&node, 0};
}

Value Graph::constant(Tensor value) {
  const TensorType type = value.type();
  return {&append(kConstant, {}, {{"value", std::move(value)}}, {type}), 0};
}

std::vector<Value> Graph::add_node(const OpDef& op, std::vector<Value> operands, Attrs attrs) {
  for (const Value& v : operands) {
    VERTEBRA_CHECK(v.defined() && v.node->graph == this, "an operand is none or belongs to another graph");
  }
  std::vector<TensorType> results;
  try {
    results = infer(op, operands, attrs);
  } catch (const Error& error) {
    if (scope_.empty()) throw;
    fail(error.code(), "{} in '{}'", error.what(), scope_);
  }
  Node& node = append(op, std::move(operands), std::move(attrs), std::move(results));
  std::vector<Value> out;
  for (size_t i = 0; i < node.results.size(); ++i) out.push_back({&node, static_cast<int>(i)});
  return out;
}

void Graph::add_output(std::string name, Value value, Value donated_input, Sharding sharding) {
  VERTEBRA_CHECK(value.defined() && value.node->graph == this,
                 "an output is none or belongs to another graph");
  require(output_index(name) < 0, "the graph already has an output named '{}'", name);
  int donated = -1;
  if (donated_input.defined()) {
    for (size_t i = 0; i < inputs_.size(); ++i) {
      if (inputs_[i].value == donated_input) donated = static_cast<int>(i);
    }
    require(donated >= 0, "output '{}' is to take over a value that is no input", name);
    require(donated_input.type() == value.type(),
            "output '{}' of type {} cannot take over input '{}' of type {}", name, value.type().to_string(),
            inputs_[static_cast<size_t>(donated)].name, donated_input.type().to_string());
    for (const Output& output : outputs_) {
      require(output.donated_input != donated, "input '{}' is donated twice",
              inputs_[static_cast<size_t>(donated)].name);
    }
    sharding = inputs_[static_cast<size_t>(donated)].sharding;
  }
  outputs_.push_back({std::move(name), value, donated, std::move(sharding)});
}

void Graph::copy_shardings(const Graph& source) {
  VERTEBRA_CHECK(inputs_.size() >= source.inputs_.size() && outputs_.size() == source.outputs_.size(),
                 "a pass lost inputs or outputs");
  for (size_t i = 0; i < source.inputs_.size(); ++i) inputs_[i].sharding = source.inputs_[i].sharding;
  for (size_t i = 0; i < source.outputs_.size(); ++i) outputs_[i].sharding = source.outputs_[i].sharding;
}

int Graph::input_index(std::string_view name) const {
  for (size_t i = 0; i < inputs_.size(); ++i) {
    if (inputs_[i].name == name) return static_cast<int>(i);
  }
  return -1;
}

int Graph::output_index(std::string_view name) const {
  for (size_t i = 0; i < outputs_.size(); ++i) {
    if (outputs_[i].name == name) return static_cast<int>(i);
  }
  return -1;
}

std::string Graph::to_string() const {
  std::string out;
  for (const auto& node : nodes_) {
    std::string operands, attrs, results;
    for (const Value& v : node->operands) operands += (operands.empty() ? "" : ", ") + value_name(v);
    for (const auto& [name, value] : node->attrs.items()) {
      attrs += (attrs.empty() ? "" : ", ") + fmt::format("{} = {}", name, vertebra::to_string(value));
    }
    for (const TensorType& type : node->results) results += (results.empty() ? "" : ", ") + type.to_string();
    out += fmt::format("%{} = {}({}){} : {}{}\n", node->id, node->op->name, operands,
                       attrs.empty() ? "" : " {" + attrs + "}", results,
                       node->scope.empty() ? "" : "   # " + node->scope);
  }
  for (const Output& output : outputs_) {
    out += fmt::format("output {} = {}{}\n", output.name, value_name(output.value),
                       output.donated_input < 0
                           ? ""
                           : " takes over " + inputs_[static_cast<size_t>(output.donated_input)].name);
  }
  return out;
}

void Graph::verify() const {
  for (size_t i = 0; i < nodes_.size(); ++i) {
    const Node& node = *nodes_[i];
    const auto wrong = [&](std::string_view what) {
      fail(Code::kInternal, "graph: node %{} ({}) {}; operands {}", i, node.op->name, what,
           types_of(node.operands));
    };
    if (node.id != static_cast<int>(i) || node.graph != this) wrong("is misplaced");
    for (const Value& v : node.operands) {
      if (!v.defined() || v.node->graph != this) wrong("uses a value of another graph");
      if (v.node->id >= node.id) wrong("uses a value that is made later");
      if (v.index < 0 || v.index >= static_cast<int>(v.node->results.size()))
        wrong("uses a result that does not exist");
    }
    if (!is_parameter(node) && infer(*node.op, node.operands, node.attrs) != node.results)
      wrong("has other types than inferred");
  }
  std::set<int> donated;
  for (const Output& output : outputs_) {
    require(output.value.defined() && output.value.node->graph == this, Code::kInternal,
            "graph: output '{}' is foreign", output.name);
    require(output.donated_input < 0 || donated.insert(output.donated_input).second, Code::kInternal,
            "graph: output '{}' shares its donated input", output.name);
  }
}

Graph::Scope::Scope(Graph& graph, std::string_view name)
    : graph_(graph), length_before_(graph.scope_.size()) {
  if (!graph.scope_.empty()) graph.scope_ += '/';
  graph.scope_ += name;
}

Graph::Scope::~Scope() { graph_.scope_.resize(length_before_); }

std::vector<Value> copy_node(Graph& target, const Node& node, std::vector<Value> operands) {
  if (is_constant(node)) return {target.constant(constant_value(node))};
  return target.add_node(*node.op, std::move(operands), node.attrs);
}

std::vector<bool> live_nodes(const Graph& graph) {
  std::vector<bool> live(graph.nodes().size(), false);
  for (const auto& output : graph.outputs()) live[static_cast<size_t>(output.value.node->id)] = true;
  for (size_t i = graph.nodes().size(); i-- > 0;) {
    if (!live[i]) continue;
    for (const Value& v : graph.nodes()[i]->operands) live[static_cast<size_t>(v.node->id)] = true;
  }
  return live;
}

bool is_parameter(const Node& node) { return node.op == &kParameter; }
bool is_constant(const Node& node) { return node.op == &kConstant; }

const Tensor& constant_value(const Node& node) {
  VERTEBRA_CHECK(is_constant(node), "the value of a node that is no constant was asked for");
  return node.attrs.get<Tensor>("value");
}

}  // namespace vertebra
