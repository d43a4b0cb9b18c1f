// Model folders from outside are hostile: whatever is wrong with one is a single error that names it. What
// we write is read back the same.
#include "models/model_folder.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <filesystem>
#include <functional>
#include <map>

#include "backend/reference/reference.h"
#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "tests/models/dense_graph.h"

namespace vertebra {
namespace {

namespace fs = std::filesystem;

class ModelFolder : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(::testing::TempDir()) /
              fmt::format("model-folder-{}-{}", getpid(),
                          ::testing::UnitTest::GetInstance()->current_test_info()->name());
  }
  void TearDown() override { fs::remove_all(folder_); }

  void fresh(const std::string& name) {
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    for (const char* file : {"config.json", "model.safetensors"}) {
      fs::copy_file(fs::path(VERTEBRA_SOURCE_DIR) / "tests/golden/models" / name / file, folder_ / file);
      fs::permissions(folder_ / file, fs::perms::owner_all);
    }
  }
  void change_config(const std::function<void(Json&)>& change) {
    Json config = read_json_file(folder_ / "config.json");
    change(config);
    write_json_file(folder_ / "config.json", config);
  }
  void change_tensors(const std::function<void(std::vector<NamedTensor>&)>& change) {
    std::vector<NamedTensor> tensors;
    {
      const SafetensorsModel file = SafetensorsModel::open(folder_);
      for (const std::string& name : file.names()) tensors.push_back({name, file.read(name).clone()});
    }
    change(tensors);
    write_safetensors(folder_ / "model.safetensors", tensors);
  }
  static NamedTensor& named(std::vector<NamedTensor>& tensors, std::string_view name) {
    for (NamedTensor& each : tensors)
      if (each.name == name) return each;
    fail(Code::kNotFound, "the golden model lacks '{}'", name);
  }
  // Reading fails with an error that contains every one of `words`.
  void expect_refused(const std::vector<std::string>& words) {
    try {
      read_model_folder(folder_);
      FAIL() << "was read; wanted an error about " << fmt::format("{}", fmt::join(words, ", "));
    } catch (const Error& error) {
      for (const std::string& word : words)
        EXPECT_NE(std::string(error.what()).find(word), std::string::npos) << word << ": " << error.what();
      EXPECT_NE(std::string(error.what()).find(folder_.filename().string()), std::string::npos)
          << "the folder is not named: " << error.what();
    }
  }

  fs::path folder_;
};

TEST_F(ModelFolder, WrongTensorsAreNamed) {
  constexpr const char* kNorm = "model.layers.1.input_layernorm.weight";
  fresh("llama");
  change_tensors([&](auto& tensors) {
    std::erase_if(tensors, [&](const NamedTensor& each) { return each.name == kNorm; });
  });
  expect_refused({kNorm, "lack", "[24]"});

  fresh("llama");
  change_tensors([](auto& tensors) { tensors.push_back({"model.extra.weight", Tensor::scalar(1.0f)}); });
  expect_refused({"model.extra.weight", "llama"});

  fresh("llama");
  change_tensors([&](auto& tensors) { named(tensors, kNorm).tensor = Tensor::zeros({DType::kF32, {25}}); });
  expect_refused({kNorm, "[25]", "[24]"});

  fresh("llama");
  change_tensors([&](auto& tensors) { named(tensors, kNorm).tensor = Tensor::zeros({DType::kI32, {24}}); });
  expect_refused({kNorm, "i32"});

  // Same number of elements, transposed: must not be taken for the same.
  fresh("gpt2");
  change_tensors([&](auto& tensors) {
    NamedTensor& each = named(tensors, "transformer.h.0.attn.c_attn.weight");
    each.tensor = each.tensor.reshaped({48, 16});
  });
  expect_refused({"transformer.h.0.attn.c_attn.weight", "[48, 16]", "[16, 48]"});
}

