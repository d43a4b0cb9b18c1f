// Reduces every supported section to a prefix and a suffix; see post_processor.h.
#include "text/post_processor.h"

#include "base/error.h"

namespace vertebra {
namespace {

constexpr int kMaxDepth = 16;

int32_t checked_id(const Json& value, int vocab_size, const std::string& source) {
  require(value.is_number_integer() && value >= 0 && value < vocab_size,
          "{}: token id {} is not an id of this vocabulary (0 to {})", source, json_line(value),
          vocab_size - 1);
  return value.get<int32_t>();
}

void parse_template(PostProcessor& out, const Json& section, int vocab_size, const std::string& source) {
  const Json pieces = json_get<Json>(section, "single", source);
  const Json specials = json_get<Json>(section, "special_tokens", source, Json::object());
  require(pieces.is_array(), "{}: 'single' of TemplateProcessing must be a list", source);
  bool after_text = false;
  std::vector<int32_t> before, after;
  for (const Json& piece : pieces) {
    require(piece.is_object(), "{}: a piece of 'single' must be an object", source);
    if (piece.contains("Sequence")) {
      require(!after_text, "{}: 'single' names the text twice", source);
      after_text = true;
      continue;
    }
    const Json token = json_get<Json>(piece, "SpecialToken", source);
    const auto name = json_get<std::string>(token, "id", source);
    const Json special = json_get<Json>(specials, name, source);
    const Json ids = json_get<Json>(special, "ids", source);
    require(ids.is_array(), "{}: 'ids' of special token '{}' must be a list", source, name);
    for (const Json& id : ids) (after_text ? after : before).push_back(checked_id(id, vocab_size, source));
  }
  require(after_text, "{}: 'single' of TemplateProcessing leaves the text out", source);
  out.prefix.insert(out.prefix.begin(), before.begin(), before.end());
  out.suffix.insert(out.suffix.end(), after.begin(), after.end());
}

void parse_into(PostProcessor& out, const Json& section, int vocab_size, const std::string& source,
                int depth) {
  require(depth <= kMaxDepth, "{}: post-processors nested too deep", source);
  const auto type = json_get<std::string>(section, "type", source);
  if (type == "ByteLevel") return;
  if (type == "Sequence") {
    const Json list = json_get<Json>(section, "processors", source);
    require(list.is_array(), "{}: 'processors' of a Sequence must be a list", source);
    for (const Json& inner : list) parse_into(out, inner, vocab_size, source, depth + 1);
  } else if (type == "TemplateProcessing") {
    parse_template(out, section, vocab_size, source);
  } else if (type == "BertProcessing" || type == "RobertaProcessing") {
    for (const char* key : {"cls", "sep"}) {
      const Json pair = json_get<Json>(section, key, source);
      require(pair.is_array() && pair.size() == 2, "{}: '{}' must be [token, id]", source, key);
      const int32_t id = checked_id(pair[1], vocab_size, source);
      if (key[0] == 'c') {
        out.prefix.insert(out.prefix.begin(), id);
      } else {
        out.suffix.push_back(id);
      }
    }
  } else {
    fail(Code::kUnimplemented,
         "{}: type '{}' is not supported; ByteLevel, TemplateProcessing, BertProcessing, RobertaProcessing "
         "and "
         "Sequence are",
         source, type);
  }
}

}  // namespace

PostProcessor PostProcessor::from_json(const Json& section, int vocab_size, std::string_view source) {
  PostProcessor out;
  if (!section.is_null()) parse_into(out, section, vocab_size, std::string(source) + ": post_processor", 0);
  return out;
}

}  // namespace vertebra
