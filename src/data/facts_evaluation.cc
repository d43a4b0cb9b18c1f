// Evaluation groups; see facts_evaluation.h.
#include "data/facts_evaluation.h"

#include <algorithm>

#include "base/error.h"

namespace vertebra {
namespace {

// As typed in a hurry: no capitals, no mark at the end.
std::string hurried(std::string text) {
  while (!text.empty() && (text.back() == '?' || text.back() == ' ' || text.back() == '.')) text.pop_back();
  for (char& c : text) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return text;
}

// Every other question as written, every other in a hurry.
std::string typed(const std::string& text, int64_t turn) {
  if (turn % 2 == 1) return hurried(text);
  const bool marked = !text.empty() && (text.back() == '?' || text.back() == '.');
  return capitalise(text) + (marked ? "" : "?");
}

class Examiner {
 public:
  Examiner(const FactsFiles& files, const FactsLanguage& language, int64_t per_group, uint64_t seed,
           std::vector<FactsQuestion>& out)
      : files_(files), language_(language), count_(per_group), seed_(seed), out_(out) {}

  void held_out();
  void free_typed();
  void invented();
  void places();
  void unanswerable();
  void off_topic();
  void aliases();
  void typos();

 private:
  PhiloxSequence random(const char* group, int64_t i) const {
    return facts_random(seed_, "facts/evaluation/" + std::string(group) + "/" + language_.code,
                        static_cast<uint64_t>(i));
  }
  FactsQuestion& put(const char* group, FactsKind kind, std::string text) {
    FactsQuestion& q = out_.emplace_back();
    q.group = std::string(group) + "_" + language_.code;
    q.language = language_.code;
    q.kind = kind;
    q.question = std::move(text);
    q.answer = language_.refusal;
    return q;
  }
  void put_fact(const char* group, std::string text, size_t relation, size_t row) {
    FactsQuestion& q = put(group, FactsKind::kFact, std::move(text));
    q.relation = files_.relations[relation];
    q.subject = files_.keys[row];
    q.answer = files_.answer(language_, relation, row);
  }
  // A question about a name of no row: half in phrasings of the hand list, half in held-out ones.
  void put_unknown(const char* group, FactsKind kind, const NameForms& name, const std::string& detail,
                   int64_t i, PhiloxSequence& random) {
    const size_t relation = random.below(relations());
    const FactsSection& section = language_.relations[relation];
    const int64_t turn = i / 2;
    FactsQuestion& q =
        put(group, kind,
            i % 2 == 0 ? trained(section, name, -1, turn, random) : held(section, name, turn, random));
    q.relation = files_.relations[relation];
    q.detail = detail;
  }
  std::string trained(const FactsSection& section, const NameForms& name, int row, int64_t turn,
                      PhiloxSequence& random) const {
    return typed(files_.ask(language_, section, name, row, true, random).text, turn);
  }
  std::string held(const FactsSection& section, const NameForms& name, int64_t turn,
                   PhiloxSequence& random) const {
    const auto size = static_cast<int64_t>(section.held_out.size());
    SlottedText text;
    section.grammar.draw(section.held_out[static_cast<size_t>(turn % size)].handle,
                         language_.slots(name, nullptr), random, text);
    return typed(text.text, turn / size);
  }
  size_t relations() const { return language_.relations.size(); }
  size_t rows() const { return language_.subjects.size(); }
  const FactsSection& relation_of(int64_t i) const {
    return language_.relations[static_cast<size_t>(i) % relations()];
  }

