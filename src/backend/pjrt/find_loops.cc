#include "backend/pjrt/find_loops.h"

#include <algorithm>
#include <map>
#include <string>
#include <tuple>

#include "graph/op.h"

namespace vertebra::pjrt {
namespace {

using Kind = GraphLoop::Operand::Kind;

constexpr int kShortestPeriod = 24;
constexpr int kFewestIterations = 3;

// A run of positions in which every node equals the one `period` later.
struct Candidate {
  int first = 0, length = 0, period = 0;  // length: of all iterations and what is left over
  int count() const { return length / period; }
  int saved() const { return (count() - 1) * period; }
  bool covers(const Candidate& other) const {
    return other.period % period == 0 && first <= other.first && other.first + other.length <= first + length;
  }
};

class LoopFinder {
 public:
  explicit LoopFinder(const Graph& graph) : graph_(graph) {
    positions_.resize(graph.nodes().size(), -1);
    in_place_.resize(graph.nodes().size(), false);
    for (const auto& output : graph.outputs()) {
      if (output.donated_input >= 0) in_place_[static_cast<size_t>(output.value.node->id)] = true;
    }
    std::map<std::string, int> labels;
    for (const auto& node : graph.nodes()) {
      if (is_parameter(*node) || is_constant(*node)) continue;
      positions_[static_cast<size_t>(node->id)] = static_cast<int>(order_.size());
      order_.push_back(node.get());
      std::string text = std::string(node->op->name) + " " + node->results[0].to_string();
      for (const auto& [name, attr] : node->attrs.items())
        text += " " + name + "=" + vertebra::to_string(attr);
      for (const Value& operand : node->operands) text += " " + operand.type().to_string();
      labels_.push_back(labels.emplace(std::move(text), static_cast<int>(labels.size())).first->second);
    }
  }

  GraphLoops find() {
    std::vector<GraphLoop> found;
    std::vector<bool> taken(order_.size(), false);
    std::vector<Candidate> tried;
    for (const Candidate& candidate : candidates()) {
      // Two layers at a time, where one at a time was tried.
      if (std::any_of(tried.begin(), tried.end(),
                      [&](const Candidate& each) { return each.covers(candidate); }))
        continue;
      tried.push_back(candidate);
      const auto begin = taken.begin() + candidate.first;
      if (std::find(begin, begin + candidate.length, true) != begin + candidate.length) continue;
      std::optional<GraphLoop> loop = best_loop(candidate);
      if (!loop) continue;
      const int first = position(*loop->nodes[0]);
      std::fill_n(taken.begin() + first, loop->period * loop->count, true);
      found.push_back(std::move(*loop));
    }
    std::sort(found.begin(), found.end(),
              [](const GraphLoop& a, const GraphLoop& b) { return a.nodes[0]->id < b.nodes[0]->id; });
    GraphLoops out = {std::move(found), {}};
    out.places.resize(graph_.nodes().size());
    for (size_t l = 0; l < out.loops.size(); ++l) {
      for (int i = 0; i < out.loops[l].count * out.loops[l].period; ++i)
        out.places[static_cast<size_t>(out.loops[l].nodes[static_cast<size_t>(i)]->id)] = {
            static_cast<int>(l), i / out.loops[l].period, i % out.loops[l].period};
    }
    collect(out);
    return out;
  }

 private:
  int position(const Node& node) const { return positions_[static_cast<size_t>(node.id)]; }

  // Those that save most first; of equals the one of the shorter period.
  std::vector<Candidate> candidates() const {
    const int n = static_cast<int>(order_.size());
    std::vector<Candidate> out;
    for (int period = kShortestPeriod; period * kFewestIterations <= n; ++period) {
      for (int i = 0; i + period < n;) {
        int end = i;
        while (end + period < n &&
               labels_[static_cast<size_t>(end)] == labels_[static_cast<size_t>(end + period)])
          ++end;
        const Candidate candidate = {i, end - i + period, period};
        if (candidate.count() >= kFewestIterations) out.push_back(candidate);
        i = end + 1;
      }
    }
    std::sort(out.begin(), out.end(), [](const Candidate& a, const Candidate& b) {
      return std::tuple(b.saved(), a.period, a.first) < std::tuple(a.saved(), b.period, b.first);
    });
    return out;
  }

  static uint64_t carried_bytes(const GraphLoop& loop) {
    uint64_t out = 0;
    for (const auto& carried : loop.carried) out += carried.initial.type().size_bytes();
    return out;
  }

  // Where one iteration ends and the next begins is free: between layers the least is handed over.
  std::optional<GraphLoop> best_loop(const Candidate& candidate) const {
    for (int fewer = 0; fewer <= 1; ++fewer) {  // the first or last iteration may have other operands
      const int count = candidate.count() - fewer;
      if (count < kFewestIterations) break;
      std::optional<GraphLoop> best;
      for (int offset = 0; offset + count * candidate.period <= candidate.length; ++offset) {
        std::optional<GraphLoop> loop = analyse(candidate.first + offset, candidate.period, count);
        if (loop && loop->carried.empty()) return std::nullopt;  // wherever an iteration begins
        if (loop && (!best || carried_bytes(*loop) < carried_bytes(*best))) best = std::move(loop);
      }
      if (best) return best;
    }
    return std::nullopt;
  }

