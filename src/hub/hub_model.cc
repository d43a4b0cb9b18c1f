#include "hub/hub_model.h"

#include <algorithm>

#include "base/error.h"

namespace vertebra {
namespace {

constexpr std::string_view kPrefix = "hf:";
constexpr size_t kLongestPart = 96;  // the hub's own limit for a name

bool is_word_character(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' ||
         c == '-';
}

// "--" joins ORG and NAME in folder names, and the hub forbids it too.
bool is_name(std::string_view text) {
  return !text.empty() && text.size() <= kLongestPart &&
         std::all_of(text.begin(), text.end(), is_word_character) &&
         text.find("..") == std::string_view::npos && text.find("--") == std::string_view::npos &&
         text.front() != '.' && text.front() != '-' && text.back() != '.' && text.back() != '-';
}

bool is_path_of_words(std::string_view text) {
  return !text.empty() && text.size() <= 255 &&
         std::all_of(text.begin(), text.end(), [](char c) { return is_word_character(c) || c == '/'; }) &&
         text.front() != '/' && text.front() != '.' && text.front() != '-' && text.back() != '/' &&
         text.find("..") == std::string_view::npos && text.find("//") == std::string_view::npos;
}

}  // namespace

bool is_hub_model(std::string_view text) { return text.starts_with(kPrefix); }

bool is_commit(std::string_view text) {
  return text.size() == 40 && std::all_of(text.begin(), text.end(), [](char c) {
           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
         });
}

std::string folder_name(const HubModel& model) {
  const size_t slash = model.repository.find('/');
  return model.repository.substr(0, slash) + "--" + model.repository.substr(slash + 1);
}

HubModel parse_hub_model(std::string_view text) {
  require(is_hub_model(text), "'{}' is no model on the hub: hf:ORG/NAME was wanted", text);
  HubModel out;
  std::string_view rest = text.substr(kPrefix.size());
  if (const size_t colon = rest.find(':'); colon != std::string_view::npos) {
    out.choice = rest.substr(colon + 1);
    rest = rest.substr(0, colon);
    require(is_path_of_words(out.choice),
            "'{}': after ':' a quantization (Q4_K_M) or the name of a GGUF file was wanted, '{}' was found",
            text, out.choice);
  }
  if (const size_t at = rest.find('@'); at != std::string_view::npos) {
    out.revision = rest.substr(at + 1);
    rest = rest.substr(0, at);
    require(is_path_of_words(out.revision),
            "'{}': after '@' a branch, a tag or a commit was wanted, '{}' was found", text, out.revision);
  }
  const size_t slash = rest.find('/');
  require(
      slash != std::string_view::npos && is_name(rest.substr(0, slash)) && is_name(rest.substr(slash + 1)),
      "'{}' names no model on the hub: hf:ORG/NAME was wanted, with @REVISION or :Q4_K_M behind it if need "
      "be",
      text);
  out.repository = rest;
  return out;
}

std::string HubModel::to_string() const {
  return fmt::format("{}{}{}{}", kPrefix, repository, revision == "main" ? "" : "@" + revision,
                     choice.empty() ? "" : ":" + choice);
}

}  // namespace vertebra