  const FactsFiles& files_;
  const FactsLanguage& language_;
  int64_t count_;
  uint64_t seed_;
  std::vector<FactsQuestion>& out_;
};

void Examiner::held_out() {
  for (int64_t i = 0; i < count_; ++i) {
    PhiloxSequence draws = random("held_out", i);
    const size_t row = draws.below(rows());
    const auto& name = language_.subjects[row][0];
    const auto turn = i / static_cast<int64_t>(relations());
    put_fact("held_out", held(relation_of(i), name, turn, draws), static_cast<size_t>(i) % relations(), row);
  }
}

void Examiner::free_typed() {
  for (const FreeTyped& question : language_.free_typed) {
    if (question.row < 0) {
      put("free_typed", FactsKind::kOffTopic, question.question);
    } else {
      put_fact("free_typed", question.question, static_cast<size_t>(question.relation),
               static_cast<size_t>(question.row));
    }
  }
}

void Examiner::invented() {
  for (int64_t i = 0; i < count_; ++i) {
    PhiloxSequence draws = random("invented", i);
    const size_t maker = static_cast<size_t>(i) % kNameMakers.size();
    const std::string name = language_.inventor->invent(static_cast<NameMaker>(maker), true, draws);
    const NameForms forms = language_.patterns.apply(name, draws.below(uint64_t{1} << 32));
    put_unknown("invented", FactsKind::kInvented, forms, kNameMakers[maker], i, draws);
  }
}

void Examiner::places() {
  for (int64_t i = 0; i < count_; ++i) {
    PhiloxSequence draws = random("places", i);
    const auto& list = language_.held_out_places;
    const FactsPlace& place = list[static_cast<size_t>(i) % list.size()];
    put_unknown("places", FactsKind::kPlace, place.forms, place.kind, i, draws);
  }
}

void Examiner::unanswerable() {
  for (int64_t i = 0; i < count_; ++i) {
    PhiloxSequence draws = random("unanswerable", i);
    const size_t row = draws.below(rows());
    const std::string text = held(*language_.unanswerable, language_.subjects[row][0], i, draws);
    put("unanswerable", FactsKind::kUnanswerable, text).subject = files_.keys[row];
  }
}

void Examiner::off_topic() {
  const FactsSection& section = *language_.off_topic;
  const int64_t count = std::min(count_, static_cast<int64_t>(section.held_out.size()));
  for (int64_t i = 0; i < count; ++i) {
    PhiloxSequence draws = random("off_topic", i);
    put("off_topic", FactsKind::kOffTopic, held(section, language_.subjects[0][0], i, draws));
  }
}

void Examiner::aliases() {
  std::vector<std::pair<size_t, const NameForms*>> all;
  for (size_t row = 0; row < rows(); ++row) {
    for (size_t k = 1; k < language_.subjects[row].size(); ++k)
      all.emplace_back(row, &language_.subjects[row][k]);
  }
  for (int64_t i = 0; i < count_ && !all.empty(); ++i) {
    PhiloxSequence draws = random("aliases", i);
    const auto& [row, name] = all[draws.below(all.size())];
    put_fact("aliases", trained(relation_of(i), *name, static_cast<int>(row), i, draws),
             static_cast<size_t>(i) % relations(), row);
  }
}

void Examiner::typos() {
  for (int64_t i = 0; i < count_; ++i) {
    PhiloxSequence draws = random("typos", i);
    const size_t row = draws.below(rows());
    const std::string text =
        trained(relation_of(i), language_.subjects[row][0], static_cast<int>(row), i, draws);
    put_fact("typos", mistype(text, language_.words, 4, draws), static_cast<size_t>(i) % relations(), row);
  }
}

}  // namespace

std::vector<FactsQuestion> facts_evaluation(const FactsFiles& files, int64_t per_group, uint64_t seed) {
  require(per_group > 0, "facts: {} questions a group are too few; at least 1", per_group);
  std::vector<FactsQuestion> out;
  for (const FactsLanguage& language : files.languages) {
    Examiner examiner(files, language, per_group, seed, out);
    examiner.held_out();
    examiner.free_typed();
    examiner.invented();
    examiner.places();
    examiner.unanswerable();
    examiner.off_topic();
    examiner.aliases();
    examiner.typos();
  }
  return out;
}

}  // namespace vertebra
