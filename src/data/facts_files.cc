// Reading and checking the files of a facts recipe; see facts_files.h.
#include "data/facts_files.h"

#include <fmt/ranges.h>
#include <toml++/toml.h>

#include <algorithm>
#include <map>

#include "base/error.h"
#include "base/file.h"

namespace vertebra {
namespace {

// A TOML table with its place in the file, for errors.
class Section {
 public:
  Section(const toml::table& table, std::string source, std::string path)
      : table_(&table), source_(std::move(source)), path_(std::move(path)) {}

  std::string where() const { return path_.empty() ? source_ : source_ + ": [" + path_ + "]"; }
  bool has(std::string_view key) const { return table_->contains(key); }

  Section table(std::string_view key) const {
    const toml::table* found = table_->get_as<toml::table>(key);
    require(found != nullptr, "{} needs a table '{}'", where(), key);
    return {*found, source_, path_.empty() ? std::string(key) : path_ + "." + std::string(key)};
  }
  std::string text(std::string_view key) const {
    const auto* found = table_->get_as<std::string>(key);
    require(found != nullptr && !found->get().empty(), "{} needs '{}' = \"text\"", where(), key);
    return found->get();
  }
  std::vector<std::string> list(std::string_view key, bool required) const {
    const toml::node* node = table_->get(key);
    if (node == nullptr && !required) return {};
    const toml::array* array = node == nullptr ? nullptr : node->as_array();
    require(array != nullptr, "{} needs '{}' = [\"text\", ...]", where(), key);
    std::vector<std::string> out;
    for (const toml::node& item : *array) {
      const auto* text = item.as_string();
      require(text != nullptr, "{}: item {} of '{}' is not text", where(), out.size() + 1, key);
      out.push_back(text->get());
    }
    require(!required || !out.empty(), "{}: '{}' is an empty list", where(), key);
    return out;
  }
  std::vector<std::string> keys() const {
    std::vector<std::string> out;
    for (const auto& [key, value] : *table_) out.emplace_back(key.str());
    return out;
  }
  void allow_only(const std::vector<std::string>& known) const {
    for (const std::string& key : keys()) {
      std::string all;
      for (const std::string& name : known) all += (all.empty() ? "" : ", ") + name;
      require(std::find(known.begin(), known.end(), key) != known.end(),
              "{}: unknown key '{}'; the keys are {}", where(), key, all);
    }
  }

