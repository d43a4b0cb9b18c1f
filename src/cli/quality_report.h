// What a model has lost against another, as convert --report and eval --against print it.
#pragma once

#include <filesystem>
#include <string>

#include "cli/command.h"
#include "eval/quality.h"
#include "eval/weight_sizes.h"

namespace vertebra::cli {

struct QualityReport {
  std::string reference_name, model_name, text_name, text_sha256;
  Quality quality;
  WeightSizes reference_sizes, sizes;

  Json to_json() const;
  void print() const;
};

// Opens both models on the device of `global`. `text`: a file; empty: the text that comes with the program.
// `windows`: of it, at most; 0: all.
QualityReport measure_quality(const GlobalOptions& global, const std::filesystem::path& reference,
                              const std::filesystem::path& model, const std::string& text,
                              int64_t windows = 0);

}  // namespace vertebra::cli
