// Gives the Jinja interpreter the variables that transformers gives it.
#include "text/chat_template.h"

#include <algorithm>
#include <iterator>

#include "base/error.h"
#include "text/jinja_text.h"

namespace vertebra {

const char* const kChatMlTemplate =
    R"({% for message in messages %}
{{ '<|im_start|>' + message['role'] + '\n' }}
{%- if message['role'] == 'assistant' %}
{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}
{%- else %}
{{- message['content'] + '<|im_end|>' }}
{%- endif %}
{{- '\n' }}
{%- endfor %}
{% if add_generation_prompt %}
{{ '<|im_start|>assistant\n' }}
{%- endif %}
)";

namespace {

Json variables_of(const Json& messages, const ChatTemplateOptions& options) {
  Json out = {{"messages", messages},
              {"tools", options.tools},
              {"documents", options.documents},
              {"add_generation_prompt", options.add_generation_prompt}};
  if (options.bos_token) out["bos_token"] = *options.bos_token;
  if (options.eos_token) out["eos_token"] = *options.eos_token;
  if (options.extra.is_null()) return out;
  require(options.extra.is_object(), "the extra variables of a chat template are not a JSON object");
  for (const auto& [name, value] : options.extra.items()) {
    require(!out.contains(name), "'{}' cannot be an extra variable of a chat template: it is set already",
            name);
    out[name] = value;
  }
  return out;
}

const char* const kReasoningFields[] = {"reasoning_content", "thinking", "reasoning"};

bool is_reasoning_field(std::string_view name) {
  return std::find(std::begin(kReasoningFields), std::end(kReasoningFields), name) !=
         std::end(kReasoningFields);
}

// A message as templates expect it: without fields that are null; its reasoning, which clients send under
// three names, under the one that most templates read and the one that gpt-oss's reads.
Json normalized_message(const Json& message, std::string_view template_name) {
  require(message.is_object(), "chat template '{}': a message is not a JSON object but {}", template_name,
          message.type_name());
  Json out = Json::object();
  const Json* reasoning = nullptr;
  for (const char* name : kReasoningFields) {
    const auto at = message.find(name);
    if (reasoning == nullptr && at != message.end() && !at->is_null()) reasoning = &*at;
  }
  if (reasoning != nullptr) out["thinking"] = *reasoning;
  for (const auto& [name, value] : message.items()) {
    if (!value.is_null()) out[name] = value;
  }
  if (reasoning != nullptr) out["reasoning_content"] = *reasoning;
  return out;
}

Json normalized_messages(const Json& messages, std::string_view template_name) {
  require(messages.is_array(), "chat template '{}': the messages are not a list but {}", template_name,
          messages.type_name());
  Json out = Json::array();
  for (const Json& message : messages) out.push_back(normalized_message(message, template_name));
  return out;
}

// Ends the text to continue; the rendering is cut there. The space tells whether the template trims.
const std::string kContinueMark = "CONTINUE_FINAL_MESSAGE_TAG ";

// Marks the end of the last message's `field` and returns the text before the mark.
std::string mark_continuation(Json& message, const std::string& field, std::string_view template_name) {
  const auto at = message.find(field);
  require(at != message.end(), "chat template '{}': the last message has no '{}' to continue", template_name,
          field);
  Json* target = &*at;
  if (at->is_array()) {
    target = nullptr;
    for (Json& part : *at) {
      if (part.is_object() && part.contains("text")) target = &part["text"];
    }
  }
  require(target != nullptr && target->is_string(),
          "chat template '{}': '{}' of the last message holds no text to continue", template_name, field);
  const std::string text = target->get<std::string>();
  *target = text + kContinueMark;
  if (!is_reasoning_field(field)) return text;
  for (const char* name : kReasoningFields) {  // whichever of its names the template reads
    if (message.contains(name) && message[name] == text) message[name] = text + kContinueMark;
  }
  return text;
}

std::string_view stripped(std::string_view text) { return jinja::rstrip(jinja::lstrip(text)); }

// Cuts the rendering at the mark.
void cut_continuation(RenderedChat& chat, std::string_view text, std::string_view template_name) {
  const std::string_view mark = stripped(kContinueMark);
  const size_t at = chat.text.rfind(mark);
  require(at != std::string::npos && chat.text.find(stripped(text)) != std::string::npos,
          "chat template '{}' does not show the end of the last message, so it cannot be continued",
          template_name);
  const bool keeps_space = chat.text.compare(at, kContinueMark.size(), kContinueMark) == 0;
  chat.text.resize(at);
  if (!keeps_space) chat.text.resize(jinja::rstrip(chat.text).size());
  for (Span& span : chat.assistant_spans) {
    span.begin = std::min(span.begin, chat.text.size());
    span.end = std::min(span.end, chat.text.size());
  }
}

}  // namespace

ChatTemplateOptions read_template_options(const Json& object, ChatTemplateOptions defaults,
                                          std::string_view source) {
  ChatTemplateOptions out = std::move(defaults);
  for (const auto& [name, value] : object.items()) {
    if (name == "messages") continue;
    if (name == "tools") {
      out.tools = value;
    } else if (name == "documents") {
      out.documents = value;
    } else if (name == "add_generation_prompt") {
      out.add_generation_prompt = json_convert<bool>(value, name, source);
    } else if (name == "continue_final_message") {
      if (value.is_string()) {
        out.continue_field = value.get<std::string>();
      } else if (json_convert<bool>(value, name, source)) {
        out.continue_field = "content";
      }
    } else if (name == "bos_token") {
      out.bos_token = json_convert<std::string>(value, name, source);
    } else if (name == "eos_token") {
      out.eos_token = json_convert<std::string>(value, name, source);
    } else {
      out.extra[name] = value;
    }
  }
  return out;
}

ChatTemplate ChatTemplate::parse(std::string source, std::string name) {
  ChatTemplate out;
  out.template_ = jinja::Template::parse(source, name);
  out.source_ = std::move(source);
  out.name_ = std::move(name);
  return out;
}

RenderedChat ChatTemplate::render_messages(const Json& messages, const ChatTemplateOptions& options) const {
  Json normalized = normalized_messages(messages, name_);
  std::string continued;
  if (options.continue_field) {
    require(!normalized.empty(), "chat template '{}': there is no last message to continue", name_);
    require(!options.add_generation_prompt,
            "chat template '{}': a rendering either continues the last message or opens an answer "
            "(add_generation_prompt), not both",
            name_);
    continued = mark_continuation(normalized.back(), *options.continue_field, name_);
  }
  jinja::Rendering rendering = template_.render(variables_of(normalized, options), options.now_unix_s);
  RenderedChat out{std::move(rendering.text), std::move(rendering.generation_spans)};
  if (options.continue_field) cut_continuation(out, continued, name_);
  return out;
}

RenderedChat ChatTemplate::render_with_spans(const Conversation& conversation,
                                             const ChatTemplateOptions& options) const {
  Json messages = Json::array();
  for (const Message& message : conversation.messages) {
    messages.push_back({{"role", message.role}, {"content", message.content}});
  }
  return render_messages(messages, options);
}

std::string ChatTemplate::render(const Conversation& conversation, const ChatTemplateOptions& options) const {
  return render_with_spans(conversation, options).text;
}

}  // namespace vertebra
