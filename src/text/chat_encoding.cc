#include "text/chat_encoding.h"

#include <algorithm>

#include "base/error.h"

namespace vertebra {
namespace {

// Stands for the first byte of control tokens ('<', mostly) in what messages contain, so that nothing a
// user types can become one on its way through the template. Two private-use characters: one that templates
// have no reason to touch, and one that tells which byte it was (U+E100 + byte).
const std::string kEscape = "\xEE\x80\x80";  // U+E000

std::string escape_of(unsigned char byte) {
  const unsigned int code = 0xE100u + byte;
  std::string out = kEscape;
  out += static_cast<char>(0xE0u | (code >> 12));
  out += static_cast<char>(0x80u | ((code >> 6) & 0x3Fu));
  out += static_cast<char>(0x80u | (code & 0x3Fu));
  return out;
}

void replace_all(std::string& text, const std::string& from, const std::string& to) {
  for (size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size()))
    text.replace(at, from.size(), to);
}

}  // namespace

ChatEncoder::ChatEncoder(Tokenizer tokenizer, ChatTemplate chat_template)
    : tokenizer_(std::move(tokenizer)), template_(std::move(chat_template)) {
  for (int32_t id = 0; id < tokenizer_.vocab_size(); ++id) {
    if (!tokenizer_.is_special(id)) continue;
    std::string spelling = tokenizer_.token_spelling(id);
    if (spelling.empty() || static_cast<unsigned char>(spelling[0]) >= 0x80) continue;
    first_bytes_.insert(static_cast<unsigned char>(spelling[0]));
    control_tokens_.emplace_back(std::move(spelling), id);
  }
  std::sort(control_tokens_.begin(), control_tokens_.end(), [](const auto& a, const auto& b) {
    return a.first.size() != b.first.size() ? a.first.size() > b.first.size() : a.first < b.first;
  });
}

std::string ChatEncoder::escaped(std::string text) const {
  for (const unsigned char byte : first_bytes_)
    replace_all(text, std::string(1, static_cast<char>(byte)), escape_of(byte));
  return text;
}

std::string ChatEncoder::unescaped(std::string text) const {
  for (const unsigned char byte : first_bytes_)
    replace_all(text, escape_of(byte), std::string(1, static_cast<char>(byte)));
  return text;
}

std::vector<std::pair<std::string, int32_t>>::const_iterator ChatEncoder::find_control_token(
    std::string_view text) const {
  if (!first_bytes_.contains(static_cast<unsigned char>(text[0]))) return control_tokens_.end();
  return std::find_if(control_tokens_.begin(), control_tokens_.end(),
                      [&](const auto& each) { return text.starts_with(each.first); });
}

// Appends the ids of rendered text: control tokens where they are spelled out, ordinary text between.
void ChatEncoder::append(std::string_view text, std::vector<int32_t>& out) const {
  size_t plain = 0;
  const auto flush = [&](size_t end) {
    if (end == plain) return;
    const auto ids = tokenizer_.encode(unescaped(std::string(text.substr(plain, end - plain))), false, false);
    out.insert(out.end(), ids.begin(), ids.end());
  };
  for (size_t at = 0; at < text.size();) {
    const auto found = find_control_token(text.substr(at));
    if (found == control_tokens_.end()) {
      ++at;
      continue;
    }
    flush(at);
    out.push_back(found->second);
    at += found->first.size();
    plain = at;
  }
  flush(text.size());
}

std::vector<int32_t> ChatEncoder::control_tokens_in(std::string_view text) const {
  std::vector<int32_t> out;
  for (size_t at = 0; at < text.size();) {
    const auto found = find_control_token(text.substr(at));
    if (found != control_tokens_.end()) out.push_back(found->second);
    at += found != control_tokens_.end() ? found->first.size() : 1;
  }
  return out;
}

// Rendered so that control tokens in it are the template's. Messages are escaped only where that decides
// something: a template's filters then see what was typed, as in every other program.
RenderedChat ChatEncoder::render_safely(const Conversation& conversation,
                                        const ChatTemplateOptions& options) const {
  RenderedChat plain = template_.render_with_spans(conversation, options);
  Conversation safe = conversation;
  bool differs = false;
  for (Message& message : safe.messages) {
    std::string text = escaped(message.content);
    differs |= text != message.content;
    message.content = std::move(text);
  }
  if (!differs) return plain;
  RenderedChat guarded = template_.render_with_spans(safe, options);
  return control_tokens_in(plain.text) == control_tokens_in(guarded.text) ? plain : guarded;
}

EncodedChat ChatEncoder::encode(const Conversation& conversation, const ChatTemplateOptions& options) const {
  const RenderedChat rendered = render_safely(conversation, options);
  EncodedChat out;
  const std::string_view text = rendered.text;
  const auto append_part = [&](size_t begin, size_t end, uint8_t loss) {
    append(text.substr(begin, end - begin), out.tokens);
    out.loss.resize(out.tokens.size(), loss);
  };
  size_t at = 0;
  for (const Span& span : rendered.assistant_spans) {
    append_part(at, span.begin, 0);
    append_part(span.begin, span.end, 1);
    at = span.end;
  }
  append_part(at, text.size(), 0);
  return out;
}

}  // namespace vertebra
