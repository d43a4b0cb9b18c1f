#include "models/sharding.h"

#include <algorithm>
#include <optional>

#include "base/error.h"

namespace vertebra {
namespace {

struct AxisRule {
  Axis axis;
  std::optional<MeshAxis> mesh;    // along which it is cut; nothing: everybody holds all of it
  std::string_view name, setting;  // for messages: what it is, and the recipe's key for it
};

// The width E over fsdp, gathered for each layer (Zhao et al. 2023); heads, feed-forward width and vocabulary
// over tensor (Shoeybi et al. 2019), so that the first product of a block is cut by columns, the second by
// rows, and one sum joins the parts.
constexpr AxisRule kRules[] = {
    {Axis::kVocabulary, MeshAxis::kTensor, "vocabulary", "tokenizer.vocabulary"},
    {Axis::kEmbedding, MeshAxis::kFsdp, "width", "model.embedding"},
    {Axis::kHeads, MeshAxis::kTensor, "heads", "model.heads"},
    {Axis::kKeyValueHeads, MeshAxis::kTensor, "key/value heads", "model.key_value_heads"},
    {Axis::kFeedForward, MeshAxis::kTensor, "feed-forward width", "model.feed_forward"},
    {Axis::kPosition, std::nullopt, "positions", "model.context_length"},
    {Axis::kExpert, std::nullopt, "experts", "model.experts"},
    {Axis::kNone, std::nullopt, "axis", "model"},
};

const AxisRule& rule_of(Axis axis) {
  const auto* it =
      std::find_if(std::begin(kRules), std::end(kRules), [&](const AxisRule& r) { return r.axis == axis; });
  VERTEBRA_CHECK(it != std::end(kRules), "an axis has no rule for sharding");
  return *it;
}

void check_divides(int64_t size, const AxisRule& rule, const Mesh& mesh, std::string_view what) {
  if (!rule.mesh) return;
  const int64_t ways = mesh.size(*rule.mesh);
  require(size % ways == 0,
          "{}{} {} cannot be cut over mesh.{} = {}: make {} a multiple of {}, or mesh.{} a divisor of {}",
          what, rule.name, size, mesh_axis_name(*rule.mesh), ways, rule.setting, ways,
          mesh_axis_name(*rule.mesh), size);
}

}  // namespace

// A vector along the width stays whole: gathering it costs a message, and saves a ten-thousandth.
Sharding parameter_sharding(const ParameterSpec& spec, const Mesh& mesh) {
  Sharding out;
  for (const Axis axis : spec.axes) {
    auto& dim = out.dims.emplace_back();
    const bool whole = axis == Axis::kEmbedding && spec.role == Role::kVector;
    if (const auto found = rule_of(axis).mesh; found && !whole) dim.push_back(*found);
  }
  return on_mesh(out, mesh);
}

Sharding batch_sharding(const Mesh& mesh) { return on_mesh({{{MeshAxis::kData, MeshAxis::kFsdp}}}, mesh); }

Sharding cache_sharding(const Mesh& mesh) { return on_mesh({{{}, {}, {MeshAxis::kTensor}}}, mesh); }

void check_model_fits(const Model& model, const Mesh& mesh) {
  const ModelShape& shape = model.shape();
  check_divides(shape.heads, rule_of(Axis::kHeads), mesh, "the model's ");
  check_divides(shape.key_value_heads, rule_of(Axis::kKeyValueHeads), mesh, "the model's ");
  for (const ParameterSpec& spec : model.parameters()) {
    const Sharding sharding = parameter_sharding(spec, mesh);
    for (size_t i = 0; i < sharding.dims.size(); ++i) {
      if (!sharding.dims[i].empty())
        check_divides(spec.shape[static_cast<int>(i)], rule_of(spec.axes[i]), mesh,
                      fmt::format("parameter '{}': its ", spec.name));
    }
  }
}

void check_rows_fit(int64_t rows, const Mesh& mesh, std::string_view key) {
  const int64_t ways = mesh.data * mesh.fsdp;
  require(
      rows % ways == 0,
      "a batch of {} rows cannot be cut over mesh.data = {} x mesh.fsdp = {}: make {} a multiple of {}, or "
      "the mesh smaller",
      rows, mesh.data, mesh.fsdp, key, ways);
}

}  // namespace vertebra
