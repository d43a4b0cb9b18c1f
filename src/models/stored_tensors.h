// From a Hugging Face folder's tensors to the declared parameters and back, where names or forms differ:
// prefixes, parts of the model that are not computed, experts that lie in a tensor each. Called by
// model_folder.
#pragma once

#include <map>
#include <span>
#include <string>
#include <vector>

#include "formats/safetensors.h"
#include "models/model.h"

namespace vertebra {

// The declared name of a folder's tensor; empty for one that the model has no use for, by its declarations.
std::string declared_name(const StoredNames& names, const std::string& stored);

// Puts together what is declared as one and lies in several tensors, or transposed. `tensors` is by
// declared_name; it keeps what is no part of a declaration. Throws invalid_argument naming the tensor that is
// missing, or whose shape or type is not its neighbours'.
void assemble(const Model& model, std::string_view source, std::map<std::string, Tensor>& tensors);

// What is written for these parameters: the inverse of assemble.
std::vector<NamedTensor> disassemble(const Model& model, std::span<const NamedTensor> parameters);

}  // namespace vertebra
