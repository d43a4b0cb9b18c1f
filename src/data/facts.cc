// Drawing questions and answers from the files of a facts recipe; see facts.h.
#include "data/facts.h"

#include <algorithm>
#include <map>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "data/facts_evaluation.h"
#include "data/facts_files.h"

namespace vertebra {
namespace {

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
      {o.noise.name_typo, "noise.name_typo"},
      {o.noise.shorthand, "noise.shorthand"},
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

}  // namespace

std::string_view facts_kind_name(FactsKind kind) {
  static constexpr const char* kNames[] = {"fact", "invented", "place", "unanswerable", "off_topic"};
  return kNames[static_cast<size_t>(kind)];
}

struct FactsGenerator::State {
  FactsOptions options;
  FactsFiles files;

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
  PhiloxSequence random = facts_random(o.seed, "facts/train", static_cast<uint64_t>(index));
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
  if (out.kind == FactsKind::kFact) out.answer = s.files.answer(language, relation, static_cast<size_t>(row));
  if (out.kind == FactsKind::kFact || row < 0)
    out.relation = section == language.off_topic.get() ? "" : section->name;
  if (row >= 0) out.subject = s.files.keys[static_cast<size_t>(row)];
  if (random.chance(o.bare_name_share)) std::fill(name.begin() + 1, name.end(), std::string(name[0]));
  const SlottedText question =
      s.files.ask(language, *section, name, row, random.chance(o.hand_share), random);
  out.question = add_noise(question, language.words, o.noise, ramp(0, o.noise_full_at, progress), random);
  return out;
}

std::vector<FactsQuestion> FactsGenerator::evaluation(int64_t per_group, uint64_t seed) const {
  return facts_evaluation(state_->files, per_group, seed);
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
  return state_->files.answer(state_->language(language), state_->relation(relation), state_->row(subject));
}

bool FactsGenerator::near_real(std::string_view language, std::string_view name) const {
  return state_->language(language).inventor->near_real(std::string(name));
}

}  // namespace vertebra
