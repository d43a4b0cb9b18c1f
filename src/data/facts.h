// Questions and answers about a table of facts, for teaching a small model what it knows and that it
// does not know the rest: real subjects, invented ones, places that are no subjects, questions the
// table cannot answer, questions off the subject. Reads a table (CSV) and a phrasing file (TOML); what
// the table is about is not known here. Called by the facts stage of a recipe.
//
// Every example depends on (seed, index, total) alone. Training and evaluation never share an invented
// name, a place or a held-out phrasing: loading fails when the training phrasings can produce one that
// is held out.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "data/facts_noise.h"

namespace vertebra {

struct FactsOptions {
  std::filesystem::path table = {};      // CSV: a row per subject
  std::filesystem::path places = {};     // CSV: real and fictional names that are no subjects; column `split`
                                         // (train or eval) and the forms of the name in each language
  std::filesystem::path phrasings = {};  // TOML: how people ask, and the answer sentences
  uint64_t seed = 0;

  // Shares of the examples at full strength; the rest are facts.
  double unknown_share = 0.32;       // names of no subject ...
  double place_share = 0.22;         // ... of which this share are the places
  double unanswerable_share = 0.10;  // real subjects, relations that the table lacks
  double off_topic_share = 0.07;
  // The curriculum: these shares start at a part of themselves and grow evenly until `full_at` (as a
  // share of the run); the strength of the noise grows from nothing until `noise_full_at`.
  double unknown_start = 0.25;
  double refusal_start = 0.40;
  double refusals_full_at = 0.5;
  double noise_full_at = 1.0 / 3;

  double hand_share = 0.2;       // phrasings from the hand lists; the rest from the frames
  double alias_share = 0.3;      // of questions on a subject that has aliases
  double bare_name_share = 0.1;  // "capital of netherlands" for "capital of the Netherlands"
  NoiseShares noise = {};
};

enum class FactsKind : uint8_t { kFact = 0, kInvented, kPlace, kUnanswerable, kOffTopic };
std::string_view facts_kind_name(FactsKind kind);

struct FactsExample {
  std::string question;  // as typed: the chat template normalises it
  std::string answer;
  std::string language;  // "en"
  std::string relation;  // "capital"; empty for unanswerable and off-topic questions
  std::string subject;   // the key of the row; empty without one
  FactsKind kind = FactsKind::kFact;
};

// A question of an evaluation group: held_out, free_typed, invented, places, unanswerable, off_topic,
// aliases, typos, each with the language after it ("held_out_fr").
struct FactsQuestion : FactsExample {
  std::string group;
  std::string detail;  // which maker invented the name, which kind of place; may be empty
};

class FactsGenerator {
 public:
  // Throws invalid_argument naming the file and the row, key or phrasing for: a missing column, an
  // empty cell, a key or name used twice, an unknown slot, part or TOML key, shares outside [0, 1], text
  // that is not UTF-8, and a held-out phrasing that training could produce.
  explicit FactsGenerator(FactsOptions options);
  ~FactsGenerator();
  FactsGenerator(FactsGenerator&&) noexcept;
  FactsGenerator& operator=(FactsGenerator&&) noexcept;

  // Example `index` of `total` in curriculum order, 0 <= index < total. Thread-safe.
  FactsExample example(int64_t index, int64_t total) const;
  // About `per_group` questions in each group (fewer where the lists are shorter), the same for every
  // seed but `seed`. Thread-safe.
  std::vector<FactsQuestion> evaluation(int64_t per_group, uint64_t seed) const;

  // JSONL: {"messages": [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}]}.
  void write_training(const std::filesystem::path& path, int64_t total) const;
  // One FOLDER/GROUP.jsonl per group: {"prompt", "answer", "match": "exact", "tags": {...}}. Returns the
  // files in the order of evaluation().
  std::vector<std::filesystem::path> write_evaluation(const std::filesystem::path& folder, int64_t per_group,
                                                      uint64_t seed) const;

  // Whether the training phrasings of the language, asked about the table's row `subject`, can produce
  // this question, noise other than greetings left out.
  bool trains_on(std::string_view language, std::string_view question, std::string_view subject) const;
  // The same for the phrasings of one section: a relation, "unanswerable" or "off_topic".
  bool asks(std::string_view language, std::string_view section, std::string_view question,
            std::string_view subject) const;
  // The number of different strings that the frames of "capital" (or "off_topic") in "en" can produce.
  double phrasings(std::string_view language, std::string_view section) const;
  std::vector<std::string> languages() const;
  // The columns' values: every answer is built from these.
  std::string answer(std::string_view language, std::string_view relation, std::string_view subject) const;
  // Whether `name` is a name or alias of a subject in the language, or near enough to be a misspelling.
  bool near_real(std::string_view language, std::string_view name) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace vertebra
