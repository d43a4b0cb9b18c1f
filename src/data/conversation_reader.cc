#include "data/conversation_reader.h"

#include <algorithm>

#include "base/error.h"
#include "base/json.h"

namespace vertebra {
namespace {

Conversation conversation_from_json(const Json& value, const std::string& source) {
  const Json messages = json_get<Json>(value, "messages", source);
  if (!messages.is_array() || messages.empty())
    json_field_wrong("messages", messages, "a list of at least one message", source);
  Conversation out;
  out.messages.reserve(messages.size());
  for (const Json& message : messages) {
    const std::string place = fmt::format("{}: message {}", source, out.messages.size() + 1);
    require(message.is_object(), "{} is no object; {{\"role\", \"content\"}} was wanted", place);
    Message& added = out.messages.emplace_back();
    added.role = json_get<std::string>(message, "role", place);
    added.content = json_get<std::string>(message, "content", place);
    require(added.role == "system" || added.role == "user" || added.role == "assistant",
            "{}: role '{}'; system, user or assistant was wanted", place, added.role);
    require(added.role != "system" || out.messages.size() == 1,
            "{}: a system message is only allowed first; merge it into the first one", place);
  }
  return out;
}

// Folders and archives are filtered by ending, so that a licence file beside the data is no error;
// plain files that are named directly are taken at the caller's word.
InputFormat format_for(const std::vector<std::filesystem::path>& paths) {
  const bool plain = std::all_of(paths.begin(), paths.end(), [](const std::filesystem::path& path) {
    return !std::filesystem::is_directory(path) &&
           !without_compression_suffix(path.string()).ends_with(".tar");
  });
  return plain ? InputFormat::kJsonl : InputFormat::kAuto;
}

}  // namespace

ConversationReader::ConversationReader(const std::vector<std::filesystem::path>& paths,
                                       ConversationReaderOptions options)
    : options_(options), files_(paths, format_for(paths)) {}

const ConversationReaderReport& ConversationReader::report() {
  report_.input = files_.report();
  return report_;
}

bool ConversationReader::next(Conversation& out, std::string& source) {
  for (;;) {
    if (buffer_ == nullptr) {
      if (!files_.next()) return false;
      if (files_.format() != InputFormat::kJsonl) continue;
      buffer_ = std::make_unique<StreamBuffer>(files_.stream());
      if (buffer_->ensure(3) && buffer_->view().starts_with("\xEF\xBB\xBF")) buffer_->consume(3);
    }
    const auto line = buffer_->next_line(options_.max_line_bytes, files_.name());
    if (!line.has_value()) {
      buffer_.reset();
      continue;
    }
    if (line->find_first_not_of(" \t\r") == std::string_view::npos) continue;
    source = fmt::format("{}:{}", files_.name(), buffer_->line_number());
    out = conversation_from_json(parse_json(*line, source), source);
    ++report_.conversations;
    report_.messages += static_cast<int64_t>(out.messages.size());
    return true;
  }
}

}  // namespace vertebra