 private:
  const toml::table* table_;
  std::string source_, path_;
};

toml::table parse_phrasings(const std::filesystem::path& path) {
  const std::string text = read_file(path);
  try {
    return toml::parse(text, path.string());
  } catch (const toml::parse_error& error) {
    fail(Code::kInvalidArgument, "{}: line {}, column {}: {}", path.string(), error.source().begin.line,
         error.source().begin.column, error.description());
  }
}

std::vector<FactsSection::Phrasing> add_phrasings(FactsGrammar& grammar,
                                                  const std::vector<std::string>& texts,
                                                  const std::string& unless = "") {
  std::vector<FactsSection::Phrasing> out;
  for (const std::string& text : texts) out.push_back({grammar.add(text), text, unless});
  return out;
}

std::unique_ptr<FactsSection> read_section(const Section& language, const std::string& name,
                                           const std::vector<std::string>& slots, size_t forms,
                                           bool relation) {
  const Section section = language.table(name);
  section.allow_only(relation
                         ? std::vector<std::string>{"answer", "hand", "frames", "unless", "parts", "held_out"}
                         : std::vector<std::string>{"hand", "frames", "parts", "held_out"});
  FactsGrammar grammar(slots, section.where());
  for (const Section& owner : {language, section}) {
    if (!owner.has("parts")) continue;
    const Section parts = owner.table("parts");
    for (const std::string& part : parts.keys()) grammar.declare_part(part, parts.list(part, true));
  }
  auto out = std::make_unique<FactsSection>(std::move(grammar));
  out->name = name;
  out->hand = add_phrasings(out->grammar, section.list("hand", true));
  out->frames = add_phrasings(out->grammar, section.list("frames", true));
  if (section.has("unless")) {
    const Section unless = section.table("unless");
    for (const std::string& tag : unless.keys()) {
      for (auto& phrasing : add_phrasings(out->grammar, unless.list(tag, true), tag)) {
        out->frames.push_back(std::move(phrasing));
      }
    }
  }
  out->held_out = add_phrasings(out->grammar, section.list("held_out", true));
  for (const auto* list : {&out->hand, &out->frames, &out->held_out}) {
    for (const auto& phrasing : *list) {
      for (size_t slot = forms; slot < slots.size(); ++slot) {
        require(!out->grammar.uses_slot(phrasing.handle, static_cast<int>(slot)),
                "{}: '{}' asks with {{{}}}, which is an answer; questions may use the forms of the name only",
                section.where(), phrasing.text, slots[slot]);
      }
    }
  }
  if (relation) {
    out->answer = out->grammar.add(section.text("answer"));
    require(out->grammar.strings(out->answer) == 1, "{}: 'answer' must be one sentence, without choices",
            section.where());
  }
  return out;
}

NoiseWords read_noise(const Section& language) {
  NoiseWords words;
  words.greetings = language.list("greetings", false);
  words.closings = language.list("closings", false);
  words.fillers = language.list("fillers", false);
  for (const std::string& word : language.list("droppable", false))
    words.droppable.push_back(fold_text(word, false));
  words.keyboard = language.list("keyboard", false);
  for (const char* list : {"misspellings", "shorthand"}) {
    for (const std::string& pair : language.list(list, false)) {
      const size_t arrow = pair.find('>');
      require(arrow != std::string::npos && arrow > 0, "{}: '{}' in '{}' is not written right>wrong",
              language.where(), pair, list);
      const std::string right = pair.substr(0, arrow), wrong = pair.substr(arrow + 1);
      if (list == std::string_view("misspellings")) {
        words.misspellings.emplace_back(right, wrong);
      } else {
        words.shorthand.emplace(fold_text(right, false), wrong);
      }
    }
  }
  return words;
}

std::vector<std::string> split(std::string_view text, char separator) {
  std::vector<std::string> out(1);
  for (const char c : text) {
    if (c == separator) {
      out.emplace_back();
    } else {
      out.back() += c;
    }
  }
  return out;
}

const std::string& filled_cell(const CsvTable& table, size_t row, const std::string& column) {
  const std::string& cell = table.cell(row, column);
  require(!cell.empty(), "{}: row {} ({}) has nothing in column '{}'", table.source(), row + 2,
          table.cell(row, size_t{0}), column);
  return cell;
}

NameForms read_forms(const CsvTable& table, size_t row, const FactsLanguage& language) {
  NameForms forms;
  for (const std::string& form : language.forms) {
    forms.push_back(filled_cell(table, row, form + "_" + language.code));
  }
  return forms;
}

void read_subjects(const CsvTable& table, const FactsFiles& files, FactsLanguage& language) {
  const std::string aliases_column = "aliases_" + language.code;
  std::map<std::string, size_t> owners;  // folded name -> row
  const auto own = [&](const NameForms& forms, size_t row) {
    const std::string folded = fold_text(forms[0], false);
    require(!folded.empty(), "{}: '{}' in row {} has no letter to go by", table.source(), forms[0], row + 2);
    const auto [it, fresh] = owners.emplace(folded, row);
    require(fresh || it->second == row, "{}: rows {} and {} are both called '{}'", table.source(),
            it->second + 2, row + 2, forms[0]);
  };
  for (size_t row = 0; row < table.rows(); ++row) {
    std::vector<NameForms> names = {read_forms(table, row, language)};
    own(names[0], row);
    language.patterns.add(names[0]);
    const std::string aliases = table.has(aliases_column) ? table.cell(row, aliases_column) : "";
    if (!aliases.empty()) {
      for (const std::string& alias : split(aliases, ';')) {
        NameForms forms = split(alias, '|');
        require(
            forms.size() == language.forms.size() && std::find(forms.begin(), forms.end(), "") == forms.end(),
            "{}: row {}: the alias '{}' has {} forms, {} are wanted, separated by '|'", table.source(),
            row + 2, alias, forms.size(), language.forms.size());
        own(forms, row);
        names.push_back(std::move(forms));
      }
    }
    language.subjects.push_back(std::move(names));
    std::vector<std::string> values;
    for (const std::string& relation : files.relations) {
      values.push_back(filled_cell(table, row, relation + "_" + language.code));
    }
    language.values.push_back(std::move(values));
  }
}

void read_places(const CsvTable& places, FactsLanguage& language) {
  std::set<std::string> names, seen;
  for (const auto& subject : language.subjects) {
    for (const NameForms& forms : subject) names.insert(fold_text(forms[0], false));
  }
  for (size_t row = 0; row < places.rows(); ++row) {
    const std::string& split = places.cell(row, "split");
    require(split == "train" || split == "eval", "{}: row {} has split '{}'; it is train or eval",
            places.source(), row + 2, split);
    FactsPlace place{read_forms(places, row, language), places.cell(row, "kind")};
    const std::string folded = fold_text(place.forms[0], false);
    require(!names.contains(folded), "{}: row {}: '{}' is a name in the table of subjects", places.source(),
            row + 2, place.forms[0]);
    require(seen.insert(folded).second, "{}: row {}: '{}' stands here twice", places.source(), row + 2,
            place.forms[0]);
    (split == "train" ? language.places : language.held_out_places).push_back(std::move(place));
  }
  require(!language.places.empty() && !language.held_out_places.empty(),
          "{} needs places of both splits, train and eval", places.source());
}

void read_free_typed(const Section& section, const FactsFiles& files, FactsLanguage& language) {
  for (const std::string& line : section.list("free_typed", false)) {
    const auto fields = split(line, '|');
    require(fields.size() == 3, "{}: free_typed '{}' is not written question|row|relation (or question|-|-)",
            section.where(), line);
    const auto relation = std::find(files.relations.begin(), files.relations.end(), fields[2]);
    const bool refusal = fields[1] == "-" && fields[2] == "-";
    const int row = refusal ? -1 : files.row_of(fields[1]);
    require(refusal || (row >= 0 && relation != files.relations.end()),
            "{}: free_typed '{}' names no row of the table or no relation", section.where(), line);
    language.free_typed.push_back({fields[0], row, static_cast<int>(relation - files.relations.begin())});
  }
}

// Held-out questions that the training phrasings can produce measure memory: refuse them.
void check_held_out(const FactsLanguage& language, const std::string& source) {
  std::set<std::string> found;
  const auto check = [&](std::string_view question, int row, const std::string& list,
                         const std::string& text) {
    const auto* producer = language.training_phrasing(question, row);
    if (producer != nullptr) found.insert(fmt::format("[{}] '{}' by '{}'", list, text, producer->text));
  };
  const auto check_section = [&](const FactsSection& section) {
    for (const auto& phrasing : section.held_out) {
      for (const size_t row : language.patterns.distinct()) {
        SlottedText question;
        PhiloxSequence random(Philox(0, row));
        section.grammar.draw(phrasing.handle, language.slots(language.subjects[row][0], nullptr), random,
                             question);
        check(question.text, static_cast<int>(row), language.code + "." + section.name + ".held_out",
              phrasing.text);
      }
    }
  };
  for (const FactsSection& relation : language.relations) check_section(relation);
  check_section(*language.unanswerable);
  check_section(*language.off_topic);
  for (const FreeTyped& typed : language.free_typed) {
    const std::string folded = fold_text(typed.question, false);
    for (size_t row = 0; row < language.subjects.size(); ++row) {
      const auto& names = language.subjects[row];
      // A refusal names no row: it could be trained on with any row whose name it contains.
      const bool concerned =
          typed.row >= 0 ? row == static_cast<size_t>(typed.row)
                         : row == 0 || std::any_of(names.begin(), names.end(), [&](const NameForms& forms) {
                             return folded.find(fold_text(forms[0], false)) != std::string::npos;
                           });
      if (concerned) {
        check(typed.question, static_cast<int>(row), language.code + ".free_typed", typed.question);
      }
    }
  }
  require(found.empty(),
          "{}: training can produce {} of the phrasings that are held out; change one of each pair:\n{}",
          source, found.size(), fmt::join(found, "\n"));
}

FactsLanguage read_language(const Section& section, const std::string& code, const CsvTable& table,
                            const CsvTable& places, const FactsFiles& files) {
  FactsLanguage language;
  language.code = code;
  std::vector<std::string> known = {"forms",   "refusal",    "invented_prefixes", "greetings",    "closings",
                                    "fillers", "droppable",  "keyboard",          "misspellings", "shorthand",
                                    "parts",   "free_typed", "off_topic",         "unanswerable"};
  known.insert(known.end(), files.relations.begin(), files.relations.end());
  section.allow_only(known);
  language.refusal = section.text("refusal");
  language.forms = section.list("forms", true);
  language.words = read_noise(section);
  std::vector<std::string> slots = language.forms;
  slots.insert(slots.end(), files.relations.begin(), files.relations.end());
  for (const std::string& relation : files.relations) {
    language.relations.push_back(
        std::move(*read_section(section, relation, slots, language.forms.size(), true)));
  }
  language.unanswerable = read_section(section, "unanswerable", slots, language.forms.size(), false);
  language.off_topic = read_section(section, "off_topic", slots, 0, false);
  read_subjects(table, files, language);
  read_places(places, language);
  read_free_typed(section, files, language);
  std::vector<std::string> names;
  for (const auto& subject : language.subjects) {
    for (const NameForms& forms : subject) names.push_back(forms[0]);
  }
  const auto prefixes = section.list("invented_prefixes", false);
  for (const std::string& prefix : prefixes) {
    require(prefix.find("{}") != std::string::npos, "{}: invented prefix '{}' has no {{}} for the name",
            section.where(), prefix);
  }
  language.inventor = std::make_unique<NameInventor>(names, prefixes);
  return language;
}

}  // namespace

int FactsFiles::row_of(std::string_view key) const {
  const auto it = std::find(keys.begin(), keys.end(), key);
  return it == keys.end() ? -1 : static_cast<int>(it - keys.begin());
}

std::string FactsFiles::answer(const FactsLanguage& language, size_t relation, size_t row) const {
  const FactsSection& section = language.relations[relation];
  SlottedText text;
  PhiloxSequence unused(Philox(0, 0));
  section.grammar.draw(section.answer, language.slots(language.subjects[row][0], &language.values[row]),
                       unused, text);
  return text.text;
}

SlottedText FactsFiles::ask(const FactsLanguage& language, const FactsSection& section, const NameForms& name,
                            int row, bool hand, PhiloxSequence& random) const {
  const auto& list = hand ? section.hand : section.frames;
  const FactsSection::Phrasing* phrasing = nullptr;
  // Each list has phrasings for every row (the first frame is one), so this ends.
  do {
    phrasing = &list[random.below(list.size())];
  } while (row >= 0 && !phrasing->unless.empty() &&
           tags[static_cast<size_t>(row)].contains(phrasing->unless));
  SlottedText question;
  section.grammar.draw(phrasing->handle, language.slots(name, nullptr), random, question);
  return question;
}

FactsGrammar::SlotText FactsLanguage::slots(const NameForms& name,
                                            const std::vector<std::string>* row_values) const {
  return [&name, row_values](int slot) -> std::string_view {
    const size_t index = static_cast<size_t>(slot);
    if (index < name.size()) return name[index];
    VERTEBRA_CHECK(row_values != nullptr, "a question uses an answer's slot");
    return (*row_values)[index - name.size()];
  };
}

const FactsSection* FactsLanguage::section(std::string_view name) const {
  for (const FactsSection* known : {unanswerable.get(), off_topic.get()}) {
    if (known->name == name) return known;
  }
  for (const FactsSection& relation : relations) {
    if (relation.name == name) return &relation;
  }
  return nullptr;
}

const FactsSection::Phrasing* FactsLanguage::training_phrasing(std::string_view question, int row,
                                                               const FactsSection* only) const {
  const std::string folded = fold_text(question, false);
  std::vector<size_t> starts = {0};
  for (const std::string& greeting : words.greetings) {
    const std::string front = fold_text(greeting, false);
    if (folded.starts_with(front)) starts.push_back(front.size());
  }
  std::sort(starts.begin(), starts.end());
  starts.erase(std::unique(starts.begin(), starts.end()), starts.end());
  std::set<std::string> closings = {""};
  for (const std::string& closing : words.closings) closings.insert(fold_text(closing, false));
  const auto accept = [&](size_t end) { return closings.contains(folded.substr(end)); };

  std::vector<const FactsSection*> sections = {unanswerable.get(), off_topic.get()};
  for (const FactsSection& relation : relations) sections.push_back(&relation);
  for (const NameForms& name : subjects[static_cast<size_t>(row)]) {
    const auto texts = slots(name, nullptr);
    for (const FactsSection* section : sections) {
      if (only != nullptr && section != only) continue;
      for (const auto* list : {&section->hand, &section->frames}) {
        for (const auto& phrasing : *list) {
          if (section->grammar.produces(phrasing.handle, folded, starts, accept, texts)) return &phrasing;
        }
      }
    }
  }
  return nullptr;
}

FactsFiles load_facts_files(const FactsOptions& options) {
  const CsvTable table = CsvTable::read(options.table);
  const CsvTable places = CsvTable::read(options.places);
  const toml::table parsed = parse_phrasings(options.phrasings);
  const Section root(parsed, options.phrasings.string(), "");
  const Section about = root.table("table");
  about.allow_only({"key", "relations"});
  FactsFiles files;
  files.relations = about.list("relations", true);
  const std::string key = about.text("key");
  std::set<std::string> seen;
  for (size_t row = 0; row < table.rows(); ++row) {
    files.keys.push_back(filled_cell(table, row, key));
    require(seen.insert(files.keys.back()).second, "{}: row {}: the key '{}' stands in another row too",
            table.source(), row + 2, files.keys.back());
    std::set<std::string> tags;
    if (table.has("tags")) {
      for (const std::string& tag : split(table.cell(row, "tags"), ';')) tags.insert(tag);
    }
    files.tags.push_back(std::move(tags));
  }
  for (const std::string& code : root.keys()) {
    if (code == "table") continue;
    files.languages.push_back(read_language(root.table(code), code, table, places, files));
    check_held_out(files.languages.back(), options.phrasings.string());
  }
  require(!files.languages.empty(), "{} has no language; add a table such as [en]",
          options.phrasings.string());
  return files;
}

}  // namespace vertebra
