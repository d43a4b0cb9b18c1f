// The three files of a facts recipe, read and checked: the table, the places, the phrasings. Owns what
// they say; the generator (facts.cc) draws from it. Not for other callers.
#pragma once

#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "data/facts.h"
#include "data/facts_grammar.h"
#include "data/facts_names.h"
#include "data/facts_table.h"

namespace vertebra {

// How one kind of question is put: a relation of the table, "unanswerable" or "off_topic".
struct FactsSection {
  struct Phrasing {
    int handle;
    std::string text;    // as written in the file
    std::string unless;  // not for rows that carry this tag; empty: for all
  };
  explicit FactsSection(FactsGrammar parsed) : grammar(std::move(parsed)) {}

  std::string name;
  FactsGrammar grammar;
  std::vector<Phrasing> hand, frames, held_out;
  int answer = -1;
};

struct FactsPlace {
  NameForms forms;
  std::string kind;
};

struct FreeTyped {
  std::string question;
  int row;       // -1: the answer is the refusal
  int relation;  // index of the relation
};

struct FactsLanguage {
  std::string code, refusal;
  std::vector<std::string> forms;  // {slots} 0 .. forms-1; the relations follow
  NoiseWords words;
  std::vector<FactsSection> relations;
  std::unique_ptr<FactsSection> unanswerable, off_topic;
  std::vector<FreeTyped> free_typed;
  std::vector<std::vector<NameForms>> subjects;  // by row: its name, then its aliases
  std::vector<std::vector<std::string>> values;  // by row, then relation
  std::vector<FactsPlace> places, held_out_places;
  FormPatterns patterns;
  std::unique_ptr<NameInventor> inventor;

  // What a slot stands for when the subject is called `name` and has these values (null: none).
  FactsGrammar::SlotText slots(const NameForms& name, const std::vector<std::string>* row_values) const;
  const FactsSection* section(std::string_view name) const;  // null when there is none
  // The training phrasing that can produce the question about this row, greeting and closing left out,
  // or null. `question` as typed; `only` null: of all sections.
  const FactsSection::Phrasing* training_phrasing(std::string_view question, int row,
                                                  const FactsSection* only = nullptr) const;
};

struct FactsFiles {
  std::vector<std::string> relations, keys;  // keys by row
  std::vector<std::set<std::string>> tags;   // by row
  std::vector<FactsLanguage> languages;

  int row_of(std::string_view key) const;  // -1 when there is none
  std::string answer(const FactsLanguage& language, size_t relation, size_t row) const;
  // A phrasing of the section's hand list or frames about `name`; `row` < 0: about no row, so no tags.
  SlottedText ask(const FactsLanguage& language, const FactsSection& section, const NameForms& name, int row,
                  bool hand, PhiloxSequence& random) const;
};

// The numbers of one question: of training example `index`, or of question `index` of a group.
inline PhiloxSequence facts_random(uint64_t seed, std::string_view stream, uint64_t index) {
  return PhiloxSequence(Philox(seed, stream_id(stream) + index));
}

// Throws as FactsGenerator's constructor says.
FactsFiles load_facts_files(const FactsOptions& options);

}  // namespace vertebra
