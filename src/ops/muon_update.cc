// One step of Muon on one matrix (Jordan 2024, "Muon: an optimizer for hidden layers in neural networks").
#include <algorithm>
#include <cmath>

#include "ops/ops.h"
#include "ops/registry.h"
#include "ops/shape_rules.h"

namespace vertebra {
namespace {

using Values = std::vector<Value>;

std::vector<TensorType> infer_muon(const InferInput& in) {
  in.check_operand_count(4);
  check_dtype(in, 0, DType::kF32, "the parameter");
  check_rank(in, 0, 2, "the parameter [A, B]");
  const Shape& shape = in.operands[0].shape;
  in.check(shape.is_static() && shape.elements() > 0, "the parameter needs a fixed shape and elements");
  check_type(in, 1, in.operands[0], "the gradient");
  check_type(in, 2, in.operands[0], "the momentum");
  check_type(in, 3, {DType::kF32, Shape{}}, "the learning rate");
  check_compute(in);
  const double momentum = in.attrs.get<double>("momentum");
  in.check(momentum >= 0 && momentum < 1, "momentum is {}, a number in [0, 1) is wanted", momentum);
  const int64_t iterations = in.attrs.get<int64_t>("iterations");
  in.check(iterations >= 1 && iterations <= 100, "{} iterations, 1 to 100 are wanted", iterations);
  return {in.operands[0], in.operands[0]};
}

// Newton-Schulz: x <- a x + (b (x x^T) + c (x x^T)^2) x moves all singular values towards 1.
Value orthogonalise(Value g, int64_t iterations, DType compute) {
  constexpr double kA = 3.4445, kB = -4.7750, kC = 2.0315;
  const bool tall = g.shape()[0] > g.shape()[1];  // the products are smaller with rows <= columns
  Value x = tall ? transpose(g, {1, 0}) : g;
  const Value norm = square_root(reduce_sum(multiply(x, x), {0, 1}));
  x = divide(x, add(norm, 1e-7));
  for (int64_t i = 0; i < iterations; ++i) {
    const Value square = dot_general(x, x, {{}, {}, {1}, {1}}, DType::kF32, compute);
    const Value fourth = matmul(square, square, compute);
    const Value polynomial = add(multiply(square, kB), multiply(fourth, kC));
    x = add(multiply(x, kA), matmul(polynomial, x, compute));
  }
  return tall ? transpose(x, {1, 0}) : x;
}

Values decompose_muon(Graph&, const Node& node, std::span<const Value> operands) {
  const Value p = operands[0], g = operands[1], rate = operands[3];
  const double beta = node.attrs.get<double>("momentum");
  // Averaged as in the author's current version; the scale falls out in the normalisation.
  const Value momentum = add(multiply(operands[2], beta), multiply(g, 1 - beta));
  const Value nesterov = add(multiply(momentum, beta), multiply(g, 1 - beta));
  const Value update =
      orthogonalise(nesterov, node.attrs.get<int64_t>("iterations"), node.attrs.get<DType>("compute"));
  const double rows = static_cast<double>(p.shape()[0]), columns = static_cast<double>(p.shape()[1]);
  const Value size = multiply(rate, std::sqrt(std::max(1.0, rows / columns)));
  const Value kept = subtract(1, multiply(rate, node.attrs.get<double>("weight_decay")));
  return {subtract(multiply(p, kept), multiply(update, size)), momentum};
}

}  // namespace

// (parameter, gradient, momentum, learning_rate){momentum, weight_decay, iterations, compute}
// -> (parameter, momentum)
const OpDef muon_update_op = {.name = "muon_update",
                              .infer = infer_muon,
                              .no_vjp = "an optimizer step is not differentiated",
                              .decompose = decompose_muon,
                              .samples = []() -> std::vector<OpSample> {
                                const auto sample = [](Shape shape) {
                                  OpSample out = {
                                      shape.to_string(),
                                      {normal(shape), normal(shape), normal(shape, 0.1), values({}, {0.02})},
                                      {{"momentum", 0.95},
                                       {"weight_decay", 0.01},
                                       {"iterations", int64_t{5}},
                                       {"compute", DType::kF32}},
                                      1e-4};
                                  out.bf16 = false;
                                  return out;
                                };
                                return {sample({7, 12}), sample({20, 6}), sample({9, 9}), sample({1, 5})};
                              }};

std::vector<Value> muon_update(Value parameter, Value gradient, Value momentum, Value learning_rate,
                               const MuonOptions& options) {
  return parameter.graph().add_node(muon_update_op, {parameter, gradient, momentum, learning_rate},
                                    {{"momentum", options.momentum},
                                     {"weight_decay", options.weight_decay},
                                     {"iterations", int64_t{options.iterations}},
                                     {"compute", options.compute}});
}

}  // namespace vertebra
