// A conversation as token ids: the chat template's rendering, tokenized so that control tokens come from
// the template alone. Called by fine-tuning (with the loss mask) and by chat and serving (prompts).
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/chat_template.h"
#include "text/conversation.h"
#include "text/tokenizer.h"

namespace vertebra {

struct EncodedChat {
  std::vector<int32_t> tokens;
  std::vector<uint8_t> loss;  // per token: 1 where the template says the assistant wrote it
};

class ChatEncoder {
 public:
  ChatEncoder(Tokenizer tokenizer, ChatTemplate chat_template);

  // What a message contains stays text, even when it spells a control token or becomes one by the template's
  // filters. Each assistant part is tokenized by itself, as it will be when the model continues a prompt.
  // Throws what the template throws. Thread-safe.
  EncodedChat encode(const Conversation& conversation, const ChatTemplateOptions& options = {}) const;

  const Tokenizer& tokenizer() const { return tokenizer_; }
  const ChatTemplate& chat_template() const { return template_; }

 private:
  std::string escaped(std::string text) const;
  std::string unescaped(std::string text) const;
  // The control token that the (non-empty) text starts with, or the end.
  std::vector<std::pair<std::string, int32_t>>::const_iterator find_control_token(
      std::string_view text) const;
  std::vector<int32_t> control_tokens_in(std::string_view text) const;
  RenderedChat render_safely(const Conversation& conversation, const ChatTemplateOptions& options) const;
  void append(std::string_view text, std::vector<int32_t>& out) const;

  Tokenizer tokenizer_;
  ChatTemplate template_;
  std::vector<std::pair<std::string, int32_t>> control_tokens_;  // by spelling, the longest first
  std::set<unsigned char> first_bytes_;                          // of the spellings
};

}  // namespace vertebra
