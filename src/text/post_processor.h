// The `post_processor` section of a tokenizer.json, for single texts: the ids put before and after
// them (a beginning-of-text token, say). Called by the tokenizer.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"

namespace vertebra {

struct PostProcessor {
  std::vector<int32_t> prefix, suffix;

  // null, ByteLevel (changes no ids), TemplateProcessing, BertProcessing, RobertaProcessing and
  // Sequence of these. Throws unimplemented or invalid_argument, naming `source`; every id must be
  // below `vocab_size`.
  static PostProcessor from_json(const Json& section, int vocab_size, std::string_view source);
};

}  // namespace vertebra
