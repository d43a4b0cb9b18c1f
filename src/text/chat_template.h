// Chat templates: a conversation becomes the text that the model reads, the way transformers'
// apply_chat_template does it. Says which bytes are the assistant's own, for the loss mask of SFT.
// Used by align/sft (training), engine and cli (serving). Token ids are the tokenizer's business.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "text/conversation.h"
#include "text/jinja.h"

namespace vertebra {

using Span = jinja::Span;

struct ChatTemplateOptions {
  bool add_generation_prompt = false;
  // The text of the special tokens; a template sees those that are set.
  std::optional<std::string> bos_token;
  std::optional<std::string> eos_token;
  Json tools;                   // list of JSON schemas, or null
  Json documents;               // list of {"title", "text"}, or null
  Json extra = Json::object();  // more variables (enable_thinking, ...); may not name the ones above
  // The field of the last message (mostly "content") whose text the model is to continue: the rendering ends
  // with it. Not together with add_generation_prompt.
  std::optional<std::string> continue_field;
  std::optional<int64_t> now_unix_s;  // what strftime_now shows, in UTC; without it the local time
};

// What a JSON object says about a rendering beside its "messages": tools, documents, add_generation_prompt,
// continue_final_message (true, or the name of the field to continue), bos_token, eos_token; anything else is
// a variable of the template. What it does not say is as in `defaults`.
ChatTemplateOptions read_template_options(const Json& object, ChatTemplateOptions defaults,
                                          std::string_view source);

struct RenderedChat {
  std::string text;
  // Bytes of `text` that {% generation %} blocks wrote: what the assistant said, with what the
  // template counts as its end. Empty for a template without such blocks.
  std::vector<Span> assistant_spans;
};

class ChatTemplate {
 public:
  // `name` (the file, mostly) stands in errors. Throws invalid_argument with line and reason.
  static ChatTemplate parse(std::string source, std::string name);

  const std::string& source() const { return source_; }
  bool marks_assistant() const { return template_.has_generation_blocks(); }

  // Throws invalid_argument (a conversation the template refuses, a fault of the template) or
  // resource_exhausted (bounds of time and memory), with the template's name and line.
  std::string render(const Conversation& conversation, const ChatTemplateOptions& options = {}) const;
  RenderedChat render_with_spans(const Conversation& conversation,
                                 const ChatTemplateOptions& options = {}) const;
  // `messages`: a JSON list of messages as the OpenAI protocol has them (tool_calls, content parts). As
  // transformers does it: fields that are null are left out, and `reasoning_content`, `thinking` and
  // `reasoning` stand for each other.
  RenderedChat render_messages(const Json& messages, const ChatTemplateOptions& options = {}) const;

 private:
  std::string source_, name_;
  jinja::Template template_;
};

// ChatML (<|im_start|>role\ncontent<|im_end|>\n) with {% generation %} around each answer and its
// <|im_end|>: the template of the models we train. transformers and we read it alike.
extern const char* const kChatMlTemplate;

}  // namespace vertebra
