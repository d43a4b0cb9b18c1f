// The facts generator on the recipe's own files: replayable, held-out phrasings kept out of training,
// invented names unlike real ones, shares and curriculum as configured.
#include "data/facts.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <set>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "data/facts_names.h"
#include "data/facts_table.h"

namespace vertebra {
namespace {

FactsOptions recipe_options(uint64_t seed) {
  const std::filesystem::path folder = std::filesystem::path(VERTEBRA_SOURCE_DIR) / "recipes/hello";
  return {.table = folder / "countries.csv",
          .places = folder / "places.csv",
          .phrasings = folder / "phrasings.toml",
          .seed = seed};
}

const FactsGenerator& generator() {
  static const FactsGenerator shared(recipe_options(1));
  return shared;
}

bool same(const FactsExample& a, const FactsExample& b) {
  return a.question == b.question && a.answer == b.answer && a.language == b.language &&
         a.relation == b.relation && a.subject == b.subject && a.kind == b.kind;
}

std::map<FactsKind, double> kind_shares(int64_t first, int64_t last, int64_t total) {
  std::map<FactsKind, double> shares;
  for (int64_t i = first; i < last; ++i) {
    shares[generator().example(i, total).kind] += 1.0 / static_cast<double>(last - first);
  }
  return shares;
}

TEST(Facts, AnExampleDependsOnSeedIndexAndTotalAlone) {
  const FactsGenerator again(recipe_options(1));
  const FactsGenerator other(recipe_options(2));
  int differ = 0;
  for (int64_t i = 0; i < 200; ++i) {
    const int64_t index = (i * 7919) % 5000;  // in no order
    EXPECT_TRUE(same(generator().example(index, 5000), again.example(index, 5000))) << index;
    differ += generator().example(index, 5000).question != other.example(index, 5000).question;
  }
  EXPECT_GT(differ, 190);
}

TEST(Facts, PastTheCurriculumTheTotalChangesNothing) {
  for (int64_t i = 900; i < 1000; ++i) {
    EXPECT_TRUE(same(generator().example(i, 1000), generator().example(i, 1100))) << i;
  }
}

TEST(Facts, OutOfRangeIndicesAreErrors) {
  EXPECT_THROW(generator().example(-1, 10), Error);
  EXPECT_THROW(generator().example(10, 10), Error);
}

TEST(Facts, SharesAreAsConfiguredOnceTheRampIsOver) {
  auto shares = kind_shares(12000, 20000, 20000);
  EXPECT_NEAR(shares[FactsKind::kInvented] + shares[FactsKind::kPlace], 0.32, 0.02);
  EXPECT_NEAR(shares[FactsKind::kPlace], 0.32 * 0.22, 0.012);
  EXPECT_NEAR(shares[FactsKind::kUnanswerable], 0.10, 0.015);
  EXPECT_NEAR(shares[FactsKind::kOffTopic], 0.07, 0.012);
}

TEST(Facts, RefusalsStartSmallAndGrow) {
  auto shares = kind_shares(0, 4000, 400000);  // the first hundredth
  EXPECT_NEAR(shares[FactsKind::kInvented] + shares[FactsKind::kPlace], 0.25 * 0.32, 0.02);
  EXPECT_NEAR(shares[FactsKind::kUnanswerable] + shares[FactsKind::kOffTopic], 0.40 * 0.17, 0.02);
}

TEST(Facts, AnswersAreTheTableOrTheRefusal) {
  for (int64_t i = 0; i < 3000; ++i) {
    const FactsExample e = generator().example(i, 3000);
    if (e.kind == FactsKind::kFact) {
      EXPECT_EQ(e.answer, generator().answer(e.language, e.relation, e.subject));
    } else {
      EXPECT_EQ(e.answer, e.language == "en" ? "I don't know." : "Je ne sais pas.");
    }
    EXPECT_FALSE(e.question.empty());
    EXPECT_EQ(e.question.find("  "), std::string::npos) << e.question;
    EXPECT_EQ(e.question.find_first_of("{}<>|"), std::string::npos) << e.question;
  }
}

TEST(Facts, AnswersReadAsSentences) {
  const FactsGenerator& g = generator();
  EXPECT_EQ(g.answer("en", "capital", "FR"), "The capital of France is Paris.");
  EXPECT_EQ(g.answer("fr", "capital", "FR"), "La capitale de la France est Paris.");
  EXPECT_EQ(g.answer("fr", "capital", "JP"), "La capitale du Japon est Tokyo.");
  EXPECT_EQ(g.answer("en", "continent", "NL"), "The Netherlands is in Europe.");
  EXPECT_EQ(g.answer("fr", "continent", "US"), "Les États-Unis se trouvent en Amérique du Nord.");
  EXPECT_EQ(g.answer("fr", "language", "DZ"), "Une langue officielle de l'Algérie est l'arabe.");
  EXPECT_EQ(g.answer("en", "currency", "BG"), "The currency of Bulgaria is the euro.");
  EXPECT_EQ(g.answer("fr", "currency", "CU"), "La monnaie de Cuba est le peso cubain.");
}

TEST(Facts, TypingNoiseStaysWithinBounds) {
  // Questions stay near the length of a phrasing: no more than two errors, one filler, a greeting, a closing.
  size_t longest = 0;
  double letters_upper = 0, letters = 0;
  for (int64_t i = 10000; i < 14000; ++i) {
    const FactsExample e = generator().example(i, 14000);
    longest = std::max(longest, e.question.size());
    for (const char c : e.question) {
      letters += std::isalpha(static_cast<unsigned char>(c)) != 0;
      letters_upper += c >= 'A' && c <= 'Z';
    }
  }
  EXPECT_LT(longest, 260u);
  EXPECT_LT(letters_upper / letters, 0.12);
}

TEST(Facts, MistypingIsAtMostOneSlip) {
  const NoiseWords words{.greetings = {},
                         .closings = {},
                         .fillers = {},
                         .droppable = {},
                         .keyboard = {"qwertyuiop", "asdfghjkl", "zxcvbnm"},
                         .misspellings = {{"kh", "k"}, {"ai", "a"}},
                         .shorthand = {}};
  std::set<std::string> seen;
  for (uint64_t i = 0; i < 500; ++i) {
    PhiloxSequence random(Philox(5, i));
    const std::string typed = mistype("what of Kazakhstan", words, 4, random);
    EXPECT_LE(edit_distance(typed, "what of Kazakhstan", 3), 1u) << typed;
    seen.insert(typed);
  }
  EXPECT_GT(seen.size(), 30u);
  PhiloxSequence random(Philox(5, 0));
  EXPECT_EQ(mistype("Mali ?", words, 5, random), "Mali ?");
}

TEST(Facts, ShorthandReplacesWordsAndLeavesNamesAlone) {
  const NoiseWords words{.greetings = {},
                         .closings = {},
                         .fillers = {},
                         .droppable = {},
                         .keyboard = {},
                         .misspellings = {},
                         .shorthand = {{"you", "u"}, {"what", "wat"}, {"what", "wut"}, {"mali", "x"}}};
  const NoiseShares only{.typo = 0,
                         .name_typo = 0,
                         .shorthand = 1,
                         .lost_word = 0,
                         .filler = 0,
                         .greeting = 0,
                         .closing = 0,
                         .lower_case = 1,
                         .upper_case = 0,
                         .end_mark = 0};
  SlottedText question;
  question.append("what do you call ", false);
  question.append("Mali", true);
  std::set<std::string> seen;
  for (uint64_t i = 0; i < 100; ++i) {
    PhiloxSequence random(Philox(6, i));
    seen.insert(add_noise(question, words, only, 1, random));
  }
  const std::set<std::string> wanted = {"what do you call mali", "wat do you call mali",
                                        "wut do you call mali",  "what do u call mali",
                                        "wat do u call mali",    "wut do u call mali"};
  EXPECT_EQ(seen, wanted);
}

TEST(Facts, NameTyposTouchTheNameAlone) {
  const NoiseWords words{.greetings = {},
                         .closings = {},
                         .fillers = {},
                         .droppable = {},
                         .keyboard = {"qwertyuiop", "asdfghjkl", "zxcvbnm"},
                         .misspellings = {},
                         .shorthand = {}};
  const NoiseShares only{.typo = 0,
                         .name_typo = 1,
                         .shorthand = 0,
                         .lost_word = 0,
                         .filler = 0,
                         .greeting = 0,
                         .closing = 0,
                         .lower_case = 1,
                         .upper_case = 0,
                         .end_mark = 0};
  SlottedText question;
  question.append("capital of ", false);
  question.append("South Korea", true);
  question.append(" please", false);
  int changed = 0;
  for (uint64_t i = 0; i < 100; ++i) {
    PhiloxSequence random(Philox(6, i));
    const std::string typed = add_noise(question, words, only, 1, random);
    EXPECT_TRUE(typed.starts_with("capital of ") && typed.ends_with(" please")) << typed;
    EXPECT_LE(edit_distance(typed, "capital of south korea please", 3), 1u) << typed;
    changed += typed != "capital of south korea please";
  }
  EXPECT_GT(changed, 80);
}

TEST(Facts, EditDistanceCountsASwapOnce) {
  EXPECT_EQ(edit_distance("niger", "nigre", 3), 1u);
  EXPECT_EQ(edit_distance("niger", "nigeria", 3), 2u);
  EXPECT_EQ(edit_distance("", "abc", 3), 3u);
  EXPECT_EQ(edit_distance("kitten", "sitting", 3), 3u);
  EXPECT_EQ(edit_distance("paris", "london", 2), 3u);
}

TEST(Facts, InventedNamesAreUnlikeRealOnesAndTheHalvesNeverMeet) {
  const std::vector<std::string> real = {"France", "Japan",  "Brazil",  "Kenya",   "Norway", "Algeria",
                                         "Mexico", "Jordan", "Vietnam", "Iceland", "Mali",   "Cameroon"};
  const NameInventor inventor(real, {"New {}", "{} and {}"});
  EXPECT_TRUE(inventor.near_real("Algreia"));
  EXPECT_TRUE(inventor.near_real("Fraance"));
  EXPECT_FALSE(inventor.near_real("Zubrovia"));
  std::set<std::string> halves[2];
  for (uint64_t i = 0; i < 600; ++i) {
    for (const bool evaluation : {false, true}) {
      PhiloxSequence random(Philox(evaluation ? 1 : 2, i));
      const std::string name = inventor.invent(static_cast<NameMaker>(i % 3), evaluation, random);
      EXPECT_FALSE(inventor.near_real(name)) << name;
      halves[evaluation].insert(fold_text(name, false));
    }
  }
  for (const std::string& name : halves[1]) EXPECT_FALSE(halves[0].contains(name)) << name;
}

TEST(Facts, TooFewNamesToImitateIsAnError) { EXPECT_THROW(NameInventor({"France", "Japan"}, {}), Error); }

TEST(FactsEvaluation, NothingHeldOutIsTrainedOn) {
  std::set<std::string> groups;
  for (const FactsQuestion& q : generator().evaluation(240, 99)) {
    groups.insert(q.group);
    const bool held_out = q.group.starts_with("held_out") || q.group.starts_with("free_typed") ||
                          q.group.starts_with("off_topic") || q.group.starts_with("unanswerable");
    if (held_out) {
      EXPECT_FALSE(generator().trains_on(q.language, q.question, q.subject.empty() ? "FR" : q.subject))
          << q.question;
    }
  }
  EXPECT_EQ(groups.size(), 16u);
}

TEST(FactsEvaluation, TheWrittenGroupsAreLargeAndRepeatNothing) {
  // 200 questions tell 92 % from 87 % (two standard errors); a question twice would count twice.
  std::map<std::string, std::set<std::string>> asked;
  for (const FactsQuestion& q : generator().evaluation(400, 99)) {
    if (!q.group.starts_with("free_typed") && !q.group.starts_with("off_topic")) continue;
    EXPECT_TRUE(asked[q.group].insert(fold_text(q.question, false)).second) << q.question;
  }
  EXPECT_EQ(asked.size(), 4u);
  for (const auto& [group, questions] : asked) {
    EXPECT_GE(questions.size(), group.starts_with("free_typed") ? 200u : 100u) << group;
  }
}

TEST(FactsEvaluation, TheCheckSeesTrainedPhrasings) {
  EXPECT_TRUE(generator().trains_on("en", "What's the capital of the Netherlands?", "NL"));
  EXPECT_TRUE(generator().trains_on("en", "hi, what is the capital of holland please", "NL"));
  EXPECT_TRUE(generator().trains_on("fr", "Quelle langue parle-t-on au Japon ?", "JP"));
  EXPECT_FALSE(generator().trains_on("en", "What's the capital of the Netherlands?", "JP"));
}

TEST(FactsEvaluation, EvaluationNamesAndPlacesNeverOccurInTraining) {
  std::set<std::string> trained;
  const FactsGenerator& g = generator();
  for (int64_t i = 0; i < 20000; ++i) {
    const FactsExample e = g.example(i, 20000);
    if (e.kind == FactsKind::kInvented || e.kind == FactsKind::kPlace)
      trained.insert(fold_text(e.question, true));
  }
  for (const FactsQuestion& q : g.evaluation(100, 99)) {
    if (q.kind != FactsKind::kInvented && q.kind != FactsKind::kPlace) continue;
    EXPECT_FALSE(trained.contains(fold_text(q.question, true))) << q.question;
  }
}

TEST(FactsEvaluation, FilesHoldOneQuestionALine) {
  const auto folder = std::filesystem::temp_directory_path() / "vertebra_facts_evaluation";
  std::filesystem::create_directories(folder);
  const auto files = generator().write_evaluation(folder, 20, 3);
  ASSERT_EQ(files.size(), 16u);
  for (const auto& file : files) {
    const std::string text = read_file(file);
    size_t lines = 0;
    for (size_t begin = 0, end; (end = text.find('\n', begin)) != std::string::npos;
         begin = end + 1, ++lines) {
      const Json line = parse_json(text.substr(begin, end - begin), file.string());
      EXPECT_FALSE(line.at("prompt").get<std::string>().empty());
      EXPECT_FALSE(line.at("answer").get<std::string>().empty());
      EXPECT_EQ(line.at("match"), "exact");
      EXPECT_TRUE(line.at("tags").contains("language"));
    }
    EXPECT_GE(lines, 20u) << file;
  }
  std::filesystem::remove_all(folder);
}

TEST(Facts, TrainingFileHoldsConversations) {
  const auto path = std::filesystem::temp_directory_path() / "vertebra_facts_training.jsonl";
  generator().write_training(path, 50);
  const std::string text = read_file(path);
  int64_t index = 0;
  for (size_t begin = 0, end; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1, ++index) {
    const Json line = parse_json(text.substr(begin, end - begin), "line");
    const FactsExample e = generator().example(index, 50);
    ASSERT_EQ(line.at("messages").size(), 2u);
    EXPECT_EQ(line["messages"][0]["role"], "user");
    EXPECT_EQ(line["messages"][0]["content"], e.question);
    EXPECT_EQ(line["messages"][1]["role"], "assistant");
    EXPECT_EQ(line["messages"][1]["content"], e.answer);
  }
  EXPECT_EQ(index, 50);
  std::filesystem::remove(path);
}

TEST(Facts, RefusalPhrasingsAreNotQuestionsTheTableAnswers) {
  // A phrasing that can be both would teach to refuse what is known. Asked through the relations' own
  // grammar: an unanswerable question must not be a trained question of a fact.
  int both = 0, asked = 0;
  std::string shown;
  FactsOptions quiet = recipe_options(4);
  quiet.unanswerable_share = 0.5;
  quiet.off_topic_share = 0.5;
  quiet.unknown_share = 0;
  quiet.noise = {.typo = 0,
                 .second_typo = 0,
                 .name_typo = 0,
                 .shorthand = 0,
                 .lost_word = 0,
                 .filler = 0,
                 .greeting = 0,
                 .closing = 0};
  const FactsGenerator g(quiet);
  for (int64_t i = 3000; i < 6000; ++i) {
    const FactsExample e = g.example(i, 6000);
    const std::string subject = e.subject.empty() ? "FR" : e.subject;
    ++asked;
    for (const char* relation : {"capital", "continent", "language", "currency"}) {
      if (g.asks(e.language, relation, e.question, subject)) {
        ++both;
        shown += e.question + " / " + relation + "\n";
      }
    }
  }
  EXPECT_EQ(both, 0) << shown;
  EXPECT_EQ(asked, 3000);
}

TEST(FactsPhrasings, EachRelationHasThousands) {
  for (const std::string& language : generator().languages()) {
    for (const char* section :
         {"capital", "continent", "language", "currency", "unanswerable", "off_topic"}) {
      EXPECT_GT(generator().phrasings(language, section), 4000) << language << " " << section;
    }
  }
}

}  // namespace
}  // namespace vertebra