TEST_F(ModelFolder, BrokenFilesAreNamed) {
  fresh("llama");
  const std::string whole = read_file(folder_ / "model.safetensors");
  for (const size_t kept : {size_t{0}, size_t{7}, size_t{100}, whole.size() / 2, whole.size() - 1}) {
    write_file_atomic(folder_ / "model.safetensors", whole.substr(0, kept));
    expect_refused({"model.safetensors"});
  }
  fs::remove(folder_ / "model.safetensors");
  expect_refused({"model.safetensors"});

  fresh("llama");
  fs::remove(folder_ / "config.json");
  expect_refused({"config.json"});
  write_file_atomic(folder_ / "config.json", "{\"model_type\": ");
  expect_refused({"config.json"});
  write_file_atomic(folder_ / "config.json", "[]");
  expect_refused({"config.json"});

  fs::remove_all(folder_);
  expect_refused({"no folder"});
}

TEST_F(ModelFolder, EveryWrongConfigKeyIsNamed) {
  const auto refused = [&](const std::string& model, const char* key, const Json& value,
                           std::vector<std::string> words = {}) {
    SCOPED_TRACE(fmt::format("{}: {} = {}", model, key, value.is_discarded() ? "absent" : value.dump()));
    fresh(model);
    change_config([&](Json& config) {
      if (value.is_discarded()) {
        config.erase(key);
      } else {
        config[key] = value;
      }
    });
    words.insert(words.end(), {key, "config.json"});
    expect_refused(words);
  };
  const Json absent = Json::parse("", nullptr, false);
  for (const char* key : {"model_type", "hidden_size", "num_hidden_layers", "num_attention_heads",
                          "intermediate_size", "vocab_size", "max_position_embeddings"}) {
    refused("llama", key, absent);
    refused("llama", key, Json::array());
  }
  for (const char* key : {"hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
                          "head_dim", "intermediate_size", "vocab_size", "max_position_embeddings"}) {
    refused("llama", key, 0);
    refused("llama", key, -8);
    refused("llama", key, "24");
    refused("llama", key, int64_t{1} << 40);
  }
  refused("llama", "num_key_value_heads", 3);
  refused("llama", "head_dim", 7);
  refused("llama", "hidden_act", "relu", {"relu"});
  const Json longrope = {{"rope_type", "longrope"}, {"short_factor", {1, 2}}, {"long_factor", {1, 2}}};
  refused("llama", "rope_parameters", {{"rope_type", "spiral"}}, {"spiral", "yarn"});
  refused("llama", "rope_parameters", {{"rope_type", "yarn"}, {"factor", 2}}, {"original_max_position"});
  refused("llama", "rope_parameters", {{"rope_type", "linear"}, {"factor", -2}}, {"factor", "-2"});
  refused("llama", "rope_parameters", {{"rope_type", "default"}, {"twist", 2}}, {"twist"});
  refused("llama", "rope_parameters", longrope, {"short_factor", "4 numbers"});
  refused("gemma3", "layer_types", {"full_attention", "mamba", "full_attention"}, {"mamba"});
  refused("gemma3", "layer_types", {"full_attention"}, {"3 names"});
  refused("gemma3", "attn_logit_softcapping", 50.0);
  refused("llama", "rms_norm_eps", "tiny");
  refused("llama", "rms_norm_eps", -1.0);
  for (const char* key : {"n_layer", "n_embd", "n_head", "n_positions", "vocab_size"}) {
    refused("gpt2", key, absent);
    refused("gpt2", key, 0);
    refused("gpt2", key, "2");
    refused("gpt2", key, int64_t{1} << 40);
  }
  refused("gpt2", "n_inner", -4);
  refused("gpt2", "n_inner", int64_t{1} << 40);
  refused("gpt2", "layer_norm_epsilon", -1.0);
  refused("gpt2", "activation_function", "relu", {"relu"});
  refused("gpt2", "add_cross_attention", true);
  fresh("llama");
  change_config([](Json& config) { config["model_type"] = "mamba"; });
  expect_refused({"mamba", "llama", "gpt2"});
}

