// Drawing questions and answers from the files of a facts recipe; see facts.h.
#include "data/facts.h"

#include <algorithm>
#include <map>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "data/facts_files.h"

namespace vertebra {
namespace {

PhiloxSequence sequence(uint64_t seed, std::string_view stream, uint64_t index) {
  return PhiloxSequence(Philox(seed, stream_id(stream) + index));
}

void check_share(double value, const char* name) {
  require(value >= 0 && value <= 1, "facts: {} is {}, it must lie between 0 and 1", name, value);
}

void check_options(const FactsOptions& o) {
  const std::pair<double, const char*> shares[] = {
      {o.unknown_share, "unknown_share"},
      {o.place_share, "place_share"},
      {o.unanswerable_share, "unanswerable_share"},
      {o.off_topic_share, "off_topic_share"},
      {o.unknown_share + o.unanswerable_share + o.off_topic_share, "the sum of the refusals' shares"},
      {o.unknown_start, "unknown_start"},
      {o.refusal_start, "refusal_start"},
      {o.refusals_full_at, "refusals_full_at"},
      {o.noise_full_at, "noise_full_at"},
      {o.hand_share, "hand_share"},
      {o.alias_share, "alias_share"},
      {o.bare_name_share, "bare_name_share"},
      {o.noise.typo, "noise.typo"},
      {o.noise.second_typo, "noise.second_typo"},
      {o.noise.lost_word, "noise.lost_word"},
      {o.noise.filler, "noise.filler"},
      {o.noise.greeting, "noise.greeting"},
      {o.noise.closing, "noise.closing"},
      {o.noise.lower_case, "noise.lower_case"},
      {o.noise.upper_case, "noise.upper_case"},
      {o.noise.plain_accents, "noise.plain_accents"},
      {o.noise.odd_apostrophe, "noise.odd_apostrophe"},
      {o.noise.hyphen_as_space, "noise.hyphen_as_space"},
      {o.noise.end_mark, "noise.end_mark"}};
  for (const auto& [value, name] : shares) check_share(value, name);
}

// From `start` to 1, evenly, over the first `full_at` of the run.
double ramp(double start, double full_at, double progress) {
  return progress >= full_at ? 1.0 : start + (1.0 - start) * progress / full_at;
}

// As typed in a hurry: no capitals, no mark at the end.
std::string hurried(std::string text) {
  while (!text.empty() && (text.back() == '?' || text.back() == ' ' || text.back() == '.')) text.pop_back();
  for (char& c : text) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return text;
}

std::string tidy(const std::string& text, int64_t index) {
  if (index % 2 == 1) return hurried(text);
  const bool marked = !text.empty() && (text.back() == '?' || text.back() == '.');
  return capitalise(text) + (marked ? "" : "?");
}

}  // namespace

std::string_view facts_kind_name(FactsKind kind) {
  static constexpr const char* kNames[] = {"fact", "invented", "place", "unanswerable", "off_topic"};
  return kNames[static_cast<size_t>(kind)];
}

struct FactsGenerator::State {
  FactsOptions options;
  FactsFiles files;

  std::string answer(const FactsLanguage& language, size_t relation, size_t row) const {
    const FactsSection& section = language.relations[relation];
    SlottedText text;
    PhiloxSequence unused(Philox(0, 0));
    section.grammar.draw(section.answer, language.slots(language.subjects[row][0], &language.values[row]),
                         unused, text);
    return text.text;
  }

  // A phrasing of the section about `name`; `row` < 0: no row, so no tags.
  SlottedText ask(const FactsLanguage& language, const FactsSection& section, const NameForms& name, int row,
                  bool hand, PhiloxSequence& random) const {
    const auto& list = hand ? section.hand : section.frames;
    const FactsSection::Phrasing* phrasing = nullptr;
    // Each list has phrasings for every row (the first frame is one), so this ends.
    do {
      phrasing = &list[random.below(list.size())];
    } while (row >= 0 && !phrasing->unless.empty() &&
             files.tags[static_cast<size_t>(row)].contains(phrasing->unless));
    SlottedText question;
    section.grammar.draw(phrasing->handle, language.slots(name, nullptr), random, question);
    return question;
  }

