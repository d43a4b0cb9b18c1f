// How a recipe's model converses: its chat template and control tokens. Used by the tokenizer, shards and
// training stages, which must agree.
#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "recipe/stage.h"
#include "text/chat_template.h"

namespace vertebra {

inline constexpr const char* kEndOfText = "<|endoftext|>";   // between documents
inline constexpr const char* kStartOfTurn = "<|im_start|>";  // ChatML
inline constexpr const char* kEndOfTurn = "<|im_end|>";

// The table [chat]: template (a Jinja file; ChatML when missing) and end_of_turn, the token that ends an
// answer.
struct ChatSettings {
  std::filesystem::path template_file;  // empty: ChatML
  std::string end_of_turn = kEndOfTurn;
  double withhold_below = 0;
  std::vector<std::string> refusals;
  Json settings;  // as resolved, for manifests

  static ChatSettings read(const RunContext& context);
  ChatTemplate load() const;
  std::map<std::string, std::filesystem::path> files() const;
};

}  // namespace vertebra
