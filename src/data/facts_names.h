// Names of nothing: made to look like the names of a table and kept apart from them, in two halves
// that never meet, one for training and one for evaluation. Called by the facts generator.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "base/rng.h"

namespace vertebra {

enum class NameMaker : uint8_t { kSyllables = 0, kLetters = 1, kHalves = 2 };
inline constexpr std::array<const char*, 3> kNameMakers = {"syllables", "letters", "halves"};

class NameInventor {
 public:
  // `real` names are what inventions look like and must not resemble; `prefixes` are patterns such as
  // "New {}". Throws invalid_argument when fewer than 8 real names have 3 letters or more.
  NameInventor(const std::vector<std::string>& real, std::vector<std::string> prefixes);

  // A name from the training or the evaluation half (one name in ten, by a hash of its letters).
  std::string invent(NameMaker maker, bool for_evaluation, PhiloxSequence& random) const;

  static bool is_for_evaluation(const std::string& core);
  // Whether the name could be a misspelling of a real one: as near as 1 edit up to 5 letters, 2 up to 8,
  // 3 beyond (swapped neighbours count as one edit), or a word of a real name, give or take one edit.
  bool near_real(const std::string& name) const;

 private:
  struct Known {
    std::string folded;
    uint32_t letters;  // one bit per letter that occurs
    size_t max_edits;  // 0: by length of the other name
  };
  std::string core(NameMaker maker, PhiloxSequence& random) const;
  std::string from_syllables(PhiloxSequence& random) const;
  std::string from_letters(PhiloxSequence& random) const;
  std::string from_halves(PhiloxSequence& random) const;

  std::vector<std::string> words_;  // single folded words of real names, at least 3 letters
  std::vector<Known> known_;
  std::vector<std::string> prefixes_;
  std::vector<std::string> followers_;  // by pair of letters (27 x 27): the letters seen next
};

// Edits between two words: insert, delete, replace, swap neighbours; more than `limit` counts as limit + 1.
size_t edit_distance(const std::string& a, const std::string& b, size_t limit);

}  // namespace vertebra