Tensor logits_of(const LoadedModel& loaded, const std::vector<int32_t>& tokens) {
  const Graph graph = build_dense_logits(*loaded.model, static_cast<int64_t>(tokens.size()));
  std::vector<Tensor> operands;
  for (const auto& input : graph.inputs()) {
    operands.push_back(Tensor::from<int32_t>({static_cast<int64_t>(tokens.size())}, tokens));
    for (const NamedTensor& each : loaded.parameters)
      if (each.name == input.name) operands.back() = each.tensor;
  }
  return evaluate_reference(graph, operands)[0];
}

// Experts that lie in a tensor each, or transposed, are taken apart again.
TEST_F(ModelFolder, WhatWasReadIsWrittenTheSame) {
  for (const char* name : {"llama", "gpt2", "phi3", "qwen3_moe", "gpt_oss", "lfm2", "qwen3_5", "gemma4"}) {
    SCOPED_TRACE(name);
    fresh(name);
    std::map<std::string, Tensor> before;
    {
      const SafetensorsModel file = SafetensorsModel::open(folder_);
      for (const std::string& each : file.names()) before[each] = file.read(each).clone();
    }
    const LoadedModel loaded = read_model_folder(folder_);
    write_model_folder(folder_, *loaded.model, loaded.parameters, 5);
    const SafetensorsModel after = SafetensorsModel::open(folder_);
    EXPECT_EQ(after.names().size(), before.size());
    for (const std::string& each : after.names()) {
      ASSERT_TRUE(before.contains(each)) << each;
      EXPECT_TRUE(after.read(each).same_bits(before[each])) << each;
    }
  }
}

TEST_F(ModelFolder, MissingExpertsAreNamed) {
  constexpr const char* kExpert = "model.layers.0.mlp.experts.4.up_proj.weight";
  fresh("qwen3_moe");
  change_tensors([&](auto& tensors) {
    std::erase_if(tensors, [&](const NamedTensor& each) { return each.name == kExpert; });
  });
  expect_refused({kExpert, "lack", "[20, 24]"});
  fresh("qwen3_moe");
  change_tensors(
      [&](auto& tensors) { named(tensors, kExpert).tensor = Tensor::zeros({DType::kF32, {24, 20}}); });
  expect_refused({kExpert, "[24, 20]", "[20, 24]"});
}

// Vision beside text: the text's settings are nested, its tensors have a prefix, the rest is left alone.
TEST_F(ModelFolder, TheTextOfALargerModelIsRead) {
  const std::vector<int32_t> tokens = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5};
  for (const auto& [name, type, prefix] :
       std::vector<std::array<std::string, 3>>{{"gemma3", "gemma3", "language_model.model."},
                                               {"gemma4", "gemma4", "model.language_model."},
                                               {"qwen3_5", "qwen3_5", "model.language_model."},
                                               {"ministral3", "mistral3", "language_model.model."}}) {
    SCOPED_TRACE(type);
    fresh(name);
    const Tensor wanted = logits_of(read_model_folder(folder_), tokens);
    const std::string wrapper = type;
    change_config([&](Json& config) {
      const Json text = config;
      config = {{"model_type", wrapper}, {"text_config", text}, {"vision_config", {{"hidden_size", 8}}}};
    });
    const std::string at = prefix;
    change_tensors([&](auto& tensors) {
      for (NamedTensor& each : tensors) {
        if (each.name.starts_with("model.")) each.name = at + each.name.substr(6);
      }
      tensors.push_back({"model.vision_tower.weight", Tensor::scalar(1.0f)});
    });
    const LoadedModel loaded = read_model_folder(folder_);
    EXPECT_TRUE(logits_of(loaded, tokens).same_bits(wanted));
    write_model_folder(folder_, *loaded.model, loaded.parameters, 5);  // the text alone
    EXPECT_TRUE(logits_of(read_model_folder(folder_), tokens).same_bits(wanted));
    change_tensors([](auto& tensors) { tensors.push_back({"model.extra.weight", Tensor::scalar(1.0f)}); });
    expect_refused({"model.extra.weight"});
  }
}

