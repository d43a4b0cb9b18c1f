// Chat templates that others have published, over many conversations, against what transformers makes of
// them: tests/golden/published_templates.json holds the conversations and four hexadecimal digits of the
// SHA-256 of each rendering, "-" where it refuses (tools/compare-templates --write). The templates are
// others' work and not here: VERTEBRA_TEMPLATES names their folder (llama.cpp's `models/templates`).
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <sstream>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/sha256.h"
#include "text/chat_template.h"

namespace vertebra {
namespace {

namespace fs = std::filesystem;

// What is rendered with each template, in the order of the hashes: every conversation with all variables.
struct Request {
  std::string name;
  Json line;
};

std::vector<Request> read_requests(const Json& golden) {
  std::vector<Request> out;
  for (const auto& [name, messages] : golden["conversations"].items()) {
    for (const auto& [kind, variables] : golden["variables"].items()) {
      Json line = {{"messages", messages}};
      line.update(golden["tokens"]);
      line.update(variables);
      out.push_back({name + " / " + kind, std::move(line)});
    }
  }
  return out;
}

std::string render(const ChatTemplate& chat, const Json& line, int64_t now_unix_s) {
  ChatTemplateOptions defaults;
  defaults.now_unix_s = now_unix_s;
  try {
    const auto options = read_template_options(line, defaults, "golden");
    return sha256_hex(chat.render_messages(line["messages"], options).text).substr(0, 4);
  } catch (const Error&) {
    return "-";
  }
}

void check_template(const fs::path& path, const Json& expected, const Json& golden,
                    const std::vector<Request>& requests) {
  const ChatTemplate chat = ChatTemplate::parse(read_file(path), path.filename().string());
  std::istringstream hashes(expected["renderings"].get<std::string>());
  for (const Request& request : requests) {
    std::string wanted;
    ASSERT_TRUE(hashes >> wanted);
    EXPECT_EQ(render(chat, request.line, golden["now"].get<int64_t>()), wanted)
        << path.filename() << ": " << request.name;
  }
}

TEST(PublishedTemplates, RenderAsTransformersDoes) {
  const char* const folder = std::getenv("VERTEBRA_TEMPLATES");
  if (folder == nullptr) {
    std::cerr
        << "SKIPPED: VERTEBRA_TEMPLATES does not name a folder of chat templates; published templates are "
           "not checked\n";
    GTEST_SKIP();
  }
  const Json golden = read_json_file(fs::path(VERTEBRA_SOURCE_DIR) / "tests/golden/published_templates.json");
  const std::vector<Request> requests = read_requests(golden);
  int checked = 0;
  for (const auto& [name, expected] : golden["templates"].items()) {
    const fs::path path = fs::path(folder) / name;
    if (!fs::exists(path) || sha256_file(path) != expected["sha256"].get<std::string>()) {
      std::cerr << "SKIPPED: " << path << " is not here, or not the one that was hashed\n";
      continue;
    }
    check_template(path, expected, golden, requests);
    ++checked;
  }
  EXPECT_GT(checked, 0);
}

// The conversations themselves are of use without any folder: the default template takes most of them.
TEST(PublishedTemplates, ConversationsRenderWithTheDefault) {
  const Json golden = read_json_file(fs::path(VERTEBRA_SOURCE_DIR) / "tests/golden/published_templates.json");
  const ChatTemplate chat = ChatTemplate::parse(kChatMlTemplate, "ChatML");
  int rendered = 0;
  const auto requests = read_requests(golden);
  for (const Request& request : requests) {
    rendered += render(chat, request.line, golden["now"].get<int64_t>()) != "-";
  }
  EXPECT_GT(rendered, static_cast<int>(requests.size()) / 2);
}

}  // namespace
}  // namespace vertebra
