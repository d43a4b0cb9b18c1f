// The losses that a training run logged, and comparing two such curves.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <vector>

#include "base/file.h"
#include "base/json.h"

namespace vertebra {

// Of every line of the metrics.jsonl in a run's folder.
inline std::vector<double> logged_losses(const std::filesystem::path& folder) {
  std::vector<double> out;
  const std::string text = read_file(folder / "metrics.jsonl");
  for (size_t start = 0; start < text.size();) {
    const size_t end = text.find('\n', start);
    out.push_back(
        json_get<double>(parse_json(text.substr(start, end - start), "metrics"), "loss", "metrics"));
    start = end + 1;
  }
  return out;
}

inline void expect_near(const std::vector<double>& found, const std::vector<double>& wanted,
                        double tolerance) {
  ASSERT_EQ(found.size(), wanted.size());
  for (size_t i = 0; i < found.size(); ++i) EXPECT_NEAR(found[i], wanted[i], tolerance) << "step " << i + 1;
}

}  // namespace vertebra
