// linear: y = activation(x . w^T + bias) + residual, the layer of every Hugging Face model. The activation
// and the residual are put in by the fuse pass. Also gated_mlp, built from it.
#include <algorithm>
#include <array>

#include "ops/ops.h"
#include "ops/registry.h"
#include "ops/shape_rules.h"

namespace vertebra {
namespace {

constexpr std::array<std::string_view, 4> kActivations = {"none", "silu", "gelu", "gelu_tanh"};

std::vector<TensorType> infer_linear(const InferInput& in) {
  const bool has_bias = in.attrs.get<bool>("has_bias"), has_residual = in.attrs.get<bool>("has_residual");
  const auto& activation = in.attrs.get<std::string>("activation");
  in.check_operand_count(size_t{2} + (has_bias ? 1 : 0) + (has_residual ? 1 : 0));
  check_compute(in);
  in.check(std::find(kActivations.begin(), kActivations.end(), activation) != kActivations.end(),
           "the activation is '{}', one of {} is wanted", activation, fmt::join(kActivations, ", "));
  check_float(in, 0, "x");
  if (is_block_quantized(in.operands[1].dtype)) {
    check_blocks(in, 1, "the weight");
  } else {
    check_float(in, 1, "the weight");
  }
  check_rank(in, 1, 2, "the weight");
  const Shape& x = in.operands[0].shape;
  const Shape& w = in.operands[1].shape;
  in.check(x.rank() >= 1 && x.dim(-1) == w.dim(1), "x of shape {} does not fit the weight [F, E] of shape {}",
           x.to_string(), w.to_string());
  Shape out = x.without(-1);
  out.push_back(w.dim(0));
  if (has_bias) {
    check_float(in, 2, "the bias");
    check_shape(in, 2, Shape{w.dim(0)}, "the bias");
  }
  const TensorType result = {in.operands[0].dtype, out};
  if (has_residual) check_type(in, has_bias ? 3 : 2, result, "the residual");
  return {result};
}

Value values_of(Value w) { return is_block_quantized(w.dtype()) ? dequantize(w) : w; }

Value activate(Value x, const std::string& activation) {
  if (activation == "silu") return silu(x);
  if (activation == "gelu" || activation == "gelu_tanh") return gelu(x, activation == "gelu_tanh");
  return x;
}

std::vector<Value> decompose_linear(Graph&, const Node& node, std::span<const Value> operands) {
  const Value x = operands[0], w = values_of(operands[1]);
  const bool has_bias = node.attrs.get<bool>("has_bias"), has_residual = node.attrs.get<bool>("has_residual");
  const auto& activation = node.attrs.get<std::string>("activation");
  const bool plain = !has_bias && !has_residual && activation == "none";
  const DType inner = plain ? x.dtype() : inner_dtype(x.dtype());  // otherwise rounds once, at the end
  Value y = dot_general(x, w, {{}, {}, {x.shape().rank() - 1}, {1}}, inner, node.attrs.get<DType>("compute"));
  if (has_bias) y = add(y, convert(operands[2], inner));
  y = activate(y, activation);
  if (has_residual) y = add(y, convert(operands[has_bias ? 3 : 2], inner));
  return {convert(y, x.dtype())};
}

std::vector<Value> linear_vjp(const VjpInput& in) {
  const Value x = in.operand(0), w = in.operand(1), dy = in.gradients[0];
  const bool has_bias = in.node.attrs.get<bool>("has_bias"),
             has_residual = in.node.attrs.get<bool>("has_residual");
  const auto& activation = in.node.attrs.get<std::string>("activation");
  const DType compute = in.node.attrs.get<DType>("compute");
  Value dz = dy;  // of z = x . w^T + bias, y = activation(z) + residual
  if (activation != "none") {
    const Value z = linear(x, w, has_bias ? in.operand(2) : Value{}, compute);
    dz = activation == "silu"
             ? make(silu_grad_op, {z, dy})
             : make(gelu_grad_op, {z, dy}, {{"tanh_approximation", activation == "gelu_tanh"}});
  }
  const int64_t last = x.shape().rank() - 1;
  const std::vector<int64_t> leading = axes_up_to(static_cast<int>(last));
  std::vector<Value> out(in.node.operands.size());
  require(!in.wanted[1] || !is_block_quantized(w.dtype()), Code::kUnimplemented,
          "linear: a weight of type {} has no gradient: block-quantized weights are constants",
          dtype_name(w.dtype()));
  if (in.wanted[0]) out[0] = dot_general(dz, values_of(w), {{}, {}, {last}, {0}}, x.dtype(), compute);
  if (in.wanted[1]) out[1] = dot_general(dz, x, {{}, {}, leading, leading}, w.dtype(), compute);
  if (has_bias && in.wanted[2]) out[2] = convert(reduce_sum(dz, leading), in.operand(2).dtype());
  if (has_residual) out.back() = dy;
  return out;
}

constexpr DType kBlockTypes[] = {DType::kQ8_0, DType::kQ4_0, DType::kQ4_1,   DType::kQ5_0,
                                 DType::kQ5_1, DType::kQ2_K, DType::kQ3_K,   DType::kQ4_K,
                                 DType::kQ5_K, DType::kQ6_K, DType::kIQ4_NL, DType::kMXFP4};

// 8-bit integers for x: 0.4 % of its largest value in each block.
constexpr double kRoundedX = 2e-2;

std::vector<OpSample> dequantize_samples() {
  std::vector<OpSample> out;
  for (const DType dtype : kBlockTypes) {
    const int64_t elements = block_size(dtype).elements;
    out.push_back({std::string(dtype_name(dtype)), {blocks({19, 2 * elements}, dtype)}, {}});
  }
  out.push_back({"one row", {blocks({96}, DType::kQ4_1)}, {}});
  out.push_back({"several dimensions", {blocks({2, 3, 64}, DType::kQ8_0)}, {}});
  return out;
}

std::vector<OpSample> linear_samples() {
  const auto attrs = [](bool bias, bool residual, const char* activation, DType compute = DType::kF32) {
    return Attrs{{"compute", compute},
                 {"has_bias", bias},
                 {"has_residual", residual},
                 {"activation", std::string(activation)}};
  };
  const auto x = normal({5, 37}), w = normal({19, 37}, 0.3);
  std::vector<OpSample> out = {
      {"plain", {x, w}, attrs(false, false, "none")},
      {"bias", {x, w, normal({19})}, attrs(true, false, "none")},
      {"residual", {x, w, normal({5, 19})}, attrs(false, true, "none")},
      {"silu", {x, w}, attrs(false, false, "silu")},
      {"gelu, bias", {x, w, normal({19})}, attrs(true, false, "gelu")},
      {"gelu_tanh, bias, residual", {x, w, normal({19}), normal({5, 19})}, attrs(true, true, "gelu_tanh")},
      {"a batch", {normal({2, 3, 64}), normal({48, 64}, 0.2)}, attrs(false, false, "none")},
      {"one row", {normal({1, 70}), normal({35, 70}, 0.2)}, attrs(false, false, "none")},
      {"a vector", {normal({6}), normal({4, 6})}, attrs(false, false, "none")},
      {"computed in bf16",
       {normal({9, 66}), normal({34, 66}, 0.2)},
       attrs(false, false, "none", DType::kBF16)}};
  for (const DType dtype : kBlockTypes) {
    const int64_t k = 3 * block_size(dtype).elements;
    out.push_back({std::string(dtype_name(dtype)),
                   {normal({5, k}), blocks({37, k}, dtype)},
                   attrs(false, false, "none"),
                   kRoundedX});
  }
  const auto q8 = blocks({40, 64}, DType::kQ8_0), q4_k = blocks({40, 256}, DType::kQ4_K);
  out.push_back({"q8_0, one row", {normal({1, 64}), q8}, attrs(false, false, "none"), kRoundedX});
  out.push_back({"q8_0, a vector", {normal({64}), q8}, attrs(false, false, "none"), kRoundedX});
  out.push_back({"q8_0, many rows, gelu, bias, residual",
                 {normal({2, 31, 64}), q8, normal({40}), normal({2, 31, 40})},
                 attrs(true, true, "gelu"),
                 kRoundedX});
  out.push_back({"q4_k, silu", {normal({20, 256}), q4_k}, attrs(false, false, "silu"), kRoundedX});
  return out;
}

}  // namespace

// Operands x, w, then bias and residual where the attributes has_bias and has_residual say so.
const OpDef linear_op = {.name = "linear",
                         .infer = infer_linear,
                         .vjp = linear_vjp,
                         .decompose = decompose_linear,
                         .samples = linear_samples,
                         .takes_blocks = true};

const OpDef dequantize_op = {.name = "dequantize",
                             .infer = [](const InferInput& in) -> std::vector<TensorType> {
                               in.check_operand_count(1);
                               check_blocks(in, 0, "x");
                               return {{DType::kF32, in.operands[0].shape}};
                             },
                             .no_vjp = "block-quantized weights are constants",
                             .samples = dequantize_samples,
                             .takes_blocks = true};

Value dequantize(Value x) { return make(dequantize_op, {x}); }

Value linear(Value x, Value w, Value bias, DType compute) {
  std::vector<Value> operands = {x, w};
  if (bias.defined()) operands.push_back(bias);
  return make(linear_op, std::move(operands),
              {{"compute", compute},
               {"has_bias", bias.defined()},
               {"has_residual", false},
               {"activation", std::string("none")}});
}

Value gated_mlp(Value x, Value gate, Value up, Value down, DType compute) {
  const Value hidden = make(swiglu_op, {linear(x, gate, {}, compute), linear(x, up, {}, compute)});
  return linear(hidden, down, {}, compute);
}

}  // namespace vertebra
