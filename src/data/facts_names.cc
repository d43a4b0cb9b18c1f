// Invented names; see facts_names.h.
#include "data/facts_names.h"

#include <algorithm>
#include <bit>
#include <set>
#include <string_view>

#include "base/error.h"
#include "data/facts_grammar.h"
#include "data/facts_table.h"

namespace vertebra {
namespace {

constexpr size_t kMinLetters = 4;
constexpr size_t kMaxLetters = 13;

uint32_t letters_of(const std::string& folded) {
  uint32_t bits = 0;
  for (const char c : folded) {
    if (c >= 'a' && c <= 'z') bits |= 1u << (c - 'a');
  }
  return bits;
}

size_t allowed_edits(size_t letters) { return letters <= 5 ? 1 : letters <= 8 ? 2 : 3; }

// '\0' stands for the outside of a word.
size_t letter_index(char c) { return c >= 'a' && c <= 'z' ? static_cast<size_t>(c - 'a') + 1 : 0; }

std::string_view choose(const auto& list, PhiloxSequence& random) {
  return list[random.below(std::size(list))];
}

}  // namespace

size_t edit_distance(const std::string& a, const std::string& b, size_t limit) {
  if (a.size() > 48 || b.size() > 48) return a == b ? 0 : limit + 1;
  if (std::max(a.size(), b.size()) - std::min(a.size(), b.size()) > limit) return limit + 1;
  std::array<std::array<uint8_t, 49>, 3> rows{};
  for (size_t j = 0; j <= b.size(); ++j) rows[0][j] = static_cast<uint8_t>(j);
  for (size_t i = 1; i <= a.size(); ++i) {
    auto& row = rows[i % 3];
    const auto& above = rows[(i + 2) % 3];
    const auto& above2 = rows[(i + 1) % 3];
    row[0] = static_cast<uint8_t>(i);
    uint8_t best = row[0];
    for (size_t j = 1; j <= b.size(); ++j) {
      int cost = std::min({above[j] + 1, row[j - 1] + 1, above[j - 1] + (a[i - 1] != b[j - 1])});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        cost = std::min(cost, above2[j - 2] + 1);
      row[j] = static_cast<uint8_t>(cost);
      best = std::min(best, row[j]);
    }
    if (best > limit + 1) return limit + 1;
  }
  return std::min<size_t>(rows[a.size() % 3][b.size()], limit + 1);
}

NameInventor::NameInventor(const std::vector<std::string>& real, std::vector<std::string> prefixes)
    : prefixes_(std::move(prefixes)), followers_(27 * 27) {
  std::set<std::string> words, whole;
  for (const std::string& name : real) {
    whole.insert(fold_text(name, false));
    const std::string spaced = fold_text(name, true) + ' ';
    for (size_t begin = 0, end; (end = spaced.find(' ', begin)) != std::string::npos; begin = end + 1) {
      if (end - begin >= 3) words.insert(spaced.substr(begin, end - begin));
    }
  }
  words_.assign(words.begin(), words.end());
  require(words_.size() >= 8,
          "{} different names of 3 letters or more are too few to invent names like them; "
          "at least 8 are needed",
          words_.size());
  for (const std::string& name : whole) known_.push_back({name, letters_of(name), 0});
  for (const std::string& word : words_) {
    if (word.size() >= 5 && !whole.contains(word)) known_.push_back({word, letters_of(word), 1});
  }
  for (const std::string& word : words_) {
    size_t a = 0, b = 0;
    for (const char c : word + '\0') {
      followers_[a * 27 + b] += c;
      a = b;
      b = letter_index(c);
    }
  }
}

bool NameInventor::is_for_evaluation(const std::string& core) {
  return stream_id(fold_text(core, false)) % 10 == 0;
}

bool NameInventor::near_real(const std::string& name) const {
  const std::string folded = fold_text(name, false);
  const uint32_t letters = letters_of(folded);
  for (const Known& known : known_) {
    const size_t limit =
        known.max_edits > 0 ? known.max_edits : allowed_edits(std::min(folded.size(), known.folded.size()));
    // Each letter that only one of the two has costs at least one edit on that side.
    if (static_cast<size_t>(std::popcount(letters & ~known.letters)) > limit ||
        static_cast<size_t>(std::popcount(known.letters & ~letters)) > limit) {
      continue;
    }
    if (edit_distance(folded, known.folded, limit) <= limit) return true;
  }
  return false;
}

std::string NameInventor::from_syllables(PhiloxSequence& random) const {
  static constexpr std::string_view kOnsets[] = {"b",  "d",  "f",  "g",  "k",  "l",  "m",  "n",  "p",  "r",
                                                 "s",  "t",  "v",  "z",  "br", "dr", "gr", "kr", "tr", "st",
                                                 "sh", "th", "ch", "pl", "bl", "gl", "w",  "y",  "j",  "h",
                                                 "qu", "kh", "sl", "",   "",   "fr", "sk", "vl", "zh", "sp"};
  static constexpr std::string_view kVowels[] = {"a", "a",  "e",  "e",  "i",  "i",  "o",  "o", "u",
                                                 "y", "ai", "ou", "ia", "eo", "au", "oo", "ei"};
  static constexpr std::string_view kCodas[] = {"",  "",  "",   "",   "",   "n",  "r", "l", "s", "m",
                                                "t", "x", "nd", "rk", "lt", "ss", "k", "p", "d", "z"};
  std::string name;
  const uint64_t syllables = 2 + random.below(3);
  for (uint64_t i = 0; i < syllables; ++i) {
    name += choose(kOnsets, random);
    name += choose(kVowels, random);
    if (i + 1 == syllables || random.chance(0.3)) name += choose(kCodas, random);
  }
  if (random.chance(0.45)) {  // the ending of a real name: most inventions of novelists have one
    const std::string& other = words_[random.below(words_.size())];
    const size_t length = std::min<size_t>(other.size() - 1, 2 + random.below(3));
    name += other.substr(other.size() - length);
  }
  return name;
}

std::string NameInventor::from_letters(PhiloxSequence& random) const {
  std::string name;
  size_t a = 0, b = 0;
  while (name.size() <= kMaxLetters) {
    const std::string& next = followers_[a * 27 + b];
    if (next.empty()) break;
    const char c = next[random.below(next.size())];
    if (c == '\0') break;
    name += c;
    a = b;
    b = letter_index(c);
  }
  return name;
}

std::string NameInventor::from_halves(PhiloxSequence& random) const {
  const std::string& front = words_[random.below(words_.size())];
  const std::string& back = words_[random.below(words_.size())];
  const size_t keep = front.size() / 2 + random.below(2);
  const size_t from = back.size() / 2 - (back.size() > 4 ? random.below(2) : 0);
  return front.substr(0, keep) + back.substr(from);
}

std::string NameInventor::core(NameMaker maker, PhiloxSequence& random) const {
  switch (maker) {
    case NameMaker::kSyllables:
      return from_syllables(random);
    case NameMaker::kLetters:
      return from_letters(random);
    case NameMaker::kHalves:
      return from_halves(random);
  }
  return {};
}

std::string NameInventor::invent(NameMaker maker, bool for_evaluation, PhiloxSequence& random) const {
  const auto accepted = [&](NameMaker by) {
    // About 15 draws find an evaluation name and 2 a training one. After 400 the maker has little to
    // offer (few, similar real names); syllables always come to an end.
    for (int attempt = 0;; ++attempt) {
      if (attempt == 400) by = NameMaker::kSyllables;
      require(attempt < 100000, "no name can be invented that is unlike every name of the table");
      const std::string name = core(by, random);
      if (name.size() < kMinLetters || name.size() > kMaxLetters) continue;
      if (is_for_evaluation(name) == for_evaluation && !near_real(name)) return capitalise(name);
    }
  };
  std::string name = accepted(maker);
  if (prefixes_.empty() || !random.chance(0.12)) return name;
  std::string full = prefixes_[random.below(prefixes_.size())];
  for (size_t at; (at = full.find("{}")) != std::string::npos;) {
    full.replace(at, 2, name);
    name = accepted(maker);
  }
  return near_real(full) ? name : full;
}

}  // namespace vertebra
