// Noise on questions; see facts_noise.h.
#include "data/facts_noise.h"

#include <algorithm>
#include <iterator>

#include "data/facts_table.h"

namespace vertebra {
namespace {

constexpr size_t kMinTypoLetters = 4;  // shorter words are rarely mistyped, and then past recognition

bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

const std::string& pick(const std::vector<std::string>& list, PhiloxSequence& random) {
  return list[random.below(list.size())];
}

struct Word {
  std::string text;
  bool from_slot;
};

std::vector<Word> split_words(const SlottedText& question) {
  std::vector<Word> words;
  bool inside = false;
  for (size_t i = 0; i < question.text.size(); ++i) {
    if (question.text[i] == ' ') {
      inside = false;
      continue;
    }
    if (!inside) words.push_back({"", false});
    inside = true;
    words.back().text += question.text[i];
    words.back().from_slot = words.back().from_slot || question.from_slot[i];
  }
  return words;
}

std::string join(const std::vector<Word>& words) {
  std::string out;
  for (const Word& word : words) out += (out.empty() ? "" : " ") + word.text;
  return out;
}

void lose_word(std::vector<Word>& words, const std::vector<std::string>& droppable, PhiloxSequence& random) {
  if (words.size() < 3) return;
  std::vector<size_t> loose;
  for (size_t i = 0; i < words.size(); ++i) {
    if (words[i].from_slot) continue;
    if (std::find(droppable.begin(), droppable.end(), fold_text(words[i].text, false)) != droppable.end()) {
      loose.push_back(i);
    }
  }
  if (!loose.empty())
    words.erase(words.begin() + static_cast<std::ptrdiff_t>(loose[random.below(loose.size())]));
}

void insert_filler(std::vector<Word>& words, const std::vector<std::string>& fillers,
                   PhiloxSequence& random) {
  std::vector<size_t> gaps;
  for (size_t i = 0; i <= words.size(); ++i) {
    if (i == 0 || i == words.size() || !words[i - 1].from_slot || !words[i].from_slot) gaps.push_back(i);
  }
  words.insert(words.begin() + static_cast<std::ptrdiff_t>(gaps[random.below(gaps.size())]),
               Word{pick(fillers, random), false});
}

// Each word that has a shorthand becomes one, three times in four.
void shorten_words(std::vector<Word>& words, const std::multimap<std::string, std::string>& shorthand,
                   PhiloxSequence& random) {
  for (Word& word : words) {
    if (word.from_slot) continue;
    const auto [first, last] = shorthand.equal_range(fold_text(word.text, false));
    if (first == last || !random.chance(0.75)) continue;
    const auto count = static_cast<uint64_t>(std::distance(first, last));
    word.text = std::next(first, static_cast<std::ptrdiff_t>(random.below(count)))->second;
  }
}

void mistype_name(std::vector<Word>& words, const NoiseWords& noise, PhiloxSequence& random) {
  std::vector<Word*> names;
  for (Word& word : words) {
    if (word.from_slot && word.text.size() >= kMinTypoLetters) names.push_back(&word);
  }
  if (names.empty()) return;
  std::string& name = names[random.below(names.size())]->text;
  name = mistype(name, noise, kMinTypoLetters, random);
}

char neighbour_key(char c, const std::vector<std::string>& keyboard, PhiloxSequence& random) {
  for (const std::string& row : keyboard) {
    const size_t at = row.find(lower(c));
    if (at == std::string::npos || row.size() < 2) continue;
    if (at == 0) return row[1];
    if (at + 1 == row.size()) return row[at - 1];
    return row[random.below(2) == 0 ? at - 1 : at + 1];
  }
  return c;
}

// [first, last) of the runs of at least `min_letters` ASCII letters.
std::vector<std::pair<size_t, size_t>> letter_runs(const std::string& text, size_t min_letters) {
  std::vector<std::pair<size_t, size_t>> runs;
  for (size_t i = 0; i < text.size();) {
    size_t end = i;
    while (end < text.size() && is_letter(text[end])) ++end;
    if (end - i >= std::max<size_t>(min_letters, 2)) runs.emplace_back(i, end);
    i = std::max(end, i + 1);
  }
  return runs;
}

std::string replace_marks(const std::string& text, double odd_apostrophe, double hyphen_as_space,
                          PhiloxSequence& random) {
  const bool odd = random.chance(odd_apostrophe);
  const bool space = random.chance(0.4);
  const bool hyphens = random.chance(hyphen_as_space);
  std::string out;
  for (const char c : text) {
    const char put = c == '\'' && odd ? (space ? ' ' : '\0') : c == '-' && hyphens ? ' ' : c;
    if (put != '\0' && !(put == ' ' && (out.empty() || out.back() == ' '))) out += put;
  }
  return out;
}

// Letters without their accents; case, marks and spaces stay.
std::string without_accents(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    size_t length = 1;
    while (i + length < text.size() && (static_cast<unsigned char>(text[i + length]) & 0xC0) == 0x80)
      ++length;
    const std::string character = text.substr(i, length);
    const std::string plain = length > 1 ? fold_text(character, false) : character;
    out += plain.empty() ? character : plain;
    i += length;
  }
  return out;
}

std::string end_mark(PhiloxSequence& random) {
  const uint64_t kind = random.below(100);
  return kind < 70 ? "?" : kind < 82 ? " ?" : kind < 92 ? "." : kind < 95 ? "!" : kind < 98 ? "??" : "...";
}

}  // namespace

