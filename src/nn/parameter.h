// Parameters of a model, declared once: name (as in safetensors), shape, axes, initialiser. Loader,
// initialiser, optimizer groups, sharding and counts derive from the declarations.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tensor/tensor.h"

namespace vertebra {

// What an axis of a parameter is, for sharding.
enum class Axis { kVocabulary, kEmbedding, kHeads, kKeyValueHeads, kFeedForward, kPosition, kExpert, kNone };

// What a parameter does, for optimizer groups: hidden matrices go to Muon; vectors are not decayed.
enum class Role { kEmbedding, kHead, kMatrix, kVector };

struct Initializer {
  enum class Kind { kNormal, kZeros, kOnes } kind = Kind::kNormal;
  double deviation = 0.02;  // of kNormal

  static Initializer normal(double deviation) { return {Kind::kNormal, deviation}; }
  static Initializer zeros() { return {Kind::kZeros, 0}; }
  static Initializer ones() { return {Kind::kOnes, 0}; }
};

// How a parameter lies in a Hugging Face folder.
struct StoredForm {
  enum class Kind {
    kSame,
    kStack,      // slice i along the first axis is a tensor of its own: `name`, in which {} stands for i
    kTransposed  // its last two axes the other way round
  } kind = Kind::kSame;
  std::string name = {};  // of kStack
};

struct ParameterSpec {
  std::string name;
  Shape shape;
  std::vector<Axis> axes;  // one per dimension
  Role role = Role::kMatrix;
  Initializer initializer;
  StoredForm stored = {};
};

// The initial value, f32: depends on (seed, name, shape) alone.
Tensor initial_value(const ParameterSpec& spec, uint64_t seed);

int64_t count_parameters(const std::vector<ParameterSpec>& specs);

}  // namespace vertebra
