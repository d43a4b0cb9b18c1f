// Models against transformers: tests/golden/models, made by tools/golden/models.py, through the CPU backend
// and the reference evaluation.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "backend/cpu/cpu_backend.h"
#include "backend/reference/reference.h"
#include "base/json.h"
#include "engine/engine.h"
#include "models/model_folder.h"
#include "tests/models/dense_graph.h"
#include "train/train_graph.h"

namespace vertebra {
namespace {

namespace fs = std::filesystem;
using Ids = std::vector<int32_t>;
using Tensors = std::map<std::string, Tensor>;

constexpr int64_t kRows = 2, kLength = 16;  // of the golden batch

class GoldenModels : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    folder_ = fs::path(VERTEBRA_SOURCE_DIR) / "tests/golden/models" / GetParam();
    golden_ = read_json_file(folder_ / "golden.json");
    const SafetensorsModel file = SafetensorsModel::open(folder_ / "golden.safetensors");
    for (const std::string& name : file.names()) wanted_[name] = file.read(name);
    LoadedModel loaded = read_model_folder(folder_);
    model_ = std::move(loaded.model);
    for (const auto& [name, tensor] : loaded.parameters) inputs_[name] = tensor;
  }

  // The batch, and everything that the training graphs want beside parameters.
  void add_training_inputs() {
    const Json& batch = golden_.at("batch");
    int64_t labels = 0;
    for (const char* field : {"tokens", "labels", "segments", "positions"}) {
      Ids values;
      for (const Json& row : batch.at(field))
        for (const Json& value : row) values.push_back(value.get<int32_t>());
      inputs_[fmt::format("batch/{}", field)] = Tensor::from<int32_t>({kRows, kLength}, values);
      if (std::string_view(field) != "labels") continue;
      for (const int32_t label : values) labels += label >= 0;
    }
    inputs_[inputs::kLossScale] = Tensor::scalar(1.0f / static_cast<float>(labels));
    labels_ = static_cast<double>(labels);
    const auto rate = golden_.at("optimizer").at("learning_rate").get<float>();
    inputs_[inputs::kLearningRate] = inputs_[inputs::kMatrixLearningRate] = Tensor::scalar(rate);
    inputs_[inputs::kStep] = Tensor::scalar(1.0f);
    inputs_[inputs::kNormLimit] = Tensor::scalar(1e30f);
    for (const ParameterSpec& spec : model_->parameters()) {
      for (const char* state : {"gradient/", "m/", "v/"})
        inputs_[state + spec.name] = Tensor::zeros({DType::kF32, spec.shape});
    }
  }

  TrainGraphOptions training_options() const {
    const Json& o = golden_.at("optimizer");
    TrainGraphOptions options;
    options.rows = kRows;
    options.length = kLength;
    options.clip_norm = o.at("clip_norm").get<double>();
    options.optimizer.beta1 = o.at("beta1").get<double>();
    options.optimizer.beta2 = o.at("beta2").get<double>();
    options.optimizer.epsilon = o.at("epsilon").get<double>();
    options.optimizer.weight_decay = o.at("weight_decay").get<double>();
    return options;
  }

  Tensors run_reference(const Graph& graph) const {
    std::vector<Tensor> operands;
    for (const auto& input : graph.inputs()) operands.push_back(inputs_.at(input.name));
    const std::vector<Tensor> results = evaluate_reference(graph, operands);
    Tensors out;
    for (size_t i = 0; i < results.size(); ++i) out[graph.outputs()[i].name] = results[i];
    return out;
  }

  Tensors run_cpu(const Graph& graph) {
    BufferSet buffers;
    for (const auto& input : graph.inputs())
      buffers.set(input.name, backend_->upload(inputs_.at(input.name)));
    BoundExecutable executable(*backend_, graph, buffers);
    executable.run();
    Tensors out;
    for (const auto& output : graph.outputs()) out[output.name] = buffers.at(output.name).to_host();
    return out;
  }

  // Within `share` of the largest wanted number.
  static void expect_close(const Tensor& found, const Tensor& wanted, double share, const std::string& what) {
    ASSERT_EQ(found.shape(), wanted.shape()) << what;
    double largest = 1e-6;
    for (int64_t i = 0; i < wanted.elements(); ++i) largest = std::max(largest, std::abs(wanted.at(i)));
    for (int64_t i = 0; i < wanted.elements(); ++i)
      ASSERT_NEAR(found.at(i), wanted.at(i), share * largest) << what << " element " << i;
  }

  void expect_gradients(const Tensors& found) {
    double largest = 0;
    for (const auto& [name, tensor] : wanted_) {
      if (!name.starts_with("gradient/")) continue;
      for (int64_t i = 0; i < tensor.elements(); ++i) largest = std::max(largest, std::abs(tensor.at(i)));
    }
    for (const ParameterSpec& spec : model_->parameters()) {
      const std::string name = gradient_name(spec.name);
      ASSERT_TRUE(found.contains(name) && wanted_.contains(name)) << name;
      const Tensor& a = found.at(name);
      const Tensor& b = wanted_.at(name);
      ASSERT_EQ(a.shape(), b.shape()) << name;
      for (int64_t i = 0; i < a.elements(); ++i)
        ASSERT_NEAR(a.at(i), b.at(i), 1e-4 * largest) << name << " element " << i;
    }
    const double loss = found.at(outputs::kLoss).at(0) / labels_;
    EXPECT_NEAR(loss, golden_.at("losses").at(0).get<double>(), 1e-4);
  }

