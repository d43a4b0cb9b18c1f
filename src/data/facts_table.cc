// CSV reading, text folding and name forms; see facts_table.h.
#include "data/facts_table.h"

#include <algorithm>
#include <array>
#include <set>

#include "base/error.h"
#include "base/file.h"

namespace vertebra {
namespace {

// Code point of the character at text[i], advancing i; throws nothing: `valid` says whether it was UTF-8.
char32_t next_code_point(std::string_view text, size_t& i, bool& valid) {
  const auto byte = [&](size_t k) { return static_cast<unsigned char>(text[k]); };
  const unsigned char lead = byte(i++);
  if (lead < 0x80) return lead;
  const int extra = lead >= 0xF0 && lead < 0xF5   ? 3
                    : lead >= 0xE0 && lead < 0xF0 ? 2
                    : lead >= 0xC2 && lead < 0xE0 ? 1
                                                  : 0;
  if (extra == 0 || i + extra > text.size()) return valid = false, U'\0';
  char32_t code = lead & (0x3F >> extra);
  for (int k = 0; k < extra; ++k) {
    if ((byte(i) & 0xC0) != 0x80) return valid = false, U'\0';
    code = (code << 6) | (byte(i++) & 0x3F);
  }
  constexpr std::array<char32_t, 4> kSmallest = {0, 0x80, 0x800, 0x10000};
  if (code < kSmallest[extra] || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) valid = false;
  return code;
}

// ASCII for the accented Latin letters of European names; nullptr for what is no such letter.
const char* plain_letter(char32_t code) {
  struct Range {
    char32_t first, last;
    const char* plain;
  };
  static constexpr Range kRanges[] = {
      {0xC0, 0xC5, "a"},   {0xC6, 0xC6, "ae"},  {0xC7, 0xC7, "c"},    {0xC8, 0xCB, "e"},
      {0xCC, 0xCF, "i"},   {0xD0, 0xD0, "d"},   {0xD1, 0xD1, "n"},    {0xD2, 0xD6, "o"},
      {0xD8, 0xD8, "o"},   {0xD9, 0xDC, "u"},   {0xDD, 0xDD, "y"},    {0xDF, 0xDF, "ss"},
      {0xE0, 0xE5, "a"},   {0xE6, 0xE6, "ae"},  {0xE7, 0xE7, "c"},    {0xE8, 0xEB, "e"},
      {0xEC, 0xEF, "i"},   {0xF0, 0xF0, "d"},   {0xF1, 0xF1, "n"},    {0xF2, 0xF6, "o"},
      {0xF8, 0xF8, "o"},   {0xF9, 0xFC, "u"},   {0xFD, 0xFD, "y"},    {0xFF, 0xFF, "y"},
      {0x100, 0x105, "a"}, {0x106, 0x10D, "c"}, {0x10E, 0x111, "d"},  {0x112, 0x11B, "e"},
      {0x11C, 0x123, "g"}, {0x124, 0x127, "h"}, {0x128, 0x131, "i"},  {0x139, 0x142, "l"},
      {0x143, 0x148, "n"}, {0x14C, 0x151, "o"}, {0x152, 0x153, "oe"}, {0x154, 0x159, "r"},
      {0x15A, 0x161, "s"}, {0x162, 0x167, "t"}, {0x168, 0x173, "u"},  {0x179, 0x17E, "z"},
      {0x218, 0x219, "s"}, {0x21A, 0x21B, "t"},
  };
  for (const Range& range : kRanges) {
    if (code >= range.first && code <= range.last) return range.plain;
  }
  return nullptr;
}

void require_utf8(std::string_view text, std::string_view source) {
  size_t line = 1;
  for (size_t i = 0; i < text.size();) {
    bool valid = true;
    line += text[i] == '\n';
    next_code_point(text, i, valid);
    require(valid, "{}: line {} is not UTF-8; save the file as UTF-8", source, line);
  }
}

// One record from text[i] on, past its line end; `line` counts lines.
std::vector<std::string> read_record(std::string_view text, size_t& i, size_t& line,
                                     std::string_view source) {
  std::vector<std::string> cells(1);
  const size_t first_line = line;
  for (; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '"' && cells.back().empty()) {
      for (++i;; ++i) {
        require(i < text.size(), "{}: the quote opened in the record of line {} is never closed", source,
                first_line);
        line += text[i] == '\n';
        if (text[i] != '"') {
          cells.back() += text[i];
        } else if (i + 1 < text.size() && text[i + 1] == '"') {
          cells.back() += text[++i];
        } else {
          break;
        }
      }
    } else if (c == ',') {
      cells.emplace_back();
    } else if (c == '\n') {
      ++i;
      ++line;
      break;
    } else if (c != '\r') {
      cells.back() += c;
    }
  }
  return cells;
}

}  // namespace

