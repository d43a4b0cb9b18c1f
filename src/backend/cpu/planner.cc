#include "backend/cpu/planner.h"

#include <algorithm>
#include <numeric>

#include "graph/op.h"

namespace vertebra::cpu {
namespace {

constexpr size_t kAlignment = 64;

size_t aligned(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// Memory of the arena in use from step `first` to step `last`, both inclusive.
struct Block {
  size_t bytes = 0;
  int first = 0, last = 0;
  size_t offset = 0;
};

// Largest first, each into the smallest gap that what is live at the same time leaves it.
size_t place_blocks(std::vector<Block>& blocks) {
  std::vector<size_t> order(blocks.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return blocks[a].bytes != blocks[b].bytes ? blocks[a].bytes > blocks[b].bytes : a < b;
  });
  std::vector<const Block*> placed;  // by ascending offset
  size_t total = 0;
  for (const size_t i : order) {
    Block& block = blocks[i];
    size_t end = 0, best = SIZE_MAX, best_gap = SIZE_MAX;
    for (const Block* other : placed) {
      if (other->first > block.last || other->last < block.first) continue;
      if (other->offset >= end + block.bytes && other->offset - end < best_gap) {
        best = end;
        best_gap = other->offset - end;
      }
      end = std::max(end, other->offset + other->bytes);
    }
    block.offset = best == SIZE_MAX ? end : best;
    total = std::max(total, block.offset + block.bytes);
    placed.insert(std::upper_bound(placed.begin(), placed.end(), &block,
                                   [](const Block* a, const Block* b) { return a->offset < b->offset; }),
                  &block);
  }
  return total;
}

class Planner {
 public:
  Planner(const Graph& graph, std::span<const Kernel* const> kernels, const StoredTypes& types, int threads)
      : graph_(graph),
        kernels_(kernels),
        types_(types),
        threads_(threads),
        end_(static_cast<int>(graph.nodes().size())) {}

  Plan run() {
    find_roots_and_uses();
    choose_direct_outputs();
    for (const auto& node : graph_.nodes()) place_results(*node);
    copy_outputs();
    plan_.arena_bytes = place_blocks(blocks_);
    resolve_offsets();
    return std::move(plan_);
  }

 private:
  template <class T>
  T& at(std::vector<std::vector<T>>& table, Value v) {
    return table[static_cast<size_t>(v.node->id)][static_cast<size_t>(v.index)];
  }
  Value root(Value v) { return at(roots_, v); }

  // The last step that reads each value under any of its types; the step after the last node stands for the
  // end.
  void find_roots_and_uses() {
    const size_t count = graph_.nodes().size();
    roots_.resize(count);
    last_use_.resize(count);
    plan_.values.resize(count);
    plan_.workspace.resize(count, 0);
    block_of_.resize(count);
    direct_output_.resize(count);
    for (const auto& node : graph_.nodes()) {
      const auto id = static_cast<size_t>(node->id);
      const size_t results = node->results.size();
      last_use_[id].assign(results, node->id);
      plan_.values[id].resize(results);
      block_of_[id].assign(results, -1);
      direct_output_[id].assign(results, -1);
      for (size_t i = 0; i < results; ++i) roots_[id].push_back({node.get(), static_cast<int>(i)});
      if (is_alias(*node)) {
        roots_[id][0] = root(node->operands[0]);
      } else {
        for (const Value& v : node->operands) at(last_use_, root(v)) = node->id;
      }
    }
  }

  bool computed(Value v) const { return !is_parameter(*v.node) && !is_constant(*v.node); }

  // A computed value that is an output is written straight to the output's buffer where nothing that is still
  // to be read can lie there.
  void choose_direct_outputs() {
    for (const auto& output : graph_.outputs()) {
      const Value source = root(output.value);
      if (!computed(source)) at(last_use_, source) = end_;
    }
    for (size_t j = 0; j < graph_.outputs().size(); ++j) {
      const auto& output = graph_.outputs()[j];
      const Value source = root(output.value);
      if (!computed(source) || at(direct_output_, source) >= 0) continue;
      if (output.donated_input < 0 || may_overwrite(source, output.donated_input)) {
        at(direct_output_, source) = static_cast<int>(j);
      } else {
        at(last_use_, source) = end_;
      }
    }
  }

  bool may_overwrite(Value result, int input) {
    const Value given_up = graph_.inputs()[static_cast<size_t>(input)].value;
    const int last = at(last_use_, given_up);
    if (last < result.node->id) return true;
    return last == result.node->id && shares_every_use(given_up, result);
  }

  // The kernel of `result` allows it to lie over each of its operands that is `value`.
  bool shares_every_use(Value value, Value result) {
    const Node& node = *result.node;
    for (size_t i = 0; i < node.operands.size(); ++i) {
      if (root(node.operands[i]) == value &&
          !kernels_[static_cast<size_t>(node.id)]->can_share(static_cast<int>(i), result.index))
        return false;
    }
    return true;
  }

