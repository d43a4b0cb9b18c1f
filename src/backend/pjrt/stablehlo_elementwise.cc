// Elementwise primitives in StableHLO.
#include <algorithm>
#include <array>
#include <map>

#include "backend/pjrt/stablehlo_ops.h"

namespace vertebra::pjrt {
namespace {

struct Name {  // of an operation, as a template argument
  char text[40] = {};
  constexpr Name(const char* from) {  // NOLINT: implicit
    for (size_t i = 0; from[i] != 0; ++i) text[i] = from[i];
  }
};

template <Name kOperation>
HloValue unary(const HloCall& call) {
  return call.emit.unary(kOperation.text, call.operand(0));
}

template <Name kOperation>
HloValue binary(const HloCall& call) {
  return call.emit.binary(kOperation.text, call.operand(0), call.operand(1));
}

HloValue compare(const HloCall& call) {
  std::string direction = call.node.attrs.get<std::string>("direction");
  std::transform(direction.begin(), direction.end(), direction.begin(),
                 [](char c) { return static_cast<char>(c - 'a' + 'A'); });
  return call.emit.compare(call.operand(0), call.operand(1), direction);
}

HloValue select(const HloCall& call) {
  return call.emit.select(call.operand(0), call.operand(1), call.operand(2));
}

HloValue convert(const HloCall& call) {
  const HloValue& a = call.operand(0);
  const DType to = call.result().dtype;
  if (to == DType::kBool && a.type.dtype != DType::kBool)
    return call.emit.compare(a, call.emit.splat(a.type, 0), "NE");
  return call.emit.convert(a, to);
}

HloValue same(const HloCall& call) { return call.operand(0); }

// erf(x) = sign(x) (1 - (a1 t + ... + a5 t^5) exp(-x^2)), t = 1 / (1 + p |x|): Abramowitz & Stegun 7.1.26,
// error below 1.5e-7; for compilers without chlo.erf.
HloValue erf_by_polynomial(HloEmitter& emit, const HloValue& x) {
  constexpr std::array kCoefficients = {1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592};
  const auto number = [&](double value) { return emit.splat(x.type, value); };
  const auto multiply = [&](const HloValue& a, const HloValue& b) {
    return emit.binary("stablehlo.multiply", a, b);
  };
  const auto add = [&](const HloValue& a, const HloValue& b) { return emit.binary("stablehlo.add", a, b); };
  const HloValue size = emit.unary("stablehlo.abs", x);
  const HloValue t =
      emit.binary("stablehlo.divide", number(1), add(number(1), multiply(number(0.3275911), size)));
  HloValue sum = number(kCoefficients[0]);
  for (size_t i = 1; i < kCoefficients.size(); ++i) sum = add(multiply(sum, t), number(kCoefficients[i]));
  const HloValue tail = multiply(
      multiply(sum, t), emit.unary("stablehlo.exponential", emit.unary("stablehlo.negate", multiply(x, x))));
  return multiply(emit.unary("stablehlo.sign", x), emit.binary("stablehlo.subtract", number(1), tail));
}

HloValue erf(const HloCall& call) {
  if (!call.banned("chlo.erf")) return call.emit.unary("chlo.erf", call.operand(0));
  const HloValue& x = call.operand(0);
  const DType inner = x.type.dtype == DType::kF64 ? DType::kF64 : DType::kF32;
  return call.emit.convert(erf_by_polynomial(call.emit, call.emit.convert(x, inner)), x.type.dtype);
}

}  // namespace

HloTranslation find_elementwise_translation(std::string_view op) {
  static const std::map<std::string_view, HloTranslation> kTable = {
      {"add", binary<"stablehlo.add">},
      {"subtract", binary<"stablehlo.subtract">},
      {"multiply", binary<"stablehlo.multiply">},
      {"divide", binary<"stablehlo.divide">},
      {"maximum", binary<"stablehlo.maximum">},
      {"minimum", binary<"stablehlo.minimum">},
      {"power", binary<"stablehlo.power">},
      {"logical_and", binary<"stablehlo.and">},
      {"logical_or", binary<"stablehlo.or">},
      {"logical_not", unary<"stablehlo.not">},
      {"negate", unary<"stablehlo.negate">},
      {"exponential", unary<"stablehlo.exponential">},
      {"logarithm", unary<"stablehlo.log">},
      {"square_root", unary<"stablehlo.sqrt">},
      {"reciprocal_square_root", unary<"stablehlo.rsqrt">},
      {"tanh", unary<"stablehlo.tanh">},
      {"logistic", unary<"stablehlo.logistic">},
      {"absolute", unary<"stablehlo.abs">},
      {"sine", unary<"stablehlo.sine">},
      {"cosine", unary<"stablehlo.cosine">},
      {"floor", unary<"stablehlo.floor">},
      {"erf", erf},
      {"compare", compare},
      {"select", select},
      {"convert", convert},
      {"stop_gradient", same},
  };
  const auto it = kTable.find(op);
  return it == kTable.end() ? nullptr : it->second;
}

}  // namespace vertebra::pjrt
