// The memory plan on random graphs: nothing that is still to be read is written over.
#include "backend/cpu/planner.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "base/rng.h"
#include "graph/op.h"
#include "ops/ops.h"

namespace vertebra::cpu {
namespace {

class FakeKernel final : public Kernel {
 public:
  FakeKernel(bool shares, size_t workspace) : shares_(shares), workspace_(workspace) {}
  size_t workspace_bytes(int) const override { return workspace_; }
  bool can_share(int, int) const override { return shares_; }
  void run(const KernelCall&) const override {}

 private:
  bool shares_;
  size_t workspace_;
};

Graph random_graph(uint64_t seed) {
  PhiloxSequence random{Philox(seed, "planner")};
  Graph graph;
  std::vector<Value> values;
  for (int i = 0; i < 3; ++i)
    values.push_back(graph.parameter("in" + std::to_string(i), {DType::kF32, Shape{4, 8}}));
  for (int i = 0; i < 60; ++i) {
    const Value a = values[random.below(values.size())], b = values[random.below(values.size())];
    switch (random.below(5)) {
      case 0:
        values.push_back(negate(a));
        break;
      case 1:
        values.push_back(reshape(reshape(a, Shape{8, 4}), Shape{4, 8}));
        break;
      case 2:
        values.push_back(broadcast_in_dim(reduce_sum(a, {1}), Shape{4, 8}, {0}));
        break;
      default:
        values.push_back(add(a, b));
    }
  }
  std::set<std::pair<int, int>> donated;
  for (int i = 0; i < 5; ++i) {
    const Value out = values[random.below(values.size())];
    const bool takes_over = i < 3 && random.chance(0.7);
    graph.add_output("out" + std::to_string(i), out,
                     takes_over ? graph.inputs()[static_cast<size_t>(i)].value : Value{});
  }
  return graph;
}

// Simulates the plan on memory that remembers which value was written last: every read must find its value.
// An output that takes over an input is given the input's buffer.
class Simulation {
 public:
  Simulation(const Graph& graph, const Plan& plan) : graph_(graph), plan_(plan) {}

  void run(std::span<const Kernel* const> kernels) {
    for (const auto& node : graph_.nodes()) {
      const auto id = static_cast<size_t>(node->id);
      if (is_parameter(*node) || is_constant(*node)) write({node.get(), 0});
      if (kernels[id] == nullptr) continue;
      for (const Value& v : node->operands) expect(place(v), root(v), "an operand");
      if (kernels[id]->workspace_bytes(1) > 0) {
        fill(plan_.workspace[id], kernels[id]->workspace_bytes(1), {nullptr, node->id});
        // The workspace lies over no operand: they are read while it is written.
        for (const Value& v : node->operands) expect(place(v), root(v), "an operand after the workspace");
      }
      for (size_t i = 0; i < node->results.size(); ++i) write({node.get(), static_cast<int>(i)});
    }
    for (const Plan::Copy& copy : plan_.final_copies) memory_[key(copy.to)] = memory_[key(copy.from)];
    for (size_t j = 0; j < graph_.outputs().size(); ++j) {
      const Place at = {Place::Kind::kOutput, static_cast<int>(j), 0};
      expect(at, root(graph_.outputs()[j].value), "an output");
    }
  }

 private:
  using Key = std::tuple<int, int, size_t>;
  Value root(Value v) const { return is_alias(*v.node) ? root(v.node->operands[0]) : v; }
  const Place& place(Value v) const {
    return plan_.values[static_cast<size_t>(v.node->id)][static_cast<size_t>(v.index)];
  }
  Key key(Place at) const {
    if (at.kind == Place::Kind::kOutput) {
      const int input = graph_.outputs()[static_cast<size_t>(at.index)].donated_input;
      if (input >= 0) at = {Place::Kind::kInput, input, 0};
    }
    return {static_cast<int>(at.kind), at.index, at.offset};
  }
  void write(Value v) {
    const Place& at = place(v);
    if (at.kind == Place::Kind::kArena) {
      fill(at.offset, v.type().size_bytes(), v);
    } else {
      memory_[key(at)] = v;
    }
  }
  // Whatever the bytes overlap is gone.
  void fill(size_t offset, size_t bytes, Value v) {
    ASSERT_LE(offset + bytes, plan_.arena_bytes);
    for (auto& [at, held] : memory_) {
      if (std::get<0>(at) != static_cast<int>(Place::Kind::kArena)) continue;
      const size_t begin = std::get<2>(at), end = begin + sizes_[begin];
      if (begin < offset + bytes && offset < end) held = {nullptr, -1};
    }
    sizes_[offset] = bytes;
    memory_[{static_cast<int>(Place::Kind::kArena), 0, offset}] = v;
  }
  void expect(const Place& at, Value wanted, const char* what) {
    EXPECT_TRUE(memory_[key(at)] == wanted) << what << ", value %" << wanted.node->id << "\n"
                                            << graph_.to_string();
  }

  const Graph& graph_;
  const Plan& plan_;
  std::map<Key, Value> memory_;
  std::map<size_t, size_t> sizes_;
};

TEST(Planner, NothingStillToBeReadIsWrittenOver) {
  for (uint64_t seed = 0; seed < 200; ++seed) {
    const Graph graph = random_graph(seed);
    PhiloxSequence random{Philox(seed, "kernels")};
    std::vector<std::unique_ptr<FakeKernel>> owned;
    std::vector<const Kernel*> kernels;
    for (const auto& node : graph.nodes()) {
      const bool shares = random.chance(0.5);
      const size_t workspace = random.chance(0.3) ? 64 + random.below(500) : 0;
      owned.push_back(is_parameter(*node) || is_constant(*node) || is_alias(*node)
                          ? nullptr
                          : std::make_unique<FakeKernel>(shares, workspace));
      kernels.push_back(owned.back().get());
    }
    const Plan plan = plan_memory(graph, kernels, StoredTypes(graph, kernels), 1);
    Simulation(graph, plan).run(kernels);
    if (HasFailure()) FAIL() << "seed " << seed;
  }
}

TEST(Planner, AChainOfKernelsThatShareNeedsOneBlock) {
  Graph graph;
  Value x = graph.parameter("x", {DType::kF32, Shape{100}});
  for (int i = 0; i < 10; ++i) x = negate(x);
  const Value last = add(x, x);
  graph.add_output("sum", reduce_sum(last, {0}));
  std::vector<std::unique_ptr<FakeKernel>> owned;
  std::vector<const Kernel*> kernels;
  for (const auto& node : graph.nodes()) {
    owned.push_back(is_parameter(*node) ? nullptr : std::make_unique<FakeKernel>(true, 0));
    kernels.push_back(owned.back().get());
  }
  EXPECT_EQ(plan_memory(graph, kernels, StoredTypes(graph, kernels), 1).arena_bytes,
            448u);  // 400 bytes, aligned
}

}  // namespace
}  // namespace vertebra::cpu