// As files had them before transformers 5.
TEST_F(ModelFolder, OlderSpellingsMeanTheSame) {
  const std::vector<int32_t> tokens = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5};
  const auto same = [&](const std::string& name, const std::function<void(Json&)>& change) {
    SCOPED_TRACE(name);
    fresh(name);
    const Tensor wanted = logits_of(read_model_folder(folder_), tokens);
    change_config(change);
    EXPECT_TRUE(logits_of(read_model_folder(folder_), tokens).same_bits(wanted));
  };
  const auto scaling_outside = [](Json& config) {
    Json scaling = config["rope_parameters"];
    config.erase("rope_parameters");
    config["rope_theta"] = scaling["rope_theta"];
    scaling.erase("rope_theta");
    config["rope_scaling"] = scaling;
  };
  same("llama3", scaling_outside);
  same("qwen3", scaling_outside);
  same("phi3", [&](Json& config) {
    scaling_outside(config);
    Json& scaling = config["rope_scaling"];
    scaling["type"] = scaling["rope_type"];
    for (const char* key : {"partial_rotary_factor", "original_max_position_embeddings"}) {
      config[key] = scaling[key];
      scaling.erase(key);
    }
    scaling.erase("rope_type");
  });
  same("gemma3", [](Json& config) {
    config["rope_theta"] = 1e5;
    config["rope_local_base_freq"] = 1e4;
    config["rope_scaling"] = {{"rope_type", "linear"}, {"factor", 8.0}};
    config.erase("rope_parameters");
    config.erase("layer_types");
    config["sliding_window_pattern"] = 2;
  });
  same("qwen2", [](Json& config) { config.erase("layer_types"); });
  same("qwen3_moe", [](Json& config) {
    config["num_experts"] = config["num_local_experts"];
    config.erase("num_local_experts");
  });
  same("lfm2", [](Json& config) {
    config["block_ff_dim"] = config["intermediate_size"];
    config["full_attn_idxs"] = Json::array({1});
    config.erase("layer_types");
    config.erase("intermediate_size");
  });
}

TEST_F(ModelFolder, SizesThatDoNotFitTheWeightsAreNamed) {
  fresh("llama");
  change_config([](Json& config) { config["num_hidden_layers"] = 3; });
  expect_refused({"model.layers.2."});
  fresh("llama");
  change_config([](Json& config) { config["num_hidden_layers"] = 1; });
  expect_refused({"model.layers.1."});
  fresh("llama");
  change_config([](Json& config) { config["num_hidden_layers"] = 2000000000; });
  expect_refused({"num_hidden_layers"});
  fresh("llama");
  change_config([](Json& config) { config["tie_word_embeddings"] = false; });
  EXPECT_NO_THROW(read_model_folder(folder_));
  fresh("llama-tied");
  change_config([](Json& config) { config["tie_word_embeddings"] = false; });
  expect_refused({"lm_head.weight"});
}

TEST_F(ModelFolder, NamesWithoutPrefixAndHalfPrecisionAreRead) {
  fresh("gpt2");
  const LoadedModel plain = read_model_folder(folder_);
  change_tensors([](auto& tensors) {
    for (NamedTensor& each : tensors) each.name = each.name.substr(each.name.find('.') + 1);
    tensors.push_back({"h.0.attn.bias", Tensor::zeros({DType::kF32, {1, 1, 64, 64}})});
  });
  const LoadedModel bare = read_model_folder(folder_);
  for (size_t i = 0; i < plain.parameters.size(); ++i)
    EXPECT_TRUE(plain.parameters[i].tensor.same_bits(bare.parameters[i].tensor)) << plain.parameters[i].name;

  fresh("llama");
  change_tensors([](auto& tensors) {
    for (NamedTensor& each : tensors) each.tensor = each.tensor.to(DType::kBF16);
  });
  for (const auto& [name, tensor] : read_model_folder(folder_).parameters)
    EXPECT_EQ(tensor.dtype(), DType::kF32) << name;
}

