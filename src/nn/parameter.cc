#include "nn/parameter.h"

#include "base/rng.h"

namespace vertebra {

Tensor initial_value(const ParameterSpec& spec, uint64_t seed) {
  Tensor out(DType::kF32, spec.shape);
  const auto values = out.data<float>();
  const Philox source(seed, "initial/" + spec.name);
  for (size_t i = 0; i < values.size(); ++i) {
    switch (spec.initializer.kind) {
      case Initializer::Kind::kNormal:
        values[i] = static_cast<float>(spec.initializer.deviation * source.normal(i));
        break;
      case Initializer::Kind::kZeros:
        values[i] = 0;
        break;
      case Initializer::Kind::kOnes:
        values[i] = 1;
        break;
    }
  }
  return out;
}

int64_t count_parameters(const std::vector<ParameterSpec>& specs) {
  int64_t total = 0;
  for (const ParameterSpec& spec : specs) total += spec.shape.elements();
  return total;
}

}  // namespace vertebra
