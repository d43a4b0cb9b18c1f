// What a MODEL on the command line means: a path; hf:ORG/NAME, which was pulled; or the name of a folder of
// the model cache.
#pragma once

#include <filesystem>
#include <string>

namespace vertebra::cli {

// Throws not_found naming the command that brings the model. Never opens the network.
std::filesystem::path model_argument(const std::string& given);

}  // namespace vertebra::cli