TEST_F(ModelFolder, WhatIsWrittenIsReadBackTheSame) {
  for (const char* name : {"llama", "llama-tied", "gpt2"}) {
    fresh(name);
    const LoadedModel loaded = read_model_folder(folder_);
    const fs::path copy = folder_ / "copy";
    fs::create_directories(copy);
    write_model_folder(copy, *loaded.model, loaded.parameters, 5);
    const LoadedModel again = read_model_folder(copy);
    ASSERT_EQ(loaded.parameters.size(), again.parameters.size());
    for (size_t i = 0; i < loaded.parameters.size(); ++i) {
      EXPECT_EQ(loaded.parameters[i].name, again.parameters[i].name);
      EXPECT_TRUE(loaded.parameters[i].tensor.same_bits(again.parameters[i].tensor));
    }
    EXPECT_EQ(again.model->config().at("eos_token_id"), 5);
    EXPECT_EQ(read_json_file(copy / "generation_config.json").at("eos_token_id"), 5);
  }
}

// gpt-oss on the hub: 4-bit values, neighbours in a byte, and a power of two for every 32.
TEST_F(ModelFolder, MicroscaledExpertsAreReadAsTheyLie) {
  fresh("gpt_oss");
  change_config([](Json& config) {
    config["hidden_size"] = 64;
    config["intermediate_size"] = 32;
  });
  const auto model = make_model(read_json_file(folder_ / "config.json"), "test");
  std::vector<NamedTensor> tensors;
  std::map<std::string, Tensor> wanted;  // as [X, out, in]
  for (const ParameterSpec& spec : model->parameters()) {
    if (spec.shape.rank() < 3) {
      tensors.push_back({spec.name, initial_value(spec, 3)});
      continue;
    }
    const int64_t X = spec.shape[0], rows = spec.shape[1], blocks = spec.shape[2] / 32;
    Tensor values(DType::kU8, {X, rows, blocks, 16}), scales(DType::kU8, {X, rows, blocks});
    Tensor out(DType::kF32, spec.shape);
    constexpr double kValues[] = {0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6};
    for (int64_t i = 0; i < scales.elements(); ++i) scales.set(i, static_cast<double>(117 + i % 5));
    for (int64_t i = 0; i < values.elements(); ++i) {
      const int64_t byte = (37 * i + 11) % 256;
      values.set(i, static_cast<double>(byte));
      const double scale = std::ldexp(1.0, static_cast<int>(scales.at(i / 16)) - 127);
      out.set(2 * i, kValues[byte % 16] * scale);
      out.set(2 * i + 1, kValues[byte / 16] * scale);
    }
    tensors.push_back({spec.name + "_blocks", values});
    tensors.push_back({spec.name + "_scales", scales});
    wanted[spec.name] = out;
  }
  write_safetensors(folder_ / "model.safetensors", tensors);
  for (const auto& [name, tensor] : read_model_folder(folder_).parameters) {
    if (!wanted.contains(name)) continue;
    for (int64_t i = 0; i < tensor.elements(); ++i)
      ASSERT_EQ(tensor.at(i), wanted[name].at(i)) << name << " " << i;
  }
  for (const auto& [name, tensor] : read_model(folder_, WeightForm::kStored).parameters)
    EXPECT_EQ(tensor.dtype(), wanted.contains(name) ? DType::kMXFP4 : DType::kF32) << name;
  tensors.back().tensor = Tensor::zeros({DType::kU8, {1, 2, 3}});
  write_safetensors(folder_ / "model.safetensors", tensors);
  expect_refused({tensors.back().name, "[1, 2, 3]"});
}

}  // namespace
}  // namespace vertebra
