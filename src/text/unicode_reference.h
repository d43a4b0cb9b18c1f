// What the library that defines tokenizer.json does not know about newer characters: ids are equal to its ids
// only where we do not know it either. Called by the normalizer and the pre-tokenizer.
#pragma once

namespace vertebra {

enum class ReferenceGap { kNormalForms, kNonspacingMarks, kMarks, kPunctuation, kControl };

// True where the library does not decompose or reorder the character, or does not see the mark, the
// punctuation or the control character that it is.
bool unknown_to_reference(char32_t code_point, ReferenceGap gap);

}  // namespace vertebra
