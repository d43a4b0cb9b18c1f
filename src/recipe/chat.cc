#include "recipe/chat.h"

#include "base/error.h"
#include "base/file.h"

namespace vertebra {

ChatSettings ChatSettings::read(const RunContext& context) {
  Settings settings = context.recipe.table("chat");
  ChatSettings out;
  const std::string file = settings.text("template", "");
  if (!file.empty()) out.template_file = context.recipe.resolve(file);
  out.end_of_turn = settings.text("end_of_turn", out.end_of_turn);
  out.withhold_below = settings.number("withhold_below", 0, 0, 1);
  out.refusals = settings.texts("refusals", std::vector<std::string>{});
  require(out.withhold_below == 0 || !out.refusals.empty(),
          "{}: chat.withhold_below is set, so chat.refusals must say what is answered instead",
          context.recipe.file.string());
  settings.finish();
  out.settings = settings.resolved();
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
