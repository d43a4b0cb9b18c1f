// What fingers do to a question: words lost or added, greetings, typing errors, case, accents, marks.
// Owns no phrasings. Every function draws from the sequence given, so a question can be replayed.
// Called by the facts generator.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/rng.h"
#include "data/facts_grammar.h"

namespace vertebra {

// Probabilities at full strength; `example` scales the first eight by the curriculum.
struct NoiseShares {
  double typo = 0.25;        // at least one typing error
  double second_typo = 0.3;  // of these, the share with two
  double name_typo = 0.12;   // one more in a name: the words that the answer hangs on
  double shorthand = 0.15;   // words of the `shorthand` list written as in a chat
  double lost_word = 0.20;   // one of the `droppable` words is missing
  double filler = 0.12;      // one of `fillers` stands between two words
  double greeting = 0.12;    // before the question
  double closing = 0.10;     // after it
  double lower_case = 0.45;  // not scaled from here on
  double upper_case = 0.02;
  double plain_accents = 0.30;  // accents left out
  double odd_apostrophe = 0.4;  // left out, or a space for it
  double hyphen_as_space = 0.2;
  double end_mark = 0.6;  // '?', sometimes '.', '!' or two of them
};

// The words of one language that the noise is made of.
struct NoiseWords {
  std::vector<std::string> greetings, closings, fillers, droppable;  // droppable: folded
  std::vector<std::string> keyboard;                                 // rows of keys, for slips to a neighbour
  std::vector<std::pair<std::string, std::string>> misspellings;     // "kh" written "k"
  std::multimap<std::string, std::string> shorthand;                 // folded word: "you" written "u"
};

// `strength` in [0, 1] scales how often words are lost and added and keys mistyped.
std::string add_noise(const SlottedText& question, const NoiseWords& words, const NoiseShares& shares,
                      double strength, PhiloxSequence& random);

// One typing error in one word of at least `min_letters` ASCII letters: two letters swapped, one lost,
// one doubled, a neighbouring key, or a misspelling of the list. Returns the text unchanged when it has
// no such word.
std::string mistype(const std::string& text, const NoiseWords& words, size_t min_letters,
                    PhiloxSequence& random);

}  // namespace vertebra