  fs::path folder_;
  Json golden_;
  Tensors wanted_, inputs_;
  double labels_ = 0;
  std::unique_ptr<Model> model_;
  ThreadTeam team_{2};
  std::unique_ptr<Backend> backend_ = make_cpu_backend({.team = &team_, .isa = {}});
};

// Those of them whose golden files hold gradients, and loss curves.
class GoldenGradients : public GoldenModels {};
class GoldenCurves : public GoldenModels {};

TEST_P(GoldenModels, LogitsAreThoseOfTransformers) {
  for (size_t i = 0; i < golden_.at("sequences").size(); ++i) {
    const auto tokens = golden_.at("sequences").at(i).get<Ids>();
    inputs_["tokens"] = Tensor::from<int32_t>({static_cast<int64_t>(tokens.size())}, tokens);
    const Graph graph = build_dense_logits(*model_, static_cast<int64_t>(tokens.size()));
    const Tensor& wanted = wanted_.at(fmt::format("logits/{}", i));
    expect_close(run_cpu(graph).at("logits"), wanted, 1e-4, fmt::format("cpu, sequence {}", i));
    expect_close(run_reference(graph).at("logits"), wanted, 1e-5, fmt::format("reference, sequence {}", i));
  }
}

TEST_P(GoldenGradients, LossAndGradientsAreThoseOfPyTorch) {
  add_training_inputs();
  const Graph graph = build_accumulation_step(*model_, training_options());
  {
    SCOPED_TRACE("cpu");
    expect_gradients(run_cpu(graph));
  }
  SCOPED_TRACE("reference");
  expect_gradients(run_reference(graph));
}

TEST_P(GoldenCurves, TenStepsOfAdamWLoseWhatPyTorchLoses) {
  add_training_inputs();
  BufferSet buffers;
  const Graph graph = build_training_step(*model_, training_options());
  for (const auto& input : graph.inputs()) buffers.set(input.name, backend_->upload(inputs_.at(input.name)));
  BoundExecutable executable(*backend_, graph, buffers);
  const auto losses = golden_.at("losses").get<std::vector<double>>();
  const auto norms = golden_.at("gradient_norms").get<std::vector<double>>();
  ASSERT_EQ(losses.size(), 10u);
  for (size_t step = 0; step < losses.size(); ++step) {
    buffers.at(inputs::kStep).copy_from(Tensor::scalar(static_cast<float>(step + 1)));
    executable.run();
    EXPECT_NEAR(buffers.at(outputs::kLoss).to_host().at(0) / labels_, losses[step], 1e-4) << "step " << step;
    EXPECT_NEAR(buffers.at(outputs::kGradientNorm).to_host().at(0), norms[step], 1e-3 * norms[step])
        << "step " << step;
  }
}

TEST_P(GoldenModels, GreedyTextIsThatOfTransformers) {
  BufferSet parameters;
  for (const auto& [name, tensor] : inputs_) parameters.set(name, backend_->upload(tensor));
  Engine engine(*backend_, *model_, parameters, {.tokens_per_step = 8, .page_size = 4});
  std::vector<GenerationRequest> requests;
  for (const Json& text : golden_.at("greedy")) {
    requests.emplace_back().prompt = text.at("prompt").get<Ids>();
    requests.back().max_tokens = static_cast<int64_t>(text.at("tokens").size());
  }
  // One after the other, then both at once, their chunks and steps mixed.
  std::vector<GenerationResult> results;
  for (const GenerationRequest& request : requests) results.push_back(engine.generate({request})[0]);
  for (GenerationResult& result : engine.generate(requests)) results.push_back(std::move(result));
  for (size_t i = 0; i < results.size(); ++i) {
    Ids found;
    for (const GeneratedToken& token : results[i].tokens) found.push_back(token.id);
    EXPECT_EQ(found, golden_.at("greedy").at(i % requests.size()).at("tokens").get<Ids>()) << i;
  }
}

std::string test_name(const testing::TestParamInfo<const char*>& each) {
  std::string name = each.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

constexpr const char* kModels[] = {"llama",      "llama-tied", "llama3",  "gpt2",          "mistral",
                                   "ministral3", "qwen2",      "qwen3",   "gemma3",        "phi3",
                                   "smollm3",    "olmo2",      "granite", "qwen3_moe",     "gpt_oss",
                                   "lfm2",       "qwen3_5",    "gemma4",  "gemma4-experts"};
INSTANTIATE_TEST_SUITE_P(Transformers, GoldenModels, testing::ValuesIn(kModels), test_name);
INSTANTIATE_TEST_SUITE_P(Transformers, GoldenGradients,
                         testing::Values("llama", "llama-tied", "gpt2", "qwen3", "gemma3"), test_name);
INSTANTIATE_TEST_SUITE_P(Transformers, GoldenCurves,
                         testing::Values("llama", "llama-tied", "llama3", "gpt2", "mistral", "ministral3",
                                         "qwen2", "qwen3", "gemma3", "smollm3", "olmo2", "granite",
                                         "qwen3_moe", "gpt_oss", "lfm2"),
                         test_name);

}  // namespace
}  // namespace vertebra
