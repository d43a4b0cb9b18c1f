// What the library that defines tokenizer.json takes for marks, punctuation and control characters: its
// Unicode is older than ours, and ids are equal to its ids only where we see what it sees. Above U+007F only.
// Called by the normalizer and the pre-tokenizer.
#pragma once

namespace vertebra {

enum class ReferenceKind {
  kControl,
  kMark,
  kNonspacingMark,
  kNotNormalized,  // stays as it is in normal forms, though Unicode 16 decomposes or reorders it
  kPunctuation,
};

bool reference_has(char32_t code_point, ReferenceKind kind);

}  // namespace vertebra
