// The tables of a facts recipe: one row per subject, one column per fact and per grammatical form of
// the subject's name in each language, read from CSV. Owns the rows; knows neither phrasings nor
// noise. Called by the facts generator.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace vertebra {

// A CSV file (RFC 4180: commas, quotes doubled inside quotes) with a header row. Throws
// invalid_argument naming file and line for broken quotes, a wrong number of cells, a duplicate or
// empty column name, no rows, or bytes that are not UTF-8.
class CsvTable {
 public:
  static CsvTable read(const std::filesystem::path& path);
  static CsvTable parse(std::string_view text, std::string_view source);

  size_t rows() const { return cells_.size(); }
  const std::vector<std::string>& columns() const { return columns_; }
  bool has(std::string_view column) const;
  // Throws invalid_argument listing the columns there are.
  size_t column(std::string_view name) const;
  const std::string& cell(size_t row, size_t column) const { return cells_[row][column]; }
  const std::string& cell(size_t row, std::string_view name) const { return cells_[row][column(name)]; }
  const std::string& source() const { return source_; }

 private:
  std::string source_;
  std::vector<std::string> columns_;
  std::vector<std::vector<std::string>> cells_;
};

// Lower-case ASCII letters and digits only: accents, marks and case are gone, so that two ways of
// typing the same words compare equal. With `keep_spaces`, runs of anything else become one space
// (none at either end); otherwise they vanish.
std::string fold_text(std::string_view text, bool keep_spaces);

// One name in all its grammatical forms, in the order the phrasing file declares; [0] is the bare name.
using NameForms = std::vector<std::string>;

// "the {}", "du {}": the forms of a real name with the name taken out, for giving a new name forms
// that agree with it.
class FormPatterns {
 public:
  void add(const NameForms& forms);
  // Forms for `name` after a pattern chosen by `pick` (any number), among those whose names begin with
  // the same kind of letter (vowel or not) and, where there are such, end with the same letter.
  NameForms apply(const std::string& name, uint64_t pick) const;
  // The rows that differ in pattern, as indices in the order of add().
  const std::vector<size_t>& distinct() const { return distinct_; }

 private:
  std::unordered_map<std::string, std::vector<size_t>> by_class_;
  std::vector<NameForms> patterns_;
  std::vector<size_t> distinct_;
  size_t added_ = 0;
};

}  // namespace vertebra
