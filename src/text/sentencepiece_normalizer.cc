// One pass over the text, prefix by prefix; see sentencepiece_normalizer.h.
#include "text/sentencepiece_normalizer.h"

#include "text/token_model.h"
#include "text/unicode.h"

namespace vertebra {
SentencePieceNormalizer::SentencePieceNormalizer(const SentencePieceSpec& spec, const std::string& source)
    : spec_(spec) {
  if (!spec.charsmap.empty()) charsmap_ = std::make_unique<const Charsmap>(spec.charsmap, source);
  for (size_t i = 0; i < spec.user_defined.size(); ++i) user_defined_.add(spec.user_defined[i], i);
}

std::string_view SentencePieceNormalizer::map_front(std::string_view text, size_t* consumed) const {
  if (const auto match = user_defined_.match_at(text, 0)) {
    *consumed = match->end;
    return text.substr(0, match->end);
  }
  if (charsmap_ != nullptr) {
    if (const auto match = charsmap_->longest(text)) {
      *consumed = match->length;
      return match->replacement;
    }
  }
  const Utf8Char c = decode_utf8(text.data(), text.data() + text.size());
  *consumed = static_cast<size_t>(c.length);
  return c.valid ? text.substr(0, *consumed) : std::string_view("\xEF\xBF\xBD");
}

std::string SentencePieceNormalizer::apply(std::string_view text) const {
  const std::string_view space = spec_.escape_whitespaces ? kSpaceSymbol : " ";
  size_t consumed = 0;
  if (spec_.remove_extra_whitespaces) {
    while (!text.empty() && map_front(text, &consumed) == " ") text.remove_prefix(consumed);
  }
  std::string out;
  if (text.empty()) return out;
  out.reserve(text.size() + text.size() / 2);
  if (spec_.add_dummy_prefix && !spec_.treat_whitespace_as_suffix) out += space;
  bool after_space = spec_.remove_extra_whitespaces;
  while (!text.empty()) {
    std::string_view mapped = map_front(text, &consumed);
    text.remove_prefix(consumed);
    while (after_space && mapped.starts_with(' ')) mapped.remove_prefix(1);
    if (mapped.empty()) continue;
    for (const char c : mapped) {
      if (c == ' ') {
        out += space;
      } else {
        out += c;
      }
    }
    after_space = spec_.remove_extra_whitespaces && mapped.ends_with(' ');
  }
  if (spec_.remove_extra_whitespaces) {
    while (std::string_view(out).ends_with(space)) out.resize(out.size() - space.size());
  }
  if (spec_.add_dummy_prefix && spec_.treat_whitespace_as_suffix) out += space;
  return out;
}

}  // namespace vertebra
