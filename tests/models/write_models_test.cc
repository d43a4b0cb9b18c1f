// Writes a fresh model of every architecture, and our logits of it, for transformers_test.py, which starts
// this program with the folder to write to.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "backend/cpu/cpu_backend.h"
#include "models/model_folder.h"
#include "tests/models/dense_graph.h"

namespace vertebra {
namespace {

namespace fs = std::filesystem;

TEST(WriteModels, OfEveryArchitecture) {
  const char* target = std::getenv("VERTEBRA_WRITE_MODELS");
  if (target == nullptr) GTEST_SKIP() << "only transformers_test.py asks for this";
  const auto backend = make_cpu_backend();
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
      BufferSet buffers;
      std::vector<NamedTensor> parameters;
      for (const ParameterSpec& spec : model->parameters()) {
        parameters.push_back({spec.name, initial_value(spec, 4)});
        buffers.set(spec.name, backend->upload(parameters.back().tensor));
      }
      const fs::path folder = fs::path(target) / (type + (tied ? "-tied" : "-untied"));
      fs::create_directories(folder / "logits");
      write_model_folder(folder, *model, parameters, 5);
      std::vector<int32_t> tokens;
      for (int32_t i = 0; i < 20; ++i) tokens.push_back(i * 37 % 64);
      const std::vector<NamedTensor> results = {{"tokens", Tensor::from<int32_t>({20}, tokens)},
                                                {"logits", dense_logits(*backend, *model, buffers, tokens)}};
      write_safetensors(folder / "logits" / "logits.safetensors", results);
    }
  }
}

}  // namespace
}  // namespace vertebra
