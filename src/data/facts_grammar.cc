// Parsing, drawing and matching of phrasings; see facts_grammar.h.
#include "data/facts_grammar.h"

#include <algorithm>

#include "base/error.h"
#include "data/facts_table.h"

namespace vertebra {
namespace {

// a-z are bits 0-25, 0-9 bits 26-35.
uint64_t letter_bit(char c) { return uint64_t{1} << (c >= 'a' ? c - 'a' : 26 + (c - '0')); }
constexpr uint64_t kAnyLetter = (uint64_t{1} << 36) - 1;
constexpr size_t kMaxNodes = 1u << 20;
// Bounds on what one phrasing may cost to draw and to match: parts that use each other twice grow as 2^n.
constexpr size_t kMaxExpanded = 1000000;
constexpr int kMaxDepth = 50;

}  // namespace

std::string capitalise(std::string_view text) {
  std::string out(text);
  if (!out.empty() && out[0] >= 'a' && out[0] <= 'z') out[0] = static_cast<char>(out[0] - 'a' + 'A');
  return out;
}

FactsGrammar::FactsGrammar(std::vector<std::string> slots, std::string source)
    : slots_(std::move(slots)), source_(std::move(source)) {}

void FactsGrammar::declare_part(const std::string& name, const std::vector<std::string>& alternatives) {
  require(!alternatives.empty(), "{}: part '{}' is an empty list", source_, name);
  parts_[name] = {alternatives, -1, false};
}

int FactsGrammar::push(Node node) {
  require(nodes_.size() < kMaxNodes, "{}: the phrasings are too many (over {} pieces)", source_, kMaxNodes);
  settle(node);
  nodes_.push_back(std::move(node));
  return static_cast<int>(nodes_.size()) - 1;
}

void FactsGrammar::settle(Node& node) const {
  node.expanded = 1 + node.text.size();
  for (const int child : node.children) {
    node.height = std::max(node.height, nodes_[child].height + 1);
    node.expanded = std::min(node.expanded + nodes_[child].expanded, kMaxExpanded + 1);
  }
  switch (node.kind) {
    case Kind::kText:
      node.folded = fold_text(node.text, false);
      node.nullable = node.folded.empty();
      node.first = node.nullable ? 0 : letter_bit(node.folded[0]);
      break;
    case Kind::kSlot:
      node.nullable = true;
      node.first = kAnyLetter;
      break;
    case Kind::kSequence:
      node.nullable = true;
      for (const int child : node.children) {
        if (node.nullable) node.first |= nodes_[child].first;
        node.nullable = node.nullable && nodes_[child].nullable;
      }
      break;
    case Kind::kChoice:
      node.nullable = false;
      for (const int child : node.children) {
        node.first |= nodes_[child].first;
        node.nullable = node.nullable || nodes_[child].nullable;
      }
      break;
  }
}

int FactsGrammar::parse_part(const std::string& name, std::string_view whole) {
  const auto it = parts_.find(name);
  require(it != parts_.end(), "{}: '{}' uses the part <{}>, which is not declared", source_, whole, name);
  Part& part = it->second;
  require(!part.open, "{}: the part <{}> contains itself", source_, name);
  if (part.node >= 0) return part.node;
  part.open = true;
  Node choice{.kind = Kind::kChoice};
  for (const std::string& alternative : part.alternatives) {
    size_t i = 0;
    choice.children.push_back(parse_sequence(alternative, i, false, alternative));
  }
  part.node = push(std::move(choice));
  part.open = false;
  return part.node;
}

// A sequence up to the end, or, `inside` brackets, up to the '|' or ')' that ends it (left unread).
int FactsGrammar::parse_sequence(std::string_view text, size_t& i, bool inside, std::string_view whole) {
  require(depth_ < kMaxDepth, "{}: '{}' is nested more than {} deep", source_, whole, kMaxDepth);
  ++depth_;
  Node sequence{.kind = Kind::kSequence};
  std::string literal;
  const auto flush = [&] {
    if (!literal.empty()) sequence.children.push_back(push(Node{.kind = Kind::kText, .text = literal}));
    literal.clear();
  };
  const auto until = [&](char close) {
    const size_t end = text.find(close, i + 1);
    require(end != std::string_view::npos, "{}: '{}' opens '{}' and never closes it", source_, whole,
            text[i]);
    const std::string name(text.substr(i + 1, end - i - 1));
    i = end + 1;
    return name;
  };
  while (i < text.size()) {
    const char c = text[i];
    if (c == '{') {
      flush();
      std::string name = until('}');
      Node slot{.kind = Kind::kSlot};
      if (!name.empty() && name[0] >= 'A' && name[0] <= 'Z') {
        slot.capital = true;
        name[0] = static_cast<char>(name[0] - 'A' + 'a');
      }
      const auto it = std::find(slots_.begin(), slots_.end(), name);
      if (it == slots_.end()) {
        std::string all;
        for (const std::string& known : slots_) all += (all.empty() ? "{" : ", {") + known + "}";
        fail(Code::kInvalidArgument, "{}: '{}' uses the slot {{{}}}; the slots are {}", source_, whole, name,
             all);
      }
      slot.slot = static_cast<int>(it - slots_.begin());
      sequence.children.push_back(push(std::move(slot)));
    } else if (c == '<') {
      flush();
      const std::string name = until('>');
      sequence.children.push_back(parse_part(name, whole));
    } else if (c == '(') {
      flush();
      Node choice{.kind = Kind::kChoice};
      do {
        ++i;
        choice.children.push_back(parse_sequence(text, i, true, whole));
        require(i < text.size(), "{}: '{}' opens '(' and never closes it", source_, whole);
      } while (text[i] == '|');
      ++i;
      sequence.children.push_back(push(std::move(choice)));
    } else if (c == '|' || c == ')') {
      require(inside, "{}: '{}' has a '{}' outside brackets", source_, whole, c);
      break;
    } else {
      require(c != '}' && c != '>', "{}: '{}' closes '{}' without opening it", source_, whole, c);
      literal += c;
      ++i;
    }
  }
  flush();
  --depth_;
  return push(std::move(sequence));
}

int FactsGrammar::add(std::string_view phrasing) {
  size_t i = 0;
  const int node = parse_sequence(phrasing, i, false, phrasing);
  // Parts parsed earlier count here too: the parser's own depth does not see them.
  require(nodes_[node].height <= 4 * kMaxDepth, "{}: '{}' nests parts more than {} deep", source_, phrasing,
          4 * kMaxDepth);
  require(nodes_[node].expanded <= kMaxExpanded, "{}: '{}' grows over {} bytes with its parts written out",
          source_, phrasing, kMaxExpanded);
  return node;
}

void FactsGrammar::draw(int phrasing, const SlotText& slots, PhiloxSequence& random, SlottedText& out) const {
  const Node& node = nodes_[phrasing];
  switch (node.kind) {
    case Kind::kText: {
      // An empty choice leaves its two spaces behind: keep one, and none at the front.
      std::string_view text = node.text;
      if (!text.empty() && text[0] == ' ' && (out.text.empty() || out.text.back() == ' '))
        text.remove_prefix(1);
      out.append(text, false);
      break;
    }
    case Kind::kSlot:
      out.append(node.capital ? capitalise(slots(node.slot)) : std::string(slots(node.slot)), true);
      break;
    case Kind::kSequence:
      for (const int child : node.children) draw(child, slots, random, out);
      break;
    case Kind::kChoice:
      draw(node.children[random.below(node.children.size())], slots, random, out);
      break;
  }
}

std::vector<size_t> FactsGrammar::match(int index, std::string_view text, const std::vector<size_t>& from,
                                        const SlotText& slots) const {
  const Node& node = nodes_[index];
  std::vector<size_t> starts, ends;
  for (const size_t at : from) {
    if (node.nullable || (at < text.size() && (node.first & letter_bit(text[at])) != 0)) starts.push_back(at);
  }
  if (starts.empty()) return ends;
  switch (node.kind) {
    case Kind::kText:
    case Kind::kSlot: {
      const std::string slot = node.kind == Kind::kSlot ? fold_text(slots(node.slot), false) : std::string();
      const std::string_view wanted = node.kind == Kind::kSlot ? std::string_view(slot) : node.folded;
      for (const size_t at : starts) {
        if (text.substr(at, wanted.size()) == wanted) ends.push_back(at + wanted.size());
      }
      break;
    }
    case Kind::kSequence:
      ends = starts;
      for (const int child : node.children) {
        ends = match(child, text, ends, slots);
        if (ends.empty()) break;
      }
      break;
    case Kind::kChoice:
      for (const int child : node.children) {
        const auto more = match(child, text, starts, slots);
        ends.insert(ends.end(), more.begin(), more.end());
      }
      std::sort(ends.begin(), ends.end());
      ends.erase(std::unique(ends.begin(), ends.end()), ends.end());
      break;
  }
  return ends;
}

bool FactsGrammar::produces(int phrasing, std::string_view folded, const std::vector<size_t>& starts,
                            const std::function<bool(size_t)>& accept, const SlotText& slots) const {
  for (const size_t end : match(phrasing, folded, starts, slots)) {
    if (accept(end)) return true;
  }
  return false;
}

double FactsGrammar::strings(int phrasing) const {
  const Node& node = nodes_[phrasing];
  double count = node.kind == Kind::kChoice ? 0 : 1;
  for (const int child : node.children) {
    count = node.kind == Kind::kChoice ? count + strings(child) : count * strings(child);
  }
  return std::min(count, 0x1p53);
}

bool FactsGrammar::uses_slot(int phrasing, int slot) const {
  const Node& node = nodes_[phrasing];
  if (node.kind == Kind::kSlot) return node.slot == slot;
  return std::any_of(node.children.begin(), node.children.end(),
                     [&](int child) { return uses_slot(child, slot); });
}

}  // namespace vertebra
