// Models in GGUF files: what is planned from a folder's tensors and written is read back as the same model,
// for every architecture with a row in gguf_names.cc; and the types that a quantization gives.
#include "models/gguf_model.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "base/error.h"
#include "models/model_folder.h"
#include "models/quantization.h"

namespace vertebra {
namespace {

namespace fs = std::filesystem;

fs::path golden(const std::string& name) {
  return fs::path(VERTEBRA_SOURCE_DIR) / "tests/golden/models" / name;
}

std::vector<NamedTensor> tensors_of(const fs::path& folder) {
  std::vector<NamedTensor> out;
  const SafetensorsModel weights = SafetensorsModel::open(folder);
  for (const std::string& name : weights.names()) out.push_back({name, weights.read(name)});
  return out;
}

class GgufModel : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    path_ = fs::path(::testing::TempDir()) / fmt::format("gguf-model-{}-{}.gguf", getpid(), GetParam());
  }
  void TearDown() override { fs::remove(path_); }
  void write(const Json& config, const std::vector<NamedTensor>& tensors) {
    std::vector<std::string> names;
    std::map<std::string, Tensor> by_name;
    for (const auto& [name, tensor] : tensors) {
      names.push_back(name);
      by_name[name] = tensor;
    }
    const GgufModelPlan plan = plan_gguf_model(config, names, "test");
    std::vector<GgufEntry> entries;
    std::vector<Tensor> forms;
    for (const GgufTensorPlan& each : plan.tensors) {
      forms.push_back(each.made.has_value()
                          ? *each.made
                          : gguf_form(*plan.row, config, each.stored_name, by_name.at(each.stored_name)));
      entries.push_back({each.gguf_name, forms.back().type(), 0});
    }
    GgufWriter writer(path_, plan.metadata, entries);
    for (const Tensor& each : forms) writer.write(each);
    writer.commit();
  }
  fs::path path_;
};

TEST_P(GgufModel, ComesBackTheSame) {
  const LoadedModel wanted = read_model_folder(golden(GetParam()));
  write(read_json_file(golden(GetParam()) / "config.json"), tensors_of(golden(GetParam())));
  const LoadedModel found = read_model(path_);
  ASSERT_EQ(found.parameters.size(), wanted.parameters.size());
  for (size_t i = 0; i < wanted.parameters.size(); ++i) {
    EXPECT_EQ(found.parameters[i].name, wanted.parameters[i].name);
    const Tensor &a = found.parameters[i].tensor, &b = wanted.parameters[i].tensor;
    ASSERT_EQ(a.shape(), b.shape()) << wanted.parameters[i].name;
    for (int64_t k = 0; k < a.elements(); ++k)  // 1 + weight and back rounds
      ASSERT_NEAR(a.at(k), b.at(k), 2e-7) << wanted.parameters[i].name;
  }
  const ModelShape &a = found.model->shape(), &b = wanted.model->shape();
  EXPECT_EQ(a.head_dim, b.head_dim);
  EXPECT_EQ(a.key_value_heads, b.key_value_heads);
  EXPECT_EQ(a.context_length, b.context_length);
  EXPECT_EQ(found.model->head(), wanted.model->head());
}

INSTANTIATE_TEST_SUITE_P(Architectures, GgufModel,
                         ::testing::Values("llama", "llama-tied", "llama3", "mistral", "qwen2", "qwen3",
                                           "granite", "olmo2", "gemma3"));

TEST(GgufRows, QueryRowsLieAsRotationsOverNeighbours) {
  const GgufArchitecture& row = gguf_architecture("llama", "test");
  const Json config = {{"num_attention_heads", 2}, {"num_key_value_heads", 1}};
  Tensor q(DType::kF32, {8, 1});
  for (int64_t i = 0; i < 8; ++i) q.set(i, static_cast<double>(i));
  const Tensor out = gguf_form(row, config, "model.layers.0.self_attn.q_proj.weight", q);
  const std::vector<float> wanted = {0, 2, 1, 3, 4, 6, 5, 7};
  for (int64_t i = 0; i < 8; ++i) EXPECT_EQ(out.at(i), wanted[static_cast<size_t>(i)]);
}

TEST(GgufRows, UnknownArchitecturesAreNamedWithTheKnown) {
  try {
    gguf_architecture("mamba9", "x.gguf");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::kUnimplemented);
    EXPECT_NE(std::string(error.what()).find("'mamba9'"), std::string::npos);
    EXPECT_NE(std::string(error.what()).find("llama, qwen2"), std::string::npos);
  }
}

TEST(Quantizations, MixesAsLlamaCppChoosesThem) {
  const Quantization mix = Quantization::from_name("q4_k_m");
  const auto type = [&](const char* name, int64_t row) {
    return quantized_type(mix, name, {512, row}, 16, false);
  };
  EXPECT_EQ(type("token_embd.weight", 512), DType::kQ6_K);
  EXPECT_EQ(type("blk.0.attn_v.weight", 512), DType::kQ6_K);
  EXPECT_EQ(type("blk.2.attn_v.weight", 512), DType::kQ4_K);
  EXPECT_EQ(type("blk.4.ffn_down.weight", 512), DType::kQ6_K);
  EXPECT_EQ(type("blk.15.ffn_down.weight", 512), DType::kQ6_K);
  EXPECT_EQ(type("blk.0.attn_q.weight", 512), DType::kQ4_K);
  EXPECT_EQ(type("blk.0.attn_q.weight", 96), DType::kQ5_0);
  EXPECT_EQ(type("blk.0.attn_v.weight", 96), DType::kQ8_0);
  EXPECT_EQ(type("blk.0.attn_q.weight", 100), DType::kF16);
  EXPECT_EQ(quantized_type(mix, "blk.0.attn_norm.weight", {512}, 16, false), DType::kF32);
  EXPECT_THROW(Quantization::from_name("q9"), Error);
}

}  // namespace
}  // namespace vertebra
