// Phrasings: text with {slots}, <parts> and (alternatives|in brackets|). Draws a phrasing at random,
// and tells whether a given question could have been drawn, which is how held-out phrasings are kept
// out of training. Knows nothing about tables or noise. Called by the facts generator.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/rng.h"

namespace vertebra {

// Text of which some bytes came from a slot (a name): those are protected from lost words.
struct SlottedText {
  std::string text;
  std::vector<bool> from_slot;  // one per byte

  void append(std::string_view piece, bool slot) {
    text += piece;
    from_slot.insert(from_slot.end(), piece.size(), slot);
  }
};

class FactsGrammar {
 public:
  // The text of slot number `slot`.
  using SlotText = std::function<std::string_view(int slot)>;

  // `slots` are the names that may stand in braces; a name with a capital initial means the same text
  // with its first letter in upper case.
  FactsGrammar(std::vector<std::string> slots, std::string source);

  // Parts must be declared before they are used in phrasings; they may use each other, without cycles.
  void declare_part(const std::string& name, const std::vector<std::string>& alternatives);
  // Parses one phrasing and returns its handle. Throws invalid_argument naming the source, the phrasing
  // and what is wrong: an unknown slot or part, a part inside itself, brackets that do not close, nesting
  // deeper than 50, or a million bytes and more with all parts written out.
  int add(std::string_view phrasing);

  void draw(int phrasing, const SlotText& slots, PhiloxSequence& random, SlottedText& out) const;
  // Whether `folded` (fold_text without spaces), read from any of `starts`, can end at an accepted end.
  bool produces(int phrasing, std::string_view folded, const std::vector<size_t>& starts,
                const std::function<bool(size_t end)>& accept, const SlotText& slots) const;
  // The number of different strings, counted as if no two choices gave the same; at most 2^53.
  double strings(int phrasing) const;
  bool uses_slot(int phrasing, int slot) const;

 private:
  enum class Kind : uint8_t { kText, kSlot, kSequence, kChoice };
  struct Node {
    Kind kind = Kind::kText;
    std::string text = {}, folded = {};
    int slot = 0;
    bool capital = false;
    std::vector<int> children = {};
    bool nullable = true;
    uint64_t first = 0;  // the folded characters it can begin with, one bit each
    int height = 1;
    size_t expanded = 0;  // bytes and pieces with every part written out in place
  };
  struct Part {
    std::vector<std::string> alternatives;
    int node = -1;
    bool open = false;  // being parsed: meeting it again is a cycle
  };

  int push(Node node);
  int parse_sequence(std::string_view text, size_t& i, bool inside, std::string_view whole);
  int parse_part(const std::string& name, std::string_view whole);
  void settle(Node& node) const;
  std::vector<size_t> match(int node, std::string_view text, const std::vector<size_t>& from,
                            const SlotText& slots) const;

  std::vector<std::string> slots_;
  std::string source_;
  std::map<std::string, Part> parts_;
  std::vector<Node> nodes_;
  int depth_ = 0;
};

// The text with its first letter in upper case when that is ASCII.
std::string capitalise(std::string_view text);

}  // namespace vertebra
