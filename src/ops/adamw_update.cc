// One step of AdamW on one parameter (Loshchilov & Hutter 2019: the decay is decoupled from the gradient).
#include "ops/ops.h"
#include "ops/registry.h"
#include "ops/shape_rules.h"

namespace vertebra {
namespace {

using Values = std::vector<Value>;

std::vector<TensorType> infer_adamw(const InferInput& in) {
  in.check_operand_count(7);
  check_dtype(in, 0, DType::kF32, "the parameter");
  check_type(in, 1, in.operands[0], "the gradient");
  check_type(in, 2, in.operands[0], "m");
  check_type(in, 3, in.operands[0], "v");
  check_type(in, 4, {DType::kF32, Shape{}}, "the learning rate");
  check_type(in, 5, {DType::kF32, Shape{}}, "the step");
  check_type(in, 6, {DType::kF32, Shape{}}, "the gradient's scale");
  for (const char* name : {"beta1", "beta2"}) {
    const double beta = in.attrs.get<double>(name);
    in.check(beta >= 0 && beta < 1, "{} is {}, a number in [0, 1) is wanted", name, beta);
  }
  in.check(in.attrs.get<double>("epsilon") > 0, "epsilon is {}, it must be above 0",
           in.attrs.get<double>("epsilon"));
  return {in.operands[0], in.operands[0], in.operands[0]};
}

Values decompose_adamw(Graph& graph, const Node& node, std::span<const Value> operands) {
  const Value p = operands[0], rate = operands[4], step = operands[5];
  // A scale of 0 drops the gradient, also where it is not finite and a product would not be 0.
  const Value dropped =
      broadcast_in_dim(compare(operands[6], constant(graph, 0), Comparison::kEqual), p.shape(), {});
  const Value g = select(dropped, full(graph, p.shape(), 0),
                         multiply(operands[1], broadcast_in_dim(operands[6], p.shape(), {})));
  const double beta1 = node.attrs.get<double>("beta1"), beta2 = node.attrs.get<double>("beta2");
  const Value m = add(multiply(operands[2], beta1), multiply(g, 1 - beta1));
  const Value v = add(multiply(operands[3], beta2), multiply(multiply(g, g), 1 - beta2));
  // m / (1 - beta1^step), v / (1 - beta2^step): both start at zero and are too small at first
  const auto correction = [&](double beta) { return subtract(1, power(constant(graph, beta), step)); };
  const Value m_hat = divide(m, correction(beta1)), v_hat = divide(v, correction(beta2));
  const Value direction = divide(m_hat, add(square_root(v_hat), node.attrs.get<double>("epsilon")));
  const Value kept = subtract(1, multiply(rate, node.attrs.get<double>("weight_decay")));
  return {subtract(multiply(p, kept), multiply(direction, rate)), m, v};
}

}  // namespace

// (parameter, gradient, m, v, learning_rate, step, gradient_scale){beta1, beta2, epsilon, weight_decay}
// -> (parameter, m, v)
const OpDef adamw_update_op = {
    .name = "adamw_update",
    .infer = infer_adamw,
    .no_vjp = "an optimizer step is not differentiated",
    .decompose = decompose_adamw,
    .samples = []() -> std::vector<OpSample> {
      const auto sample = [](Shape shape, double step, double scale) {
        OpSample out = {fmt::format("{} at step {}, scale {}", shape.to_string(), step, scale),
                        {normal(shape), normal(shape, 0.1), normal(shape, 0.1), uniform(shape, 0.001, 0.02),
                         values({}, {3e-3}), values({}, {step}), values({}, {scale})},
                        {{"beta1", 0.9}, {"beta2", 0.95}, {"epsilon", 1e-8}, {"weight_decay", 0.1}}};
        out.bf16 = false;
        return out;
      };
      return {sample({5, 131}, 1, 1), sample({17}, 10, 0.25), sample({2, 3, 4}, 1000, 0), sample({}, 3, 0.5)};
    }};

std::vector<Value> adamw_update(Value parameter, Value gradient, Value m, Value v, Value learning_rate,
                                Value step, Value gradient_scale, const AdamWOptions& options) {
  return parameter.graph().add_node(adamw_update_op,
                                    {parameter, gradient, m, v, learning_rate, step, gradient_scale},
                                    {{"beta1", options.beta1},
                                     {"beta2", options.beta2},
                                     {"epsilon", options.epsilon},
                                     {"weight_decay", options.weight_decay}});
}

}  // namespace vertebra
