#include "models/model.h"

#include "ops/ops.h"

namespace vertebra {

#define VERTEBRA_OPEN_MODEL(type, factory, gguf) \
  std::unique_ptr<Model> factory(const Json& config, std::string_view source);
#define VERTEBRA_MODEL(type, factory, gguf, defaults) \
  VERTEBRA_OPEN_MODEL(type, factory, gguf)            \
  Json defaults(const Json& sizes, int64_t vocabulary, int64_t context_length);
#include "models/model_list.def"
#undef VERTEBRA_MODEL
#undef VERTEBRA_OPEN_MODEL

namespace {

struct Architecture {
  std::string_view type;
  std::unique_ptr<Model> (*make)(const Json& config, std::string_view source);
  Json (*defaults)(const Json& sizes, int64_t vocabulary, int64_t context_length);  // null: only opened
};

constexpr Architecture kArchitectures[] = {
#define VERTEBRA_MODEL(type, factory, gguf, defaults) {#type, factory, defaults},
#define VERTEBRA_OPEN_MODEL(type, factory, gguf) {#type, factory, nullptr},
#include "models/model_list.def"
#undef VERTEBRA_MODEL
#undef VERTEBRA_OPEN_MODEL
};

const Architecture& find_architecture(std::string_view type, std::string_view source) {
  for (const Architecture& architecture : kArchitectures) {
    if (architecture.type == type) return architecture;
  }
  fail(Code::kUnimplemented, "{}: model type '{}' is not supported; supported are: {}", source, type,
       fmt::join(known_model_types(), ", "));
}

}  // namespace

std::vector<std::string> known_model_types() {
  std::vector<std::string> out;
  for (const Architecture& architecture : kArchitectures) out.emplace_back(architecture.type);
  return out;
}

std::vector<std::string> sizable_model_types() {
  std::vector<std::string> out;
  for (const Architecture& architecture : kArchitectures) {
    if (architecture.defaults != nullptr) out.emplace_back(architecture.type);
  }
  return out;
}

int64_t config_size(const Json& config, const std::string& key, std::string_view source, int64_t limit) {
  const auto value = json_get<int64_t>(config, key, source);
  require(value >= 1 && value <= limit, "{}: {} is {}, 1 to {} was wanted", source, key, value, limit);
  return value;
}

double config_epsilon(const Json& config, const std::string& key, std::string_view source, double fallback) {
  const auto value = json_get<double>(config, key, source, fallback);
  require(value > 0 && value < 1, "{}: {} is {}, a number between 0 and 1 was wanted", source, key, value);
  return value;
}

std::unique_ptr<Model> make_model(const Json& config, std::string_view source) {
  return find_architecture(json_get<std::string>(config, "model_type", source), source).make(config, source);
}

Json default_config(std::string_view model_type, const Json& sizes, int64_t vocabulary,
                    int64_t context_length) {
  const Architecture& architecture = find_architecture(model_type, "recipe");
  require(architecture.defaults != nullptr, Code::kUnimplemented,
          "recipe: a model of type '{}' cannot be made from sizes; choose one of {}, or start from a model's "
          "folder",
          model_type, fmt::join(sizable_model_types(), ", "));
  return architecture.defaults(sizes, vocabulary, context_length);
}

Value Model::logits(ModelContext& context, Value hidden) const {
  const Value out = linear(hidden, context.parameter(head()), {}, context.compute());
  const double cap = logit_softcap();
  return cap > 0 ? multiply(tanh(divide(out, cap)), cap) : out;
}

double Model::training_flops_per_token(int64_t length) const {
  const ModelShape& s = shape();
  // Of an expert layer's parameters, those of the experts chosen.
  const auto used_share = [&](const ParameterSpec& spec) {
    return spec.axes[0] == Axis::kExpert ? static_cast<double>(s.experts_per_token) / s.experts : 1.0;
  };
  double products =
      0;  // parameters that take part in a matrix product; a tied embedding counts once, as the head
  for (const ParameterSpec& spec : parameters()) {
    if (spec.role == Role::kMatrix || spec.name == head())
      products += static_cast<double>(spec.shape.elements()) * used_share(spec);
  }
  // Scores and weighted values: 2 products of H D per visible key, T / 2 keys on average.
  const double attention = static_cast<double>(s.layers * s.heads * s.head_dim) * static_cast<double>(length);
  return 6 * products + 6 * attention;
}

}  // namespace vertebra