  void place_results(const Node& node) {
    const auto id = static_cast<size_t>(node.id);
    if (is_parameter(node)) {
      const int index = graph_.input_index(node.attrs.get<std::string>("name"));
      plan_.values[id][0] = {Place::Kind::kInput, index, 0};
    } else if (is_constant(node)) {
      plan_.values[id][0] = {Place::Kind::kConstant, node.id, 0};
    } else if (is_alias(node)) {
      plan_.values[id][0] = at(plan_.values, root(node.operands[0]));
    } else {
      for (size_t i = 0; i < node.results.size(); ++i)
        place_result({const_cast<Node*>(&node), static_cast<int>(i)});
      const size_t bytes = aligned(kernels_[id]->workspace_bytes(threads_));
      if (bytes > 0) {
        workspace_blocks_.push_back({id, blocks_.size()});
        blocks_.push_back({bytes, node.id, node.id});
      }
    }
  }

  void place_result(Value result) {
    if (const int output = at(direct_output_, result); output >= 0) {
      at(plan_.values, result) = {Place::Kind::kOutput, output, 0};
      return;
    }
    at(plan_.values, result) = {Place::Kind::kArena, 0, 0};
    const size_t bytes = types_.of(result).size_bytes();
    for (const Value& operand : result.node->operands) {
      const Value source = root(operand);
      const int block = at(block_of_, source);
      if (block < 0 || at(last_use_, source) != result.node->id) continue;
      // Another result of this node may have taken it already: its block then lives longer.
      if (blocks_[static_cast<size_t>(block)].last != result.node->id) continue;
      if (types_.of(source).size_bytes() != bytes || taken_by_sibling(block, result) ||
          !shares_every_use(source, result))
        continue;
      at(block_of_, result) = block;
      blocks_[static_cast<size_t>(block)].last = at(last_use_, result);
      return;
    }
    at(block_of_, result) = static_cast<int>(blocks_.size());
    blocks_.push_back({aligned(bytes), result.node->id, at(last_use_, result)});
  }

  bool taken_by_sibling(int block, Value result) {
    const auto& siblings = block_of_[static_cast<size_t>(result.node->id)];
    return std::find(siblings.begin(), siblings.end(), block) != siblings.end();
  }

  void copy_outputs() {
    std::vector<Plan::Copy> copies;
    for (size_t j = 0; j < graph_.outputs().size(); ++j) {
      const auto& output = graph_.outputs()[j];
      const Value source = root(output.value);
      const Place to = {Place::Kind::kOutput, static_cast<int>(j), 0};
      Place from = at(plan_.values, source);
      if (from == to) continue;
      if (from.kind == Place::Kind::kInput && taken_over_by_other(from.index, static_cast<int>(j))) {
        // The other output's copy may come first: set the content aside.
        staged_blocks_.push_back({plan_.final_copies.size(), copies.size(), blocks_.size()});
        blocks_.push_back({aligned(source.type().size_bytes()), end_, end_ + 1});
        const Place aside = {Place::Kind::kArena, 0, 0};
        plan_.final_copies.push_back({from, aside, output.value.type()});
        copies.push_back({aside, to, output.value.type()});
        continue;
      }
      if (from.kind == Place::Kind::kArena) {
        copied_blocks_.push_back({copies.size(), at(block_of_, source)});
        auto& block = blocks_[static_cast<size_t>(at(block_of_, source))];
        block.last = end_ + 1;
      }
      copies.push_back({from, to, output.value.type()});
    }
    first_copy_ = plan_.final_copies.size();
    plan_.final_copies.insert(plan_.final_copies.end(), copies.begin(), copies.end());
  }

  bool taken_over_by_other(int input, int output) const {
    for (size_t j = 0; j < graph_.outputs().size(); ++j) {
      if (graph_.outputs()[j].donated_input == input && static_cast<int>(j) != output) return true;
    }
    return false;
  }

  void resolve_offsets() {
    for (const auto& node : graph_.nodes()) {
      for (size_t i = 0; i < node->results.size(); ++i) {
        const Value v = {node.get(), static_cast<int>(i)};
        const int block = at(block_of_, root(v));
        if (block >= 0) at(plan_.values, v).offset = blocks_[static_cast<size_t>(block)].offset;
      }
    }
    for (const auto& [id, block] : workspace_blocks_) plan_.workspace[id] = blocks_[block].offset;
    for (const auto& [staging, copy, block] : staged_blocks_) {
      plan_.final_copies[staging].to.offset = blocks_[block].offset;
      plan_.final_copies[first_copy_ + copy].from.offset = blocks_[block].offset;
    }
    for (const auto& [copy, block] : copied_blocks_) {
      plan_.final_copies[first_copy_ + copy].from.offset = blocks_[static_cast<size_t>(block)].offset;
    }
  }

  const Graph& graph_;
  std::span<const Kernel* const> kernels_;
  const StoredTypes& types_;
  int threads_;
  int end_;
  Plan plan_;
  std::vector<Block> blocks_;
  std::vector<std::vector<Value>> roots_;  // what an alias stands for
  std::vector<std::vector<int>> last_use_, block_of_, direct_output_;
  std::vector<std::pair<size_t, size_t>> workspace_blocks_;  // node id, block
  struct Staged {
    size_t staging, copy, block;
  };
  std::vector<Staged> staged_blocks_;
  std::vector<std::pair<size_t, int>> copied_blocks_;  // copy, block
  size_t first_copy_ = 0;
};

}  // namespace

bool is_alias(const Node& node) { return node.op->name == "reshape" || node.op->name == "stop_gradient"; }

Plan plan_memory(const Graph& graph, std::span<const Kernel* const> kernels, const StoredTypes& types,
                 int threads) {
  return Planner(graph, kernels, types, threads).run();
}

}  // namespace vertebra::cpu