std::string mistype(const std::string& text, const NoiseWords& words, size_t min_letters,
                    PhiloxSequence& random) {
  const auto runs = letter_runs(text, min_letters);
  if (runs.empty()) return text;
  const auto [first, last] = runs[random.below(runs.size())];
  // A doubled letter or a lost first letter is rarer in typing than a slip further in.
  const size_t at = first + (random.chance(0.15) ? 0 : 1 + random.below(last - first - 1));
  std::string out = text;
  switch (random.below(words.misspellings.empty() ? 4 : 6)) {
    case 0:
      if (at + 1 < last) {
        std::swap(out[at], out[at + 1]);
      } else {
        std::swap(out[at - 1], out[at]);
      }
      return out;
    case 1:
      return out.erase(at, 1);
    case 2:
      return out.insert(at, 1, lower(out[at]));
    case 3:
      out[at] = neighbour_key(out[at], words.keyboard, random);
      return out;
    default: {
      const auto& [right, wrong] = words.misspellings[random.below(words.misspellings.size())];
      for (size_t i = first; i + right.size() <= last; ++i) {
        bool equal = true;
        for (size_t k = 0; k < right.size(); ++k) equal = equal && lower(out[i + k]) == right[k];
        if (equal) return out.replace(i, right.size(), wrong);
      }
      return out.erase(at, 1);
    }
  }
}

std::string add_noise(const SlottedText& question, const NoiseWords& words, const NoiseShares& shares,
                      double strength, PhiloxSequence& random) {
  std::vector<Word> list = split_words(question);
  if (random.chance(shares.lost_word * strength)) lose_word(list, words.droppable, random);
  if (random.chance(shares.filler * strength) && !words.fillers.empty())
    insert_filler(list, words.fillers, random);
  if (random.chance(shares.shorthand * strength)) shorten_words(list, words.shorthand, random);
  if (random.chance(shares.name_typo * strength)) mistype_name(list, words, random);
  std::string text = join(list);
  if (random.chance(shares.typo * strength)) {
    text = mistype(text, words, kMinTypoLetters, random);
    if (random.chance(shares.second_typo)) text = mistype(text, words, kMinTypoLetters, random);
  }
  if (random.chance(shares.greeting * strength) && !words.greetings.empty()) {
    const char* between[] = {", ", " ", "! ", ". "};
    text = pick(words.greetings, random) + between[random.below(4)] + text;
  }
  if (random.chance(shares.closing * strength) && !words.closings.empty()) {
    text += (random.chance(0.5) ? ", " : " ") + pick(words.closings, random);
  }
  text =
      replace_marks(text, shares.odd_apostrophe * (0.25 + 0.75 * strength), shares.hyphen_as_space, random);
  if (random.chance(shares.plain_accents)) text = without_accents(text);
  const double letter_case = random.uniform();
  if (letter_case < shares.upper_case) {
    for (char& c : text) c = c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
  } else if (letter_case < shares.upper_case + shares.lower_case) {
    for (char& c : text) c = lower(c);
  } else {
    text = capitalise(text);
  }
  if (random.chance(shares.end_mark)) text += end_mark(random);
  return text;
}

}  // namespace vertebra
