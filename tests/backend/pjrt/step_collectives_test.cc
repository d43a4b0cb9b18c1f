// The collectives that train/step_cost.h predicts for a training step, against those of the compiled step on
// the CPU plugins.
#include <gtest/gtest.h>

#include <map>

#include "backend/pjrt/collectives.h"
#include "tests/backend/pjrt/with_plugin.h"
#include "train/step_cost.h"

namespace vertebra {
namespace {

class StepCollectives : public WithPlugin {
 protected:
  static constexpr int64_t kVocabulary = 512, kEmbedding = 64;
  struct Bytes {
    StepCost predicted;
    std::map<std::string, double> compiled;  // by kind
  };
  static Bytes bytes_of(const Mesh& mesh, bool tied, int64_t rows = 8) {
    const Json sizes = {
        {"depth", 2}, {"embedding", kEmbedding}, {"heads", 4}, {"feed_forward", 192}, {"tied", tied}};
    const auto model = make_model(default_config("llama", sizes, kVocabulary, 128), "test");
    StepShape step;
    step.graph.rows = rows;
    step.graph.length = 32;
    step.graph.mesh = mesh;
    Bytes out;
    out.predicted = predict_step_cost(*model, step);
    const auto backend = make_pjrt_backend(
        {.plugin = file(), .device_name = "pjrt:cpu", .mesh = mesh, .cache = std::filesystem::path()});
    for (const pjrt::Collective& each :
         pjrt::collectives_of(*backend->compile(build_training_step(*model, step.graph))))
      out.compiled[each.kind] += static_cast<double>(each.bytes);
    return out;
  }
  static void expect_all_reduced(Bytes bytes, double tolerance) {
    const double predicted = collective_bytes(bytes.predicted, Collective::kAllReduce);
    EXPECT_NEAR(bytes.compiled["all-reduce"] / predicted, 1, tolerance)
        << bytes.compiled["all-reduce"] << " and " << predicted;
    EXPECT_EQ(bytes.compiled["all-gather"], 0);
  }
};

// Gradients and nothing else, but for the loss and its like.
TEST_P(StepCollectives, OverDataAreTheGradients) {
  for (const bool tied : {false, true}) expect_all_reduced(bytes_of({4, 1, 1}, tied), 1e-3);
}

// The residual stream's sums; beside them the statistics of a softmax over a cut vocabulary.
TEST_P(StepCollectives, OverTensorAreTheActivations) { expect_all_reduced(bytes_of({1, 1, 2}, false), 0.01); }

// Every matrix but the embedding, whose rows are looked up where they lie, and their gradients: whatever the
// number of rows. The CPU's compiler keeps what it gathered for the backward pass, and sums gradients whole
// before it cuts them.
TEST_P(StepCollectives, OverFsdpAreTheMatrices) {
  for (const int64_t rows : {8, 32}) {
    Bytes bytes = bytes_of({1, 4, 1}, false, rows);
    const double embedding = 4.0 * kVocabulary * kEmbedding;
    const double gathered = collective_bytes(bytes.predicted, Collective::kAllGather) / 2 - embedding,
                 scattered = collective_bytes(bytes.predicted, Collective::kReduceScatter) - embedding;
    EXPECT_NEAR(bytes.compiled["all-gather"] / gathered, 1, 0.02) << rows;
    EXPECT_NEAR((bytes.compiled["all-reduce"] + bytes.compiled["reduce-scatter"]) / scattered, 1, 0.02)
        << rows;
  }
}

VERTEBRA_WITH_CPU_PLUGINS(StepCollectives);

}  // namespace
}  // namespace vertebra
