// The layers of src/: every quoted include of every file, checked against the folders that each folder may
// include. Adding a folder means adding its line here.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

namespace {

namespace fs = std::filesystem;

// What each folder may include beside itself. Folders inside backend/ are layers of their own: a concrete
// backend is named by cli/ and by nobody else.
const std::map<std::string, std::set<std::string>>& layers() {
  static const std::map<std::string, std::set<std::string>> out = [] {
    std::map<std::string, std::set<std::string>> may;
    // May include `direct` and all that these may include.
    const auto stands_on = [&may](const std::string& folder, const std::vector<std::string>& direct) {
      may[folder] = {};
      for (const std::string& below : direct) {
        may[folder].insert(below);
        may[folder].insert(may.at(below).begin(), may.at(below).end());
      }
    };
    stands_on("base", {});
    stands_on("tensor", {"base"});
    stands_on("graph", {"tensor"});
    stands_on("ops", {"graph"});
    stands_on("transforms", {"ops"});
    stands_on("nn", {"transforms"});
    stands_on("formats", {"tensor"});
    stands_on("models", {"nn", "formats"});
    stands_on("backend", {"graph"});
    stands_on("backend/reference", {"graph"});
    stands_on("backend/cpu/kernels", {"base"});
    stands_on("backend/cpu", {"backend", "backend/cpu/kernels", "transforms"});
    stands_on("backend/pjrt", {"backend", "transforms"});
    stands_on("text", {"base"});
    stands_on("hub", {"base"});
    stands_on("data", {"text"});
    stands_on("train", {"models", "backend", "data"});
    stands_on("engine", {"models", "backend", "text"});
    stands_on("align", {"train", "engine"});
    stands_on("eval", {"train", "engine"});
    stands_on("recipe", {"align", "eval"});
    stands_on("server", {"align", "eval"});
    stands_on("cloud", {"base"});
    stands_on("cli", {"recipe", "server", "cloud", "hub", "backend/cpu", "backend/pjrt"});
    return may;
  }();
  return out;
}

// The layer of a file or include path: its longest known folder; empty when there is none.
std::string layer_of(const fs::path& path) {
  for (fs::path folder = path.parent_path(); !folder.empty(); folder = folder.parent_path()) {
    if (layers().contains(folder.generic_string())) return folder.generic_string();
  }
  return "";
}

// The quoted includes of a source text, with their line numbers.
std::vector<std::pair<int, std::string>> quoted_includes(const std::string& text) {
  std::vector<std::pair<int, std::string>> out;
  std::istringstream lines(text);
  std::string line;
  for (int number = 1; std::getline(lines, line); ++number) {
    size_t at = line.find_first_not_of(" \t");
    if (at == std::string::npos || line[at] != '#') continue;
    at = line.find_first_not_of(" \t", at + 1);
    if (at == std::string::npos || line.compare(at, 7, "include") != 0) continue;
    const size_t open = line.find('"', at + 7), close = line.find('"', open + 1);
    if (open == std::string::npos || close == std::string::npos) continue;
    out.emplace_back(number, line.substr(open + 1, close - open - 1));
  }
  return out;
}

// One line per include of `file` (a path below src/) that climbs the layers.
std::vector<std::string> find_violations(const std::string& file, const std::string& text) {
  std::vector<std::string> out;
  const std::string from = layer_of(file);
  if (from.empty()) return {file + ": its folder has no layer; add it to tests/layers/layers_test.cc"};
  for (const auto& [line, include] : quoted_includes(text)) {
    const std::string to = layer_of(include), where = file + ":" + std::to_string(line) + ": ";
    if (to.empty()) {
      out.push_back(where + "\"" + include + "\" names no folder of src/; write it as \"text/tokenizer.h\"");
    } else if (to != from && !layers().at(from).contains(to)) {
      out.push_back(where + from + " may not include " + to + " (\"" + include + "\")");
    }
  }
  return out;
}

TEST(Layers, NoIncludeClimbs) {
  const fs::path src = fs::path(VERTEBRA_SOURCE_DIR) / "src";
  int files = 0;
  for (const auto& entry : fs::recursive_directory_iterator(src)) {
    const std::string extension = entry.path().extension().string();
    if (!entry.is_regular_file() || (extension != ".cc" && extension != ".h" && extension != ".def"))
      continue;
    std::ifstream in(entry.path());
    const std::string text((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
    for (const std::string& violation :
         find_violations(fs::relative(entry.path(), src).generic_string(), text))
      ADD_FAILURE() << violation;
    ++files;
  }
  EXPECT_GT(files, 100) << "src/ was not found where it was looked for: " << src;
}

TEST(Layers, ClimbingIncludesAreFound) {
  const auto one = [](const std::string& file, const std::string& text) {
    const std::vector<std::string> found = find_violations(file, text);
    return found.size() == 1 ? found[0] : "violations: " + std::to_string(found.size());
  };
  EXPECT_EQ(one("base/log.cc", "#include <string>\n#include \"tensor/shape.h\"\n"),
            "base/log.cc:2: base may not include tensor (\"tensor/shape.h\")");
  EXPECT_EQ(one("train/trainer.cc", "  #  include \"backend/cpu/cpu_backend.h\"\n"),
            "train/trainer.cc:1: train may not include backend/cpu (\"backend/cpu/cpu_backend.h\")");
  EXPECT_EQ(one("models/llama.cc", "#include \"backend/backend.h\""),
            "models/llama.cc:1: models may not include backend (\"backend/backend.h\")");
  EXPECT_EQ(one("backend/cpu/kernels/gemm.cc", "#include \"ops/ops.h\""),
            "backend/cpu/kernels/gemm.cc:1: backend/cpu/kernels may not include ops (\"ops/ops.h\")");
  EXPECT_EQ(one("text/regex.h", "#include \"unicode.h\""),
            "text/regex.h:1: \"unicode.h\" names no folder of src/; write it as \"text/tokenizer.h\"");
  EXPECT_EQ(one("extras/x.cc", ""),
            "extras/x.cc: its folder has no layer; add it to tests/layers/layers_test.cc");
}

TEST(Layers, FoldersBelowAreAllowed) {
  const auto count = [](const std::string& file, const std::string& include) {
    return find_violations(file, "#include \"" + include + "\"\n").size();
  };
  EXPECT_EQ(count("cli/main.cc", "backend/cpu/cpu_backend.h"), 0u);
  EXPECT_EQ(count("backend/cpu/ops/norm.cc", "backend/cpu/kernels/norm.h"), 0u);
  EXPECT_EQ(count("backend/cpu/cpu_backend.cc", "transforms/passes.h"), 0u);
  EXPECT_EQ(count("recipe/run.cc", "base/file.h"), 0u);
  EXPECT_EQ(count("ops/ops.h", "ops/registry.h"), 0u);
}

}  // namespace
