// How a model lies on a mesh: the one table from what an axis is (declared in the model files) to the mesh
// axis that it is cut along. Called by trainer and engine when they build graphs and upload parameters.
#pragma once

#include "models/model.h"

namespace vertebra {

// Of a parameter, and of all that has its shape (gradients, optimizer state).
Sharding parameter_sharding(const ParameterSpec& spec, const Mesh& mesh);
// Of a batch [B, T], and of the residual stream [B T, E]: the rows over data and fsdp.
Sharding batch_sharding(const Mesh& mesh);
// Of a cache of keys or values [pages, page size, K, D].
Sharding cache_sharding(const Mesh& mesh);

// Throws invalid_argument naming dimension, mesh axis and remedy when the mesh does not divide the model's
// heads or one of its parameters.
void check_model_fits(const Model& model, const Mesh& mesh);
// The same for the rows of a batch; `key` is what sets them ("pretrain.rows").
void check_rows_fit(int64_t rows, const Mesh& mesh, std::string_view key);

}  // namespace vertebra
