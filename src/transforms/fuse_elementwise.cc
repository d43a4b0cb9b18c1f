#include "transforms/fuse_elementwise.h"

#include <algorithm>
#include <map>

#include "ops/fused_elementwise.h"
#include "ops/ops.h"

namespace vertebra {
namespace {

using Ints = std::vector<int64_t>;

constexpr size_t kMostInstructions = 24, kMostValues = 64;

bool is_handled(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kI32 || dtype == DType::kU32 ||
         dtype == DType::kBool;
}

bool can_join(const Node& node) {
  if (!is_elementwise(node.op->name) || !is_handled(node.results[0].dtype)) return false;
  return std::all_of(node.operands.begin(), node.operands.end(),
                     [](const Value& v) { return is_handled(v.dtype()); });
}

bool is_broadcast(const Value& v) { return v.node->op->name == "broadcast_in_dim"; }

class Fuser {
 public:
  explicit Fuser(const Graph& graph)
      : graph_(graph), readers_(graph.nodes().size()), group_(graph.nodes().size(), -1) {
    for (const auto& node : graph.nodes()) {
      for (const Value& v : node->operands) readers_[id(v)].push_back(node->id);
    }
    is_output_.resize(graph.nodes().size(), false);
    for (const auto& output : graph.outputs()) is_output_[id(output.value)] = true;
  }

  Graph run() {
    for (size_t i = graph_.nodes().size(); i-- > 0;) choose_group(*graph_.nodes()[i]);
    mapped_.resize(graph_.nodes().size());
    for (const auto& node : graph_.nodes()) emit(*node);
    copy_outputs(graph_, target_, [this](Value v) { return translate(v); });
    return std::move(target_);
  }

 private:
  static size_t id(const Value& v) { return static_cast<size_t>(v.node->id); }
  Value translate(const Value& v) const { return mapped_[id(v)][static_cast<size_t>(v.index)]; }

  // A group is named by the last of its nodes, where it will stand: every other reader must come later.
  void choose_group(const Node& node) {
    if (!can_join(node)) return;
    const auto own = static_cast<size_t>(node.id);
    for (const int reader : readers_[own]) {
      const int group = group_[static_cast<size_t>(reader)];
      if (group < 0 || members_[group].size() >= kMostInstructions) continue;
      if (graph_.nodes()[static_cast<size_t>(group)]->results[0].shape != node.results[0].shape) continue;
      const bool fits = std::all_of(readers_[own].begin(), readers_[own].end(), [&](int other) {
        return group_[static_cast<size_t>(other)] == group || other > group;
      });
      if (!fits) continue;
      group_[own] = group;
      members_[group].push_back(node.id);
      return;
    }
    group_[own] = node.id;
    members_[node.id] = {node.id};
  }

  void emit(const Node& node) {
    const auto own = static_cast<size_t>(node.id);
    target_.set_scope(node.scope);
    if (is_parameter(node)) {
      mapped_[own] = {target_.parameter(node.attrs.get<std::string>("name"), node.results[0])};
    } else if (group_[own] < 0) {
      copy(node);
    } else if (group_[own] == node.id) {
      emit_group(node);
    }
  }

  void copy(const Node& node) {
    std::vector<Value> operands;
    for (const Value& v : node.operands) operands.push_back(translate(v));
    target_.set_scope(node.scope);
    mapped_[static_cast<size_t>(node.id)] = copy_node(target_, node, std::move(operands));
  }

  struct Source {
    Value value;  // in the target
    Ints dims;
  };

  // A broadcast, or several in a row, is read as its operand.
  Source source_of(Value v) const {
    Ints dims;
    for (int axis = 0; axis < v.shape().rank(); ++axis) dims.push_back(axis);
    while (is_broadcast(v)) {
      Ints composed;
      for (const int64_t dim : v.node->attrs.get<Ints>("dims"))
        composed.push_back(dims[static_cast<size_t>(dim)]);
      dims = std::move(composed);
      v = v.node->operands[0];
    }
    return {translate(v), std::move(dims)};
  }

  bool read_elsewhere(int member, int group) const {
    const auto& readers = readers_[static_cast<size_t>(member)];
    return is_output_[static_cast<size_t>(member)] ||
           std::any_of(readers.begin(), readers.end(),
                       [&](int reader) { return group_[static_cast<size_t>(reader)] != group; });
  }

  void emit_group(const Node& last) {
    std::vector<int> members = members_[last.id];
    std::sort(members.begin(), members.end());
    std::vector<Source> sources;
    std::map<int, int> instruction_of;    // by node id
    std::vector<std::vector<int>> reads;  // of each member: source s as -1 - s, else the member's place
    bool broadcasts = false;
    for (const int member : members) {
      std::vector<int> read;
      for (const Value& v : graph_.nodes()[static_cast<size_t>(member)]->operands) {
        if (const auto found = instruction_of.find(v.node->id); found != instruction_of.end()) {
          read.push_back(found->second);
          continue;
        }
        Source source = source_of(v);
        broadcasts = broadcasts || is_broadcast(v);
        const auto same = std::find_if(sources.begin(), sources.end(), [&](const Source& s) {
          return s.value == source.value && s.dims == source.dims;
        });
        read.push_back(-1 - static_cast<int>(same - sources.begin()));
        if (same == sources.end()) sources.push_back(std::move(source));
      }
      instruction_of[member] = static_cast<int>(reads.size());
      reads.push_back(std::move(read));
    }
    if ((members.size() == 1 && !broadcasts) || sources.size() + members.size() > kMostValues) {
      for (const int member : members) copy(*graph_.nodes()[static_cast<size_t>(member)]);
      return;
    }
    add_fused(last, members, sources, reads);
  }

  void add_fused(const Node& last, const std::vector<int>& members, const std::vector<Source>& sources,
                 const std::vector<std::vector<int>>& reads) {
    const auto first = static_cast<int>(sources.size());
    std::vector<ElementwiseInstruction> program;
    Ints results, dims;
    std::vector<int> result_members;
    for (size_t i = 0; i < members.size(); ++i) {
      std::vector<int> operands;
      for (const int read : reads[i]) operands.push_back(read < 0 ? -1 - read : first + read);
      program.push_back(
          elementwise_instruction(*graph_.nodes()[static_cast<size_t>(members[i])], std::move(operands)));
      if (!read_elsewhere(members[i], last.id)) continue;
      results.push_back(first + static_cast<int64_t>(i));
      result_members.push_back(members[i]);
    }
    if (results.empty()) return;  // nothing reads the group
    std::vector<Value> operands;
    for (const Source& source : sources) {
      operands.push_back(source.value);
      dims.insert(dims.end(), source.dims.begin(), source.dims.end());
    }
    const auto values = target_.add_node(find_op("fused_elementwise"), std::move(operands),
                                         {{"shape", last.results[0].shape},
                                          {"dims", std::move(dims)},
                                          {"program", print_program(program)},
                                          {"results", std::move(results)}});
    for (size_t i = 0; i < values.size(); ++i) mapped_[static_cast<size_t>(result_members[i])] = {values[i]};
  }

  const Graph& graph_;
  std::vector<std::vector<int>> readers_;  // by node id
  std::vector<bool> is_output_;
  std::vector<int> group_;                   // by node id; -1: none
  std::map<int, std::vector<int>> members_;  // by group
  Graph target_;
  std::vector<std::vector<Value>> mapped_;
};

}  // namespace

Graph fuse_elementwise(const Graph& graph) { return Fuser(graph).run(); }

}  // namespace vertebra
