#include "recipe/data_source.h"

#include "base/error.h"

namespace vertebra {

DataSource DataSource::read(const RunContext& context) {
  DataSource out;
  Settings settings = context.recipe.table("data");
  if (context.has_stage("facts")) {
    out.conversations = true;
  } else {
    const std::string path = settings.text("path", std::nullopt);
    out.path = context.recipe.resolve(path);
    const std::string format = settings.choice("format", "auto", {"auto", "text", "jsonl", "conversations"});
    out.conversations = format == "conversations";
    if (!out.conversations) out.documents.format = input_format_from_name(format);
    out.documents.field = settings.text("field", out.documents.field);
    out.documents.separator = settings.text("separator", out.documents.separator);
    out.documents.invalid_utf8 =
        invalid_utf8_from_name(settings.choice("invalid_utf8", "error", {"error", "keep"}));
  }
  settings.finish();
  out.settings = settings.resolved();
  return out;
}

std::filesystem::path DataSource::location(const RunContext& context) const {
  return from_facts() ? context.stage_folder("facts") / "train.jsonl" : path;
}

}  // namespace vertebra
