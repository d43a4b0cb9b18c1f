// The collectives that train/step_cost.h predicts for a training step, against those of the compiled step on
// the CPU plugins.
#include <gtest/gtest.h>

#include "backend/pjrt/collectives.h"
#include "tests/backend/pjrt/with_plugin.h"
#include "train/step_cost.h"

namespace vertebra {
namespace {

class StepCollectives : public WithPlugin {
 protected:
  struct Bytes {
    double predicted = 0, compiled = 0;
  };
  static Bytes all_reduced(const Mesh& mesh, bool tied) {
    const Json sizes = {{"depth", 2}, {"embedding", 64}, {"heads", 4}, {"feed_forward", 192}, {"tied", tied}};
    const auto model = make_model(default_config("llama", sizes, 512, 128), "test");
    StepShape step;
    step.graph.rows = 8;
    step.graph.length = 32;
    step.graph.mesh = mesh;
    Bytes out;
    out.predicted = collective_bytes(predict_step_cost(*model, step), Collective::kAllReduce);
    const auto backend = make_pjrt_backend(
        {.plugin = file(), .device_name = "pjrt:cpu", .mesh = mesh, .cache = std::filesystem::path()});
    for (const pjrt::Collective& each :
         pjrt::collectives_of(*backend->compile(build_training_step(*model, step.graph)))) {
      if (each.kind == "all-reduce") out.compiled += static_cast<double>(each.bytes);
      EXPECT_NE(each.kind, "all-gather") << "nothing is to be gathered on " << mesh.to_string();
    }
    return out;
  }
};

// Gradients and nothing else, but for the loss and its like.
TEST_P(StepCollectives, OverDataAreTheGradients) {
  for (const bool tied : {false, true}) {
    const Bytes bytes = all_reduced({4, 1, 1}, tied);
    EXPECT_NEAR(bytes.compiled / bytes.predicted, 1, 1e-3) << bytes.compiled << " and " << bytes.predicted;
  }
}

// The residual stream's sums; beside them the statistics of a softmax over a cut vocabulary.
TEST_P(StepCollectives, OverTensorAreTheActivations) {
  const Bytes bytes = all_reduced({1, 1, 2}, false);
  EXPECT_NEAR(bytes.compiled / bytes.predicted, 1, 0.01) << bytes.compiled << " and " << bytes.predicted;
}

VERTEBRA_WITH_CPU_PLUGINS(StepCollectives);

}  // namespace
}  // namespace vertebra
