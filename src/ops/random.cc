// Random numbers from a counter: random_bits (primitive) and random_uniform.
#include "ops/ops.h"
#include "ops/registry.h"
#include "ops/shape_rules.h"

namespace vertebra {
namespace {

std::vector<TensorType> infer_random(const InferInput& in, DType dtype) {
  in.check_operand_count(1);
  check_type(in, 0, {DType::kU32, Shape{4}},
             "seed_and_stream (seed low, seed high, stream low, stream high)");
  return {{dtype, in.attrs.get<Shape>("shape")}};
}

std::vector<OpSample> random_samples() {
  const auto key = integers({4}, 0, int64_t{1} << 32, DType::kU32);
  return {{"matrix", {key}, {{"shape", Shape{5, 7}}}}, {"long", {key}, {{"shape", Shape{1025}}}}};
}

}  // namespace

// Element i is word i % 4 of the Philox4x32-10 block of counter (i / 4, stream) under the key seed:
// base/rng.h.
const OpDef random_bits_op = {.name = "random_bits",
                              .infer = [](const InferInput& in) { return infer_random(in, DType::kU32); },
                              .no_vjp = "integer results",
                              .samples = random_samples};

const OpDef random_uniform_op = {
    .name = "random_uniform",
    .infer = [](const InferInput& in) { return infer_random(in, DType::kF32); },
    .no_vjp = "integer operands",
    .decompose = [](Graph& graph, const Node& node, std::span<const Value> operands) -> std::vector<Value> {
      // The upper 24 bits, exact in f32, times 2^-24.
      const Value bits = random_bits(graph, operands[0], node.attrs.get<Shape>("shape"));
      return {multiply(convert(divide(bits, 256.0), DType::kF32), 0x1p-24)};
    },
    .samples = random_samples};

Value random_bits(Graph&, Value seed_and_stream, Shape shape) {
  return make(random_bits_op, {seed_and_stream}, {{"shape", shape}});
}

Value random_uniform(Graph&, Value seed_and_stream, Shape shape) {
  return make(random_uniform_op, {seed_and_stream}, {{"shape", shape}});
}

}  // namespace vertebra