CsvTable CsvTable::read(const std::filesystem::path& path) { return parse(read_file(path), path.string()); }

CsvTable CsvTable::parse(std::string_view text, std::string_view source) {
  require_utf8(text, source);
  CsvTable table;
  table.source_ = source;
  size_t i = 0, line = 1;
  require(!text.empty(), "{}: the file is empty; its first line must name the columns", source);
  table.columns_ = read_record(text, i, line, source);
  std::set<std::string> seen;
  for (const std::string& name : table.columns_) {
    require(!name.empty(), "{}: line 1 has a column without a name", source);
    require(seen.insert(name).second, "{}: column '{}' is named twice in line 1", source, name);
  }
  while (i < text.size()) {
    const size_t at = line;
    auto cells = read_record(text, i, line, source);
    if (cells.size() == 1 && cells[0].empty()) continue;
    require(cells.size() == table.columns_.size(), "{}: line {} has {} cells, the header names {} columns",
            source, at, cells.size(), table.columns_.size());
    table.cells_.push_back(std::move(cells));
  }
  require(!table.cells_.empty(), "{}: the table has a header and no rows", source);
  return table;
}

bool CsvTable::has(std::string_view name) const {
  return std::find(columns_.begin(), columns_.end(), name) != columns_.end();
}

size_t CsvTable::column(std::string_view name) const {
  const auto it = std::find(columns_.begin(), columns_.end(), name);
  if (it == columns_.end()) {
    std::string all;
    for (const std::string& column : columns_) all += (all.empty() ? "" : ", ") + column;
    fail(Code::kInvalidArgument, "{}: there is no column '{}'; the columns are {}", source_, name, all);
  }
  return static_cast<size_t>(it - columns_.begin());
}

std::string fold_text(std::string_view text, bool keep_spaces) {
  std::string out;
  out.reserve(text.size());
  bool gap = false;
  const auto put = [&](char c) {
    if (gap && keep_spaces && !out.empty()) out += ' ';
    gap = false;
    out += c;
  };
  for (size_t i = 0; i < text.size();) {
    bool valid = true;
    const char32_t code = next_code_point(text, i, valid);
    if (code < 0x80) {
      const char c = static_cast<char>(code);
      if (c >= 'A' && c <= 'Z') {
        put(static_cast<char>(c - 'A' + 'a'));
      } else if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9')) {
        put(c);
      } else {
        gap = true;
      }
    } else if (const char* plain = plain_letter(code)) {
      for (; *plain != '\0'; ++plain) put(*plain);
    } else {
      gap = true;
    }
  }
  return out;
}

namespace {

bool begins_with_vowel(const std::string& folded) {
  return !folded.empty() && std::string_view("aeiou").find(folded[0]) != std::string_view::npos;
}

}  // namespace

void FormPatterns::add(const NameForms& forms) {
  const size_t index = added_++;
  const std::string& name = forms[0];
  NameForms pattern;
  for (const std::string& form : forms) {
    const size_t at = form.find(name);
    pattern.push_back(at == std::string::npos ? form
                                              : form.substr(0, at) + "{}" + form.substr(at + name.size()));
  }
  const std::string folded = fold_text(name, false);
  // A row whose second form does not contain its name ("the Gambia" for "The Gambia") shows no pattern.
  if (folded.empty() || (pattern.size() > 1 && pattern[1].find("{}") == std::string::npos)) return;
  if (std::find(patterns_.begin(), patterns_.end(), pattern) == patterns_.end()) distinct_.push_back(index);
  patterns_.push_back(std::move(pattern));
  const char initial = begins_with_vowel(folded) ? 'v' : 'c';
  by_class_[{initial}].push_back(patterns_.size() - 1);
  by_class_[{initial, folded.back()}].push_back(patterns_.size() - 1);
}

NameForms FormPatterns::apply(const std::string& name, uint64_t pick) const {
  const std::string folded = fold_text(name, false);
  const char initial = begins_with_vowel(folded) ? 'v' : 'c';
  auto it = folded.empty() ? by_class_.end() : by_class_.find({initial, folded.back()});
  if (it == by_class_.end()) it = by_class_.find({initial});
  if (it == by_class_.end()) it = by_class_.begin();
  VERTEBRA_CHECK(it != by_class_.end(), "no form patterns were added");
  NameForms forms = patterns_[it->second[pick % it->second.size()]];
  for (std::string& form : forms) {
    const size_t at = form.find("{}");
    if (at != std::string::npos) form.replace(at, 2, name);
  }
  return forms;
}

}  // namespace vertebra
