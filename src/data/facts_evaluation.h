// The questions that a facts model is measured on, drawn from what training never shows. Owns the
// groups and how each is drawn. Called by the facts generator.
#pragma once

#include <cstdint>
#include <vector>

#include "data/facts.h"
#include "data/facts_files.h"

namespace vertebra {

// As FactsGenerator::evaluation says.
std::vector<FactsQuestion> facts_evaluation(const FactsFiles& files, int64_t per_group, uint64_t seed);

}  // namespace vertebra
