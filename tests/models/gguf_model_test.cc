// Models in GGUF files: what is planned from a folder's tensors and written is read back as the same model,
// for every architecture; and the types that a quantization gives.
#include "models/gguf_model.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "backend/reference/reference.h"
#include "base/error.h"
#include "models/model_folder.h"
#include "models/quantization.h"
#include "tensor/convert.h"
#include "tests/models/dense_graph.h"

namespace vertebra {
namespace {

namespace fs = std::filesystem;

fs::path golden(const std::string& name) {
  return fs::path(VERTEBRA_SOURCE_DIR) / "tests/golden/models" / name;
}

// What GGUF has no words for is changed to what it has.
Json config_of(const std::string& name) {
  Json config = read_json_file(golden(name) / "config.json");
  if (name == "gemma3") config["query_pre_attn_scalar"] = config["head_dim"];
  if (name == "smollm3") config["no_rope_layers"] = {1, 1, 1};
  return config;
}

Tensor logits_of(const LoadedModel& loaded) {
  constexpr int64_t kLength = 16;  // beyond the windows
  const Graph graph = build_dense_logits(*loaded.model, kLength);
  std::vector<Tensor> operands;
  for (const auto& input : graph.inputs()) {
    operands.emplace_back(DType::kI32, Shape{kLength});
    for (int64_t i = 0; i < kLength; ++i) operands.back().set(i, static_cast<double>((7 * i + 3) % 60));
    for (const NamedTensor& each : loaded.parameters)
      if (each.name == input.name) operands.back() = each.tensor;
  }
  return evaluate_reference(graph, operands)[0];
}

class GgufModel : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    at_ = fs::path(::testing::TempDir()) / fmt::format("gguf-model-{}-{}", getpid(), GetParam());
    fs::create_directories(at_ / "folder");
    write_json_file(at_ / "folder/config.json", config_of(GetParam()));
    fs::copy_file(golden(GetParam()) / "model.safetensors", at_ / "folder/model.safetensors");
    path_ = at_ / "model.gguf";
  }
  void TearDown() override { fs::remove_all(at_); }

  void write(const StoredModel& stored) {
    const GgufModelPlan plan = plan_gguf_model(stored, "test");
    GgufTensors tensors(stored, plan);
    std::vector<GgufEntry> entries;
    for (const GgufTensorPlan& each : plan.tensors) {
      entries.push_back(each.entry);
      entries.back().type.dtype = DType::kF32;
    }
    GgufWriter writer(path_, plan.metadata, entries);
    for (size_t i = 0; i < entries.size(); ++i) writer.write(convert(tensors.read(i), DType::kF32));
    writer.commit();
  }

  fs::path at_, path_;
};

TEST_P(GgufModel, ComesBackTheSame) {
  write(open_model_folder(at_ / "folder"));
  const LoadedModel wanted = read_model_folder(at_ / "folder"), found = read_model(path_);
  ASSERT_EQ(found.parameters.size(), wanted.parameters.size());
  for (size_t i = 0; i < wanted.parameters.size(); ++i) {
    EXPECT_EQ(found.parameters[i].name, wanted.parameters[i].name);
    const Tensor &a = found.parameters[i].tensor, &b = wanted.parameters[i].tensor;
    ASSERT_EQ(a.shape(), b.shape()) << wanted.parameters[i].name;
    for (int64_t k = 0; k < a.elements(); ++k)  // 1 + weight and back rounds, and so does exp(A_log)
      ASSERT_NEAR(a.at(k), b.at(k), 3e-7) << wanted.parameters[i].name;
  }
  const ModelShape &a = found.model->shape(), &b = wanted.model->shape();
  EXPECT_EQ(a.head_dim, b.head_dim);
  EXPECT_EQ(a.key_value_heads, b.key_value_heads);
  EXPECT_EQ(a.context_length, b.context_length);
  EXPECT_EQ(found.model->head(), wanted.model->head());
}

// Settings too: windows, scaling of positions, multipliers, kinds of layers.
TEST_P(GgufModel, ComputesTheSame) {
  write(open_model_folder(at_ / "folder"));
  const Tensor wanted = logits_of(read_model_folder(at_ / "folder")), found = logits_of(read_model(path_));
  for (int64_t k = 0; k < wanted.elements(); ++k) ASSERT_NEAR(found.at(k), wanted.at(k), 1e-5) << k;
}

