// The reversible spelling of byte-level BPE: each byte is written as one printable character, so that
// vocabularies are plain text (a space is U+0120). From Radford et al., "Language models are unsupervised
// multitask learners" (GPT-2, 2019). Called by the model's reader and writer; encoding works on bytes.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace vertebra {

// The character that spells `byte`.
char32_t byte_level_char(unsigned char byte);
// UTF-8 of the characters that spell `bytes`.
std::string spell_bytes(std::string_view bytes);
// The bytes spelt by `spelling`; nullopt when a character spells no byte.
std::optional<std::string> unspell_bytes(std::string_view spelling);

}  // namespace vertebra
