// Writes a fresh model of every architecture, and our logits of it, for transformers_test.py, which starts
// this program with the folder to write to.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "models/model_folder.h"
#include "tests/models/dense_graph.h"

namespace vertebra {
namespace {

namespace fs = std::filesystem;

// Writes the model and our logits of it.
void write(const fs::path& folder, const Model& model, const std::vector<NamedTensor>& parameters) {
  const auto backend = make_cpu_backend();
  BufferSet buffers;
  for (const NamedTensor& each : parameters) buffers.set(each.name, backend->upload(each.tensor));
  fs::create_directories(folder / "logits");
  write_model_folder(folder, model, parameters, 5);
  std::vector<int32_t> tokens;
  for (int32_t i = 0; i < 20; ++i) tokens.push_back(i * 37 % 64);
  const std::vector<NamedTensor> results = {{"tokens", Tensor::from<int32_t>({20}, tokens)},
                                            {"logits", dense_logits(*backend, model, buffers, tokens)}};
  write_safetensors(folder / "logits" / "logits.safetensors", results);
}

TEST(WriteModels, OfEveryArchitecture) {
  const char* target = std::getenv("VERTEBRA_WRITE_MODELS");
  if (target == nullptr) GTEST_SKIP() << "only transformers_test.py asks for this";
  for (const std::string& type : sizable_model_types()) {
    for (const bool tied : {false, true}) {
      Json sizes = {{"depth", 2},
                    {"embedding", 32},
                    {"heads", 4},
                    {"feed_forward", 48},
                    {"tied", tied},
                    {"key_value_heads", 2},
                    {"initializer_range", 0.2}};
      if (type == "gpt2") sizes.erase("key_value_heads");
      const auto model = make_model(default_config(type, sizes, 64, 32), "test");
      std::vector<NamedTensor> parameters;
      for (const ParameterSpec& spec : model->parameters())
        parameters.push_back({spec.name, initial_value(spec, 4)});
      write(fs::path(target) / (type + (tied ? "-tied" : "-untied")), *model, parameters);
    }
  }
  for (const auto& entry : fs::directory_iterator(fs::path(VERTEBRA_SOURCE_DIR) / "tests/golden/models")) {
    const LoadedModel loaded = read_model_folder(entry.path());
    write(fs::path(target) / ("again-" + entry.path().filename().string()), *loaded.model, loaded.parameters);
  }
}

}  // namespace
}  // namespace vertebra