TEST_P(GgufModel, IsWrittenTheSameAgain) {
  write(open_model_folder(at_ / "folder"));
  const GgufFile first(path_);
  const StoredModel again = open_model(path_);
  path_ = at_ / "again.gguf";
  write(again);
  const GgufFile second(path_);
  const auto keys = [](const GgufFile& file) {
    std::map<std::string, std::string> out;
    for (const auto& [key, value] : file.metadata().entries()) out[key] = json_line(value.to_json());
    return out;
  };
  EXPECT_EQ(keys(second), keys(first));
  ASSERT_EQ(second.entries().size(), first.entries().size());
  for (const GgufEntry& each : first.entries()) {
    const Tensor a = first.read(each), b = second.read(each.name);
    for (int64_t k = 0; k < a.elements(); ++k) {
      const double rounding = 3e-7 * std::max(1.0, std::abs(a.at(k)));
      ASSERT_NEAR(b.at(k), a.at(k), rounding) << each.name;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Architectures, GgufModel,
                         ::testing::Values("llama", "llama-tied", "llama3", "gpt2", "mistral", "ministral3",
                                           "qwen2", "qwen3", "qwen3_moe", "qwen3_5", "gemma3", "gemma4",
                                           "gemma4-experts", "smollm3", "phi3", "olmo2", "granite", "lfm2",
                                           "gpt_oss"),
                         [](const auto& each) {
                           std::string name = each.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST(GgufForms, QueryRowsLieAsRotationsOverNeighbours) {
  const auto model =
      make_model(read_json_file(golden("llama") / "config.json"), "test");  // 4 heads of 8, 2 of keys
  Tensor q(DType::kF32, {32, 1});
  for (int64_t i = 0; i < 32; ++i) q.set(i, static_cast<double>(i));
  const Tensor out = kGgufQueryRows.to_file(q, *model);
  const std::vector<float> wanted = {0, 4, 1, 5, 2, 6, 3, 7, 8, 12};
  for (size_t i = 0; i < wanted.size(); ++i) EXPECT_EQ(out.at(static_cast<int64_t>(i)), wanted[i]);
  EXPECT_TRUE(kGgufQueryRows.from_file(out, *model).same_bits(q));
}

// What readers would compute otherwise is not written.
TEST(GgufRefusals, SettingsWithoutAKey) {
  const auto refused = [](const std::string& name, const char* key, const Json& value) {
    Json config = config_of(name);
    config[key] = value;
    const fs::path folder = fs::path(::testing::TempDir()) / fmt::format("gguf-refused-{}", getpid());
    fs::create_directories(folder);
    write_json_file(folder / "config.json", config);
    fs::copy_file(golden(name) / "model.safetensors", folder / "model.safetensors",
                  fs::copy_options::overwrite_existing);
    std::string message;
    try {
      plan_gguf_model(open_model_folder(folder), "out.gguf");
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Code::kUnimplemented);
      message = error.what();
    }
    fs::remove_all(folder);
    return message.find(key) != std::string::npos;
  };
  EXPECT_TRUE(refused("gemma3", "query_pre_attn_scalar", 10));
  EXPECT_TRUE(refused("qwen3_moe", "norm_topk_prob", false));
  EXPECT_TRUE(refused("gpt2", "activation_function", "gelu"));
  EXPECT_TRUE(refused("gpt_oss", "swiglu_limit", 6.0));
}

TEST(GgufArchitectures, UnknownArchitecturesAreNamedWithTheKnown) {
  try {
    gguf_architecture("mamba9", "x.gguf");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::kUnimplemented);
    EXPECT_NE(std::string(error.what()).find("'mamba9'"), std::string::npos);
    EXPECT_NE(std::string(error.what()).find("llama, gpt2, mistral3, qwen2"), std::string::npos);
  }
}

std::vector<DType> types_of(const char* quantization, std::vector<std::pair<const char*, int64_t>> tensors,
                            const ModelShape& shape, const char* architecture = "llama") {
  std::vector<GgufEntry> entries;
  for (const auto& [name, row] : tensors)
    entries.push_back(
        {name,
         {DType::kF32,
          std::string_view(name).find("exps") != std::string_view::npos ? Shape{4, 8, row} : Shape{8, row}},
         0});
  return quantized_types(Quantization::from_name(quantization), {architecture, shape}, entries);
}

TEST(Quantizations, MixesAsLlamaCppChoosesThem) {
  using D = DType;
  std::vector<std::pair<const char*, int64_t>> values;
  std::vector<std::string> names;
  for (int i = 0; i < 16; ++i) names.push_back(fmt::format("blk.{}.attn_v.weight", i));
  for (const std::string& name : names) values.emplace_back(name.c_str(), 512);
  const ModelShape shape = {.layers = 16, .heads = 4, .key_value_heads = 2};
  const std::vector<DType> v = types_of("q4_k_m", values, shape);
  for (int i = 0; i < 16; ++i)  // the outer eighths, and every third between
    EXPECT_EQ(v[static_cast<size_t>(i)], i < 2 || i >= 14 || (i - 2) % 3 == 2 ? D::kQ6_K : D::kQ4_K) << i;
  EXPECT_EQ(types_of("q4_k_m",
                     {{"token_embd.weight", 512},
                      {"blk.0.attn_q.weight", 512},
                      {"blk.0.attn_q.weight", 96},
                      {"blk.0.attn_q.weight", 100},
                      {"blk.0.ffn_down.weight", 512},
                      {"blk.1.ffn_down.weight", 96},
                      {"blk.2.ffn_down.weight", 512},
                      {"blk.0.ffn_gate_inp.weight", 512},
                      {"blk.0.attn_qkv.weight", 512},
                      {"position_embd.weight", 512}},
                     shape),
            (std::vector<DType>{D::kQ6_K, D::kQ4_K, D::kQ5_0, D::kF16, D::kQ6_K, D::kQ8_0, D::kQ4_K, D::kF32,
                                D::kQ6_K, D::kF32}));
  // Of experts, the layer's number counts.
  const ModelShape moe = {.layers = 16, .heads = 4, .key_value_heads = 1, .experts = 8};
  EXPECT_EQ(types_of("q4_k_m",
                     {{"output.weight", 512},
                      {"token_embd.weight", 512},
                      {"blk.2.ffn_down_exps.weight", 512},
                      {"blk.4.ffn_down_exps.weight", 512},
                      {"blk.4.attn_k.weight", 512},
                      {"blk.4.attn_output.weight", 512}},
                     moe, "qwen3moe"),
            (std::vector<DType>{D::kQ6_K, D::kQ4_K, D::kQ4_K, D::kQ6_K, D::kQ8_0, D::kQ5_K}));
  EXPECT_EQ(types_of("mxfp4_moe",
                     {{"blk.0.ffn_up_exps.weight", 64}, {"blk.0.attn_q.weight", 64}, {"output.weight", 64}},
                     moe, "gpt-oss"),
            (std::vector<DType>{D::kMXFP4, D::kQ8_0, D::kQ8_0}));
  EXPECT_THROW(Quantization::from_name("q9"), Error);
}

}  // namespace
}  // namespace vertebra
