#include "recipe/chat.h"

#include "base/file.h"

namespace vertebra {

ChatSettings ChatSettings::read(const RunContext& context) {
  Settings settings = context.recipe.table("chat");
  ChatSettings out;
  const std::string file = settings.text("template", "");
  if (!file.empty()) out.template_file = context.recipe.resolve(file);
  out.end_of_turn = settings.text("end_of_turn", out.end_of_turn);
  settings.finish();
  return out;
}

ChatTemplate ChatSettings::load() const {
  if (template_file.empty()) return ChatTemplate::parse(kChatMlTemplate, "ChatML");
  return ChatTemplate::parse(read_file(template_file), template_file.string());
}

std::map<std::string, std::filesystem::path> ChatSettings::files() const {
  if (template_file.empty()) return {};
  return {{"chat_template", template_file}};
}

}  // namespace vertebra
