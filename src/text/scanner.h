// Hand-written pre-tokenizer scanners: the common GPT patterns as loops over bytes with an ASCII fast
// path. Each gives exactly the pieces of its regular expression (the oracle in the tests). Called by
// the pre-tokenizer, the tokenizer's fast path and the BPE trainer.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace vertebra {

enum class ScannerKind {
  kGpt2,    // ByteLevel with use_regex
  kSmolLm,  // Digits(individual) before kGpt2
  kLlama3,  // cl100k as first published; numbers in groups of up to three
  kQwen2,   // the same with single digits
};

// The end of the piece that begins at p < end. Pieces cover the text without gaps.
using ScanFunction = const char* (*)(const char* p, const char* end);

ScanFunction scanner(ScannerKind kind);
// The regular expression a scanner implements. kSmolLm has none of its own: that of kGpt2.
std::string_view scanner_pattern(ScannerKind kind);
// The scanner for a regular expression of a tokenizer.json, where there is one.
std::optional<ScannerKind> scanner_for_pattern(std::string_view pattern);

}  // namespace vertebra
