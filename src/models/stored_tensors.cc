#include "models/stored_tensors.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"

namespace vertebra {
namespace {

std::string numbered(const std::string& pattern, int64_t number) {
  const size_t at = pattern.find("{}");
  VERTEBRA_CHECK(at != std::string::npos, "the stored name of a stack has no place for the number");
  return pattern.substr(0, at) + std::to_string(number) + pattern.substr(at + 2);
}

Tensor stack(const ParameterSpec& spec, std::string_view source, std::map<std::string, Tensor>& tensors) {
  const Shape part = spec.shape.without(0);
  Tensor out;
  for (int64_t i = 0; i < spec.shape[0]; ++i) {
    const std::string name = numbered(spec.stored.name, i);
    const auto it = tensors.find(name);
    require(it != tensors.end(), "{}: the weights lack the tensor '{}' of shape {}", source, name,
            part.to_string());
    require(it->second.shape() == part, "{}: tensor '{}' has shape {}, by config.json {} was wanted", source,
            name, it->second.shape().to_string(), part.to_string());
    if (i == 0) out = Tensor(it->second.dtype(), spec.shape);
    require(it->second.dtype() == out.dtype(), "{}: tensor '{}' has type {}, its neighbours have {}", source,
            name, dtype_name(it->second.dtype()), dtype_name(out.dtype()));
    const size_t bytes = it->second.size_bytes();
    std::memcpy(static_cast<std::byte*>(out.raw()) + static_cast<size_t>(i) * bytes, it->second.raw(), bytes);
    tensors.erase(it);
  }
  return out;
}

// The last two axes of [X, A, B] the other way round.
Tensor transposed(const Tensor& tensor) {
  const Shape& shape = tensor.shape();
  const int64_t X = shape[0], A = shape[1], B = shape[2];
  Tensor out(tensor.dtype(), {X, B, A});
  const size_t size = dtype_size(tensor.dtype());
  const auto* from = static_cast<const std::byte*>(tensor.raw());
  auto* to = static_cast<std::byte*>(out.raw());
  for (int64_t x = 0; x < X; ++x) {
    for (int64_t b = 0; b < B; ++b) {
      for (int64_t a = 0; a < A; ++a, to += size)
        std::memcpy(to, from + static_cast<size_t>((x * A + a) * B + b) * size, size);
    }
  }
  return out;
}

}  // namespace

std::string declared_name(const StoredNames& names, const std::string& stored) {
  std::string out = stored;
  const auto ignored = [&] {
    return std::any_of(names.ignored.begin(), names.ignored.end(),
                       [&](const std::string& prefix) { return out.starts_with(prefix); });
  };
  if (ignored()) return {};
  for (const auto& [from, to] : names.prefixes) {
    if (!stored.starts_with(from)) continue;
    out = to + stored.substr(from.size());
    break;
  }
  return ignored() ? std::string() : out;
}

void assemble(const Model& model, std::string_view source, std::map<std::string, Tensor>& tensors) {
  for (const ParameterSpec& spec : model.parameters()) {
    if (spec.stored.kind == StoredForm::Kind::kStack) {
      if (!tensors.contains(spec.name)) tensors[spec.name] = stack(spec, source, tensors);
    } else if (spec.stored.kind == StoredForm::Kind::kTransposed) {
      const auto it = tensors.find(spec.name);
      if (it != tensors.end() && it->second.shape().rank() == 3) it->second = transposed(it->second);
    }
  }
}

std::vector<NamedTensor> disassemble(const Model& model, std::span<const NamedTensor> parameters) {
  std::map<std::string_view, const StoredForm*> forms;
  for (const ParameterSpec& spec : model.parameters()) forms[spec.name] = &spec.stored;
  std::vector<NamedTensor> out;
  for (const auto& [name, tensor] : parameters) {
    const auto form = forms.find(name);
    if (form == forms.end() || form->second->kind == StoredForm::Kind::kSame) {
      out.push_back({name, tensor});
    } else if (form->second->kind == StoredForm::Kind::kTransposed) {
      out.push_back({name, transposed(tensor)});
    } else {
      const Shape part = tensor.shape().without(0);
      for (int64_t i = 0; i < tensor.shape()[0]; ++i) {
        Tensor slice(tensor.dtype(), part);
        std::memcpy(slice.raw(),
                    static_cast<const std::byte*>(tensor.raw()) + static_cast<size_t>(i) * slice.size_bytes(),
                    slice.size_bytes());
        out.push_back({numbered(form->second->name, i), slice});
      }
    }
  }
  return out;
}

}  // namespace vertebra
