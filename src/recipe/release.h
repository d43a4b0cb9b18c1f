// The end of a run: the released model with its birth certificate, and the report.
#pragma once

#include <filesystem>
#include <vector>

#include "recipe/run.h"
#include "recipe/stage.h"

namespace vertebra {

// Puts the last training stage's model into runs/NAME/model, its manifest naming data, recipe, scores and the
// gate's verdict. Does nothing when that is there already. Empty path when the recipe trains nothing.
std::filesystem::path release_model(const RunContext& context, const std::vector<StageOutcome>& stages);

}  // namespace vertebra