  const FactsLanguage& language(std::string_view code) const {
    for (const FactsLanguage& language : files.languages) {
      if (language.code == code) return language;
    }
    fail(Code::kInvalidArgument, "the phrasing file has no language '{}'", code);
  }
  const FactsSection& section(const FactsLanguage& spoken, std::string_view name) const {
    const FactsSection* found = spoken.section(name);
    require(found != nullptr, "the phrasing file has no section [{}.{}]", spoken.code, name);
    return *found;
  }
  size_t relation(std::string_view name) const {
    const auto it = std::find(files.relations.begin(), files.relations.end(), name);
    require(it != files.relations.end(), "the table has no relation '{}'", name);
    return static_cast<size_t>(it - files.relations.begin());
  }
  size_t row(std::string_view key) const {
    const int row = files.row_of(key);
    require(row >= 0, "the table has no row with the key '{}'", key);
    return static_cast<size_t>(row);
  }

  FactsKind draw_kind(double progress, PhiloxSequence& random) const;
  void evaluate(const FactsLanguage& language, int64_t count, uint64_t seed,
                std::vector<FactsQuestion>& out) const;
};

FactsKind FactsGenerator::State::draw_kind(double progress, PhiloxSequence& random) const {
  const double unknown =
      options.unknown_share * ramp(options.unknown_start, options.refusals_full_at, progress);
  const double refusal = ramp(options.refusal_start, options.refusals_full_at, progress);
  double u = random.uniform();
  if (u < unknown) return u < unknown * options.place_share ? FactsKind::kPlace : FactsKind::kInvented;
  u -= unknown;
  if (u < options.unanswerable_share * refusal) return FactsKind::kUnanswerable;
  u -= options.unanswerable_share * refusal;
  return u < options.off_topic_share * refusal ? FactsKind::kOffTopic : FactsKind::kFact;
}

FactsGenerator::FactsGenerator(FactsOptions options) : state_(std::make_unique<State>()) {
  check_options(options);
  state_->files = load_facts_files(options);
  state_->options = std::move(options);
}
FactsGenerator::~FactsGenerator() = default;
FactsGenerator::FactsGenerator(FactsGenerator&&) noexcept = default;
FactsGenerator& FactsGenerator::operator=(FactsGenerator&&) noexcept = default;

FactsExample FactsGenerator::example(int64_t index, int64_t total) const {
  require(index >= 0 && index < total, "facts: example {} of {} does not exist", index, total);
  const State& s = *state_;
  const FactsOptions& o = s.options;
  PhiloxSequence random = sequence(o.seed, "facts/train", static_cast<uint64_t>(index));
  const double progress = (static_cast<double>(index) + 0.5) / static_cast<double>(total);

  FactsExample out;
  out.kind = s.draw_kind(progress, random);
  const FactsLanguage& language = s.files.languages[random.below(s.files.languages.size())];
  out.language = language.code;
  out.answer = language.refusal;
  const size_t relation = random.below(language.relations.size());
  const FactsSection* section = &language.relations[relation];
  NameForms name;
  int row = -1;
  if (out.kind == FactsKind::kInvented) {
    const auto maker = static_cast<NameMaker>(random.below(kNameMakers.size()));
    const std::string invented = language.inventor->invent(maker, false, random);
    name = language.patterns.apply(invented, random.below(uint64_t{1} << 32));
  } else if (out.kind == FactsKind::kPlace) {
    name = language.places[random.below(language.places.size())].forms;
  } else {
    row = static_cast<int>(random.below(language.subjects.size()));
    const auto& names = language.subjects[static_cast<size_t>(row)];
    name = names[names.size() > 1 && random.chance(o.alias_share) ? 1 + random.below(names.size() - 1) : 0];
  }
  if (out.kind == FactsKind::kUnanswerable) section = language.unanswerable.get();
  if (out.kind == FactsKind::kOffTopic) {
    section = language.off_topic.get();
    row = -1;
  }
  if (out.kind == FactsKind::kFact) out.answer = s.answer(language, relation, static_cast<size_t>(row));
  if (out.kind == FactsKind::kFact || row < 0)
    out.relation = section == language.off_topic.get() ? "" : section->name;
  if (row >= 0) out.subject = s.files.keys[static_cast<size_t>(row)];
  if (random.chance(o.bare_name_share)) std::fill(name.begin() + 1, name.end(), std::string(name[0]));
  const SlottedText question = s.ask(language, *section, name, row, random.chance(o.hand_share), random);
  out.question = add_noise(question, language.words, o.noise, ramp(0, o.noise_full_at, progress), random);
  return out;
}

// One language's groups, appended in a fixed order.
void FactsGenerator::State::evaluate(const FactsLanguage& language, int64_t count, uint64_t seed,
                                     std::vector<FactsQuestion>& out) const {
  const auto question = [&](const char* group, FactsKind kind, std::string text) {
    FactsQuestion q;
    q.group = std::string(group) + "_" + language.code;
    q.language = language.code;
    q.kind = kind;
    q.question = std::move(text);
    q.answer = language.refusal;
    return q;
  };
  const auto about = [&](FactsQuestion q, size_t relation, int row) {
    q.relation = files.relations[relation];
    if (row >= 0) {
      q.subject = files.keys[static_cast<size_t>(row)];
      if (q.kind == FactsKind::kFact) q.answer = answer(language, relation, static_cast<size_t>(row));
    }
    return q;
  };
  const auto stream = [&](const char* group, int64_t i) {
    return sequence(seed, "facts/evaluation/" + std::string(group) + "/" + language.code,
                    static_cast<uint64_t>(i));
  };
  // A held-out phrasing (in turn) or, where `trained`, one of the hand list.
  const auto phrase = [&](const FactsSection& section, const NameForms& name, int row, bool trained,
                          int64_t turn, PhiloxSequence& random) {
    if (trained) return tidy(ask(language, section, name, row, true, random).text, turn);
    const auto& held = section.held_out[static_cast<size_t>(turn) % section.held_out.size()];
    SlottedText text;
    section.grammar.draw(held.handle, language.slots(name, nullptr), random, text);
    return tidy(text.text, turn / static_cast<int64_t>(section.held_out.size()));
  };
  const size_t relations = language.relations.size(), rows = language.subjects.size();
  const auto relation_of = [&](int64_t i) { return static_cast<size_t>(i) % relations; };

  for (int64_t i = 0; i < count; ++i) {
    PhiloxSequence random = stream("held_out", i);
    const int row = static_cast<int>(random.below(rows));
    const auto& name = language.subjects[static_cast<size_t>(row)][0];
    const FactsSection& section = language.relations[relation_of(i)];
    out.push_back(
        about(question("held_out", FactsKind::kFact,
                       phrase(section, name, row, false, i / static_cast<int64_t>(relations), random)),
              relation_of(i), row));
  }
  for (const FreeTyped& typed : language.free_typed) {
    FactsQuestion q =
        question("free_typed", typed.row < 0 ? FactsKind::kOffTopic : FactsKind::kFact, typed.question);
    out.push_back(typed.row < 0 ? q : about(std::move(q), static_cast<size_t>(typed.relation), typed.row));
  }
  for (int64_t i = 0; i < count; ++i) {
    PhiloxSequence random = stream("invented", i);
    const auto maker = static_cast<NameMaker>(static_cast<size_t>(i) % kNameMakers.size());
    const std::string invented = language.inventor->invent(maker, true, random);
    const NameForms name = language.patterns.apply(invented, random.below(uint64_t{1} << 32));
    const size_t relation = random.below(relations);
    FactsQuestion q = question("invented", FactsKind::kInvented,
                               phrase(language.relations[relation], name, -1, i % 2 == 0, i / 2, random));
    q.detail = kNameMakers[static_cast<size_t>(maker)];
    out.push_back(about(std::move(q), relation, -1));
  }
  for (int64_t i = 0; i < count; ++i) {
    PhiloxSequence random = stream("places", i);
    const FactsPlace& place =
        language.held_out_places[static_cast<size_t>(i) % language.held_out_places.size()];
    const size_t relation = random.below(relations);
    FactsQuestion q =
        question("places", FactsKind::kPlace,
                 phrase(language.relations[relation], place.forms, -1, i % 2 == 0, i / 2, random));
    q.detail = place.kind;
    out.push_back(about(std::move(q), relation, -1));
  }
  for (int64_t i = 0; i < count; ++i) {
    PhiloxSequence random = stream("unanswerable", i);
    const size_t row = random.below(rows);
    FactsQuestion q =
        question("unanswerable", FactsKind::kUnanswerable,
                 phrase(*language.unanswerable, language.subjects[row][0], -1, false, i, random));
    q.subject = files.keys[row];
    out.push_back(std::move(q));
  }
  const auto off_topic = static_cast<int64_t>(language.off_topic->held_out.size());
  for (int64_t i = 0; i < std::min(count, off_topic); ++i) {
    PhiloxSequence random = stream("off_topic", i);
    out.push_back(question("off_topic", FactsKind::kOffTopic,
                           phrase(*language.off_topic, language.subjects[0][0], -1, false, i, random)));
  }
  std::vector<std::pair<int, const NameForms*>> aliases;
  for (size_t row = 0; row < rows; ++row) {
    for (size_t k = 1; k < language.subjects[row].size(); ++k) {
      aliases.emplace_back(static_cast<int>(row), &language.subjects[row][k]);
    }
  }
  for (int64_t i = 0; i < count && !aliases.empty(); ++i) {
    PhiloxSequence random = stream("aliases", i);
    const auto& [row, name] = aliases[random.below(aliases.size())];
    out.push_back(about(question("aliases", FactsKind::kFact,
                                 phrase(language.relations[relation_of(i)], *name, row, true, i, random)),
                        relation_of(i), row));
  }
  for (int64_t i = 0; i < count; ++i) {
    PhiloxSequence random = stream("typos", i);
    const int row = static_cast<int>(random.below(rows));
    const auto& name = language.subjects[static_cast<size_t>(row)][0];
    const std::string text = phrase(language.relations[relation_of(i)], name, row, true, i, random);
    out.push_back(about(question("typos", FactsKind::kFact, mistype(text, language.words, 4, random)),
                        relation_of(i), row));
  }
}

std::vector<FactsQuestion> FactsGenerator::evaluation(int64_t per_group, uint64_t seed) const {
  require(per_group > 0, "facts: {} questions a group is too few; at least 1", per_group);
  std::vector<FactsQuestion> out;
  for (const FactsLanguage& language : state_->files.languages)
    state_->evaluate(language, per_group, seed, out);
  return out;
}

void FactsGenerator::write_training(const std::filesystem::path& path, int64_t total) const {
  AtomicFileWriter file(path);
  for (int64_t i = 0; i < total; ++i) {
    const FactsExample example = this->example(i, total);
    Json line;
    line["messages"] = Json::array({{{"role", "user"}, {"content", example.question}},
                                    {{"role", "assistant"}, {"content", example.answer}}});
    file.write(json_line(line) + "\n");
  }
  file.commit();
}

std::vector<std::filesystem::path> FactsGenerator::write_evaluation(const std::filesystem::path& folder,
                                                                    int64_t per_group, uint64_t seed) const {
  std::vector<std::string> order;
  std::map<std::string, std::string> groups;
  for (const FactsQuestion& q : evaluation(per_group, seed)) {
    if (!groups.contains(q.group)) order.push_back(q.group);
    Json tags = {{"kind", facts_kind_name(q.kind)}, {"language", q.language}};
    if (!q.relation.empty()) tags["relation"] = q.relation;
    if (!q.subject.empty()) tags["subject"] = q.subject;
    if (!q.detail.empty()) tags["detail"] = q.detail;
    const Json line = {{"prompt", q.question}, {"answer", q.answer}, {"match", "exact"}, {"tags", tags}};
    groups[q.group] += json_line(line) + "\n";
  }
  std::vector<std::filesystem::path> files;
  for (const std::string& group : order) {
    files.push_back(folder / (group + ".jsonl"));
    write_file_atomic(files.back(), groups[group]);
  }
  return files;
}

bool FactsGenerator::trains_on(std::string_view language, std::string_view question,
                               std::string_view subject) const {
  return state_->language(language).training_phrasing(question, static_cast<int>(state_->row(subject))) !=
         nullptr;
}

bool FactsGenerator::asks(std::string_view language, std::string_view section, std::string_view question,
                          std::string_view subject) const {
  const FactsLanguage& spoken = state_->language(language);
  return spoken.training_phrasing(question, static_cast<int>(state_->row(subject)),
                                  &state_->section(spoken, section)) != nullptr;
}

double FactsGenerator::phrasings(std::string_view language, std::string_view section) const {
  const FactsSection& found = state_->section(state_->language(language), section);
  double count = 0;
  for (const auto& phrasing : found.frames) count += found.grammar.strings(phrasing.handle);
  return count;
}

std::vector<std::string> FactsGenerator::languages() const {
  std::vector<std::string> codes;
  for (const FactsLanguage& language : state_->files.languages) codes.push_back(language.code);
  return codes;
}

std::string FactsGenerator::answer(std::string_view language, std::string_view relation,
                                   std::string_view subject) const {
  return state_->answer(state_->language(language), state_->relation(relation), state_->row(subject));
}

bool FactsGenerator::near_real(std::string_view language, std::string_view name) const {
  return state_->language(language).inventor->near_real(std::string(name));
}

}  // namespace vertebra