  // The value that stands at an operand's place in every iteration.
  std::optional<GraphLoop> analyse(int first, int period, int count) const {
    GraphLoop loop;
    loop.period = period;
    loop.count = count;
    loop.nodes.assign(order_.begin() + first, order_.begin() + first + period * count);
    // Sums over each layer's gradients, say, are not worth copying those together.
    if (std::none_of(loop.nodes.begin(), loop.nodes.begin() + period,
                     [](const Node* node) { return node->op->name == "dot_general"; }))
      return std::nullopt;
    // A cache that every layer writes in place would be stacked, that is copied, at every run.
    if (std::any_of(loop.nodes.begin(), loop.nodes.end(),
                    [&](const Node* node) { return in_place_[static_cast<size_t>(node->id)]; }))
      return std::nullopt;
    loop.operands.resize(static_cast<size_t>(period));
    for (int at = 0; at < period; ++at) {
      for (size_t i = 0; i < loop.node(0, at).operands.size(); ++i) {
        const std::optional<GraphLoop::Operand> operand = classify(loop, first, at, i);
        if (!operand) return std::nullopt;
        loop.operands[static_cast<size_t>(at)].push_back(*operand);
      }
    }
    return loop;
  }

  std::optional<GraphLoop::Operand> classify(GraphLoop& loop, int first, int at, size_t operand) const {
    std::vector<Value> values;
    for (int k = 0; k < loop.count; ++k) values.push_back(loop.node(k, at).operands[operand]);
    // Relative to the begin of the iteration; before the loop: outside.
    const auto relative = [&](int k) {
      return position(*values[static_cast<size_t>(k)].node) - first - k * loop.period;
    };
    const auto outside = [&](int k) { return position(*values[static_cast<size_t>(k)].node) < first; };
    const int distance = relative(1);
    const auto alike = [&](int from) {
      for (int k = from; k < loop.count; ++k) {
        if (outside(k) || relative(k) != distance) return false;
      }
      return true;
    };
    if (!outside(1) && distance >= 0) {
      if (!alike(0)) return std::nullopt;
      return GraphLoop::Operand{Kind::kInside, distance};
    }
    if (!outside(1)) {  // of the iteration before: 1 has none further back
      if (!alike(1) || !outside(0)) return std::nullopt;
      return GraphLoop::Operand{Kind::kCarried, index_of(loop.carried, {distance + loop.period, values[0]})};
    }
    for (int k = 0; k < loop.count; ++k) {
      if (!outside(k)) return std::nullopt;
    }
    if (std::all_of(values.begin(), values.end(), [&](const Value& v) { return v == values[0]; }))
      return GraphLoop::Operand{is_constant(*values[0].node) ? Kind::kConstant : Kind::kInvariant,
                                index_of(loop.invariants, values[0])};
    for (size_t i = 0; i < loop.each.size(); ++i) {
      if (loop.each[i].values == values) return GraphLoop::Operand{Kind::kEach, static_cast<int>(i)};
    }
    loop.each.push_back({.values = std::move(values)});
    return GraphLoop::Operand{Kind::kEach, static_cast<int>(loop.each.size()) - 1};
  }

  template <class T>
  static int index_of(std::vector<T>& list, const T& wanted) {
    const auto it = std::find(list.begin(), list.end(), wanted);
    if (it != list.end()) return static_cast<int>(it - list.begin());
    list.push_back(wanted);
    return static_cast<int>(list.size()) - 1;
  }

  // The stack of another loop that holds just these values, in order or the other way round.
  static void match_stack(GraphLoop::Each& each, const GraphLoops& loops) {
    const auto place = [&](size_t k) { return loops.places[static_cast<size_t>(each.values[k].node->id)]; };
    const LoopPlace start = place(0);
    const int step = place(1).iteration - start.iteration;
    if (start.loop < 0 || (step != 1 && step != -1)) return;
    for (size_t k = 1; k < each.values.size(); ++k) {
      const LoopPlace here = place(k);
      if (here.loop != start.loop || here.position != start.position ||
          here.iteration != start.iteration + static_cast<int>(k) * step)
        return;
    }
    each.loop = start.loop;
    each.position = start.position;
    each.first = start.iteration;
    each.step = step;
  }

  void collect(GraphLoops& out) const {
    const auto use = [&](const Value& value) {
      const LoopPlace place = out.places[static_cast<size_t>(value.node->id)];
      if (place.loop < 0) return;
      GraphLoop& loop = out.loops[static_cast<size_t>(place.loop)];
      const bool is_final =
          place.iteration == loop.count - 1 &&
          std::any_of(loop.carried.begin(), loop.carried.end(),
                      [&](const GraphLoop::Carried& each) { return each.position == place.position; });
      if (!is_final) index_of(loop.collected, place.position);
    };
    for (const Node* node : order_) {
      if (out.places[static_cast<size_t>(node->id)].loop >= 0) continue;
      for (const Value& operand : node->operands) use(operand);
    }
    for (const auto& output : graph_.outputs()) use(output.value);
    for (GraphLoop& loop : out.loops) {
      for (const auto& carried : loop.carried) use(carried.initial);
      for (const Value& invariant : loop.invariants) use(invariant);
      for (GraphLoop::Each& each : loop.each) {
        match_stack(each, out);
        if (each.loop >= 0) {
          index_of(out.loops[static_cast<size_t>(each.loop)].collected, each.position);
        } else {
          for (const Value& value : each.values) use(value);
        }
      }
    }
    for (GraphLoop& loop : out.loops) std::sort(loop.collected.begin(), loop.collected.end());
  }

  const Graph& graph_;
  std::vector<const Node*> order_;  // without constants and parameters
  std::vector<int> positions_;      // in order_, by node id; -1: constant or parameter
  std::vector<bool> in_place_;      // by node id: an output that takes over an input
  std::vector<int> labels_;         // equal for nodes that do the same
};

}  // namespace

GraphLoops find_loops(const Graph& graph) { return LoopFinder(graph).find(); }

}  // namespace vertebra::pjrt
