#include "engine/sampling_graph.h"

#include "ops/ops.h"

namespace vertebra {
namespace {

// exp(-88) is the smallest normal f32: a token so far below the likeliest has no mass.
constexpr double kLowest = -88;
constexpr int kHalvings = 30;

// One number a row, for every token of the row.
Value across(Value row, const Shape& shape) { return broadcast_in_dim(row, shape, {0}); }

// exp and sums of a row, without overflow.
struct Weights {
  Value below;  // [M, V]: (logit - largest) / temperature
  Value mass;   // [M, V]: its exp
};
Weights weights(Value logits, Value temperature) {
  const Shape& shape = logits.shape();
  Weights out;
  out.below = subtract(logits, across(reduce_max(logits, {1}), shape));
  if (temperature.defined()) out.below = divide(out.below, across(temperature, shape));
  out.mass = exponential(out.below);
  return out;
}

Value log_probability(Value logits, Value token) {
  const Shape& shape = logits.shape();
  const Weights all = weights(logits, {});
  const Value ids = iota(logits.graph(), shape, 1);
  const Value is_token = compare(ids, across(token, shape), Comparison::kEqual);
  const Value chosen = reduce_sum(select(is_token, all.below, full(logits.graph(), shape, 0)), {1});
  return subtract(chosen, logarithm(reduce_sum(all.mass, {1})));
}

// The largest threshold t [M], by halving, for which enough(what lies at or above t) still holds.
template <class Enough>
Value threshold(Value below, const Enough& enough) {
  const Shape row = below.shape().without(1);
  Graph& graph = below.graph();
  Value low = full(graph, row, kLowest), high = full(graph, row, 0);
  for (int i = 0; i < kHalvings; ++i) {
    const Value middle = multiply(add(low, high), 0.5);
    const Value holds = enough(compare(below, across(middle, below.shape()), Comparison::kGreaterEqual));
    low = select(holds, middle, low);
    high = select(holds, high, middle);
  }
  return low;
}

// Sums over the last axis up to and including each element, in log2(V) sweeps.
Value running_sum(Value a) {
  const int64_t width = a.shape()[1];
  for (int64_t step = 1; step < width; step *= 2) {
    a = add(a, pad(slice_axis(a, 1, 0, width - step), {0, step}, {0, 0}, 0));
  }
  return a;
}

}  // namespace

SampledRows likeliest(Value logits) {
  const Value token = argmax(logits, 1);
  return {token, log_probability(logits, token)};
}

Graph build_sampling(const char* logits_name, const TensorType& logits_type) {
  Graph graph;
  const Shape& shape = logits_type.shape;
  const Value logits = graph.parameter(logits_name, logits_type);
  const auto option = [&](const char* name) {
    return graph.parameter(name, {DType::kF32, shape.without(1)});
  };
  const Value temperature = option(sampling::kTemperature), top_k = option(sampling::kTopK),
              top_p = option(sampling::kTopP), min_p = option(sampling::kMinP),
              uniform = option(sampling::kUniform);
  const Value nothing = full(graph, shape, 0),
              is_greedy = compare(temperature, full(graph, shape.without(1), 0), Comparison::kEqual);
  const Value one = full(graph, shape.without(1), 1);

  const Weights all = weights(logits, select(is_greedy, one, temperature));
  const auto mass_of = [&](Value mass, Value kept) { return reduce_sum(select(kept, mass, nothing), {1}); };
  const auto at_least = [&](Value t) {
    return compare(all.below, across(t, shape), Comparison::kGreaterEqual);
  };
  // Top-k: as many tokens as asked for.
  const Value wanted =
      select(compare(top_k, one, Comparison::kLess), multiply(one, static_cast<double>(shape[1])), top_k);
  const Value k_threshold = threshold(all.below, [&](Value kept) {
    return compare(reduce_sum(convert(kept, DType::kF32), {1}), wanted, Comparison::kGreaterEqual);
  });
  const Value likely = select(at_least(k_threshold), all.mass, nothing);
  // Top-p: of their mass, the share asked for.
  const Value share = multiply(reduce_sum(likely, {1}), top_p);
  const Value p_threshold = threshold(all.below, [&](Value kept) {
    return compare(mass_of(likely, kept), share, Comparison::kGreaterEqual);
  });
  const Value kept =
      logical_and(at_least(p_threshold), compare(all.mass, across(min_p, shape), Comparison::kGreaterEqual));
  const Value sums = running_sum(select(kept, likely, nothing));
  const Value target = multiply(reduce_max(sums, {1}), uniform);
  const Value beyond = compare(sums, across(target, shape), Comparison::kGreater);
  const Value token = select(is_greedy, argmax(logits, 1), argmax(convert(beyond, DType::kF32), 1));
  graph.add_output(sampling::kToken, token);
  graph.add_output(sampling::kLogProbability, log_probability(logits, token));
  return graph;
}

}  // namespace vertebra
