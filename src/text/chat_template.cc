// Gives the Jinja interpreter the variables that transformers gives it.
#include "text/chat_template.h"

#include "base/error.h"

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

}  // namespace

ChatTemplate ChatTemplate::parse(std::string source, std::string name) {
  ChatTemplate out;
  out.template_ = jinja::Template::parse(source, std::move(name));
  out.source_ = std::move(source);
  return out;
}

RenderedChat ChatTemplate::render_messages(const Json& messages, const ChatTemplateOptions& options) const {
  jinja::Rendering rendering = template_.render(variables_of(messages, options), options.now_unix_s);
  return {std::move(rendering.text), std::move(rendering.generation_spans)};
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
