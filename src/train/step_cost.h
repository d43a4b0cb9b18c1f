// What a training step costs on a mesh of chips, on paper: parameters, FLOPs, memory, bytes between chips.
// The arithmetic is derived in docs/scaling.md; nothing runs. Called by `vertebra plan`, which turns costs
// into times.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "models/model.h"
#include "models/sharding.h"
#include "train/train_graph.h"

namespace vertebra {

// "data=2,fsdp=4"; axes left out are 1. Throws invalid_argument naming the part.
Mesh parse_mesh(std::string_view text);

// What a step consists of.
struct StepShape {
  TrainGraphOptions graph;   // rows: of a micro-batch, over all chips of the mesh
  int64_t accumulation = 1;  // micro-batches
  // The chip takes no scatter: the embedding's gradient is a product with a one-hot matrix, in f32.
  bool one_hot_gradient = false;
};

enum class Collective { kAllReduce, kAllGather, kReduceScatter };
std::string_view collective_name(Collective kind);  // "all-reduce", ...

// One kind of traffic of a step, of one chip.
struct CollectiveCost {
  Collective kind;
  std::string_view what;  // "gradients over data"
  int64_t ways = 1;       // chips that take part
  int64_t stride = 1;     // distance of neighbours among them in the numbering of chips
  // Of the whole arrays: what all-gather gives, what the others take; summed over the step.
  double bytes = 0;
};

// Bytes of one chip.
struct StepMemory {
  double parameters = 0;         // f32
  double gradients = 0;          // f32, of the whole step, and of the micro-batch that is added to them
  double optimizer = 0;          // f32
  double weights = 0;            // gathered or rounded copies of two layers, or of the embedding
  double activations = 0;        // kept for the backward pass, with or without rematerialisation
  double attention = 0;          // T x T matrices of the decomposition
  double logits = 0;             // of a micro-batch, and their gradient
  double other_activations = 0;  // `activations`, had rematerialisation been chosen the other way
  double other_attention = 0;
  double total() const {
    return parameters + gradients + optimizer + weights + activations + attention + logits;
  }
};

struct StepCost {
  int64_t parameters = 0;  // of the model
  double tokens = 0;       // of a step, all chips
  double model_flops =
      0;  // 6 N + 6 L H D T a token (models/model.h), all chips; shares of the peak refer to it
  double chip_flops = 0;      // done by one chip, in the products' precision: what is recomputed included
  double chip_f32_flops = 0;  // done by one chip in f32 whatever the precision: one-hot gradient
  double chip_memory_traffic = 0;  // bytes between one chip and its memory, a lower bound
  StepMemory memory;
  std::vector<CollectiveCost> collectives;
};
// Throws invalid_argument naming what the mesh does not divide: rows, heads, a parameter's axis.
StepCost predict_step_cost(const Model& model, const StepShape& step);

// The sum of CollectiveCost::bytes of a kind: what a compiled module's collectives of one chip add up to.
double collective_bytes(const StepCost& cost, Collective kind);

// Bytes that one chip sends for a collective, by a ring: inside groups of `link_chips` neighbouring chips
// over their links, the rest over the network between groups.
struct WireBytes {
  double links = 0, network = 0;
};
WireBytes wire_bytes(const CollectiveCost& cost, int64_t link_chips);

}  // namespace vertebra
