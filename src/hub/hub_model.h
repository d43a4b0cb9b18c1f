// The names of models on the hub, as MODEL takes them: hf:ORG/NAME, with @REVISION and :CHOICE behind it
// where wanted. Pure text; no network, no files.
#pragma once

#include <string>
#include <string_view>

namespace vertebra {

struct HubModel {
  std::string repository;         // "ORG/NAME"
  std::string revision = "main";  // a branch, a tag or a commit
  std::string choice;             // of GGUF repositories: "Q4_K_M", or a file's name; may be empty

  std::string to_string() const;  // as the user writes it
};

// Whether a text means the hub and no file: it begins with "hf:".
bool is_hub_model(std::string_view text);
// Throws invalid_argument saying which part is wrong.
HubModel parse_hub_model(std::string_view text);

// "ORG--NAME", as cache folders are called.
std::string folder_name(const HubModel& model);
// 40 hexadecimal digits, lower case.
bool is_commit(std::string_view text);

}  // namespace vertebra
