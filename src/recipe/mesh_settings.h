// The recipe's table [mesh]: over how many devices, and how, training is cut. Read before the device is
// opened.
#pragma once

#include "graph/sharding.h"
#include "recipe/recipe.h"

namespace vertebra {

// One device when the recipe has no such table. Throws invalid_argument for unknown keys and numbers out of
// bounds.
Mesh read_mesh(const Recipe& recipe);

}  // namespace vertebra
