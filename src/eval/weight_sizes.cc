#include "eval/weight_sizes.h"

#include <algorithm>
#include <vector>

#include "formats/safetensors.h"
#include "models/gguf_model.h"

namespace vertebra {

std::string tensor_kind(const std::string& name) {
  std::string out;
  for (size_t start = 0; start <= name.size();) {
    const size_t end = std::min(name.find('.', start), name.size());
    const std::string part = name.substr(start, end - start);
    start = end + 1;
    const bool number = !part.empty() && part.find_first_not_of("0123456789") == std::string::npos;
    const bool prefix = out.empty() && (part == "model" || part == "transformer");
    if (number || prefix || (part == "weight" && start > name.size())) continue;
    if (!out.empty()) out += '.';
    out += part;
  }
  return out;
}

double WeightSize::bits_per_weight() const {
  return weights > 0 ? 8.0 * static_cast<double>(size_bytes) / static_cast<double>(weights) : 0;
}

std::string WeightSize::type_names() const {
  std::vector<std::pair<int64_t, std::string>> sorted;
  for (const auto& [name, count] : types) sorted.emplace_back(-count, name);
  std::sort(sorted.begin(), sorted.end());
  std::string out;
  for (const auto& [count, name] : sorted) out += (out.empty() ? "" : "+") + name;
  return out;
}

void WeightSize::add(const TensorType& type) {
  ++tensors;
  weights += type.shape.elements();
  size_bytes += type.size_bytes();
  ++types[std::string(dtype_name(type.dtype))];
}

Json WeightSizes::to_json() const {
  const auto row = [](const WeightSize& size) {
    return Json{{"tensors", size.tensors},
                {"weights", size.weights},
                {"size_bytes", size.size_bytes},
                {"bits_per_weight", size.bits_per_weight()},
                {"types", Json(size.types)}};
  };
  Json out = {{"total", row(total)}, {"kinds", Json::object()}};
  for (const auto& [name, size] : kinds) out["kinds"][name] = row(size);
  return out;
}

WeightSizes weight_sizes(const std::filesystem::path& path) {
  WeightSizes out;
  const auto add = [&](const std::string& name, const TensorType& type) {
    out.kinds[tensor_kind(name)].add(type);
    out.total.add(type);
  };
  if (is_gguf_file(path)) {
    const StoredModel stored = open_gguf_model(std::make_shared<const GgufFile>(path));
    for (const ParameterSpec& spec : stored.model->parameters())
      add(spec.name, {stored.tensors->dtype(spec), spec.shape});
  } else {
    const SafetensorsModel weights = SafetensorsModel::open(path);
    for (const std::string& name : weights.names()) add(name, weights.read(name).type());
  }
  return out;
}

}  // namespace vertebra
