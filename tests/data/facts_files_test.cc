// The recipe's table is whole, and broken tables and phrasing files are refused with a useful message.
#include <gtest/gtest.h>

#include <functional>
#include <set>

#include "base/error.h"
#include "base/file.h"
#include "data/facts.h"
#include "data/facts_table.h"

namespace vertebra {
namespace {

const std::filesystem::path kFolder = std::filesystem::path(VERTEBRA_SOURCE_DIR) / "recipes/hello";

TEST(FactsTable, HasAll193MemberStatesWithoutGaps) {
  const CsvTable table = CsvTable::read(kFolder / "countries.csv");
  EXPECT_EQ(table.rows(), 193u);
  std::set<std::string> codes, english, french;
  for (size_t row = 0; row < table.rows(); ++row) {
    codes.insert(table.cell(row, "iso2"));
    english.insert(table.cell(row, "name_en"));
    french.insert(table.cell(row, "name_fr"));
    for (const std::string& column : table.columns()) {
      if (column.starts_with("aliases") || column == "tags") continue;
      EXPECT_FALSE(table.cell(row, column).empty()) << table.cell(row, "iso2") << " " << column;
    }
    EXPECT_EQ(table.cell(row, "currency_iso").size(), 3u);
  }
  EXPECT_EQ(codes.size(), 193u);
  EXPECT_EQ(english.size(), 193u);
  EXPECT_EQ(french.size(), 193u);
}

TEST(FactsTable, FrenchFormsAgree) {
  const CsvTable table = CsvTable::read(kFolder / "countries.csv");
  for (size_t row = 0; row < table.rows(); ++row) {
    const std::string name = table.cell(row, "name_fr"), the = table.cell(row, "the_fr"),
                      of = table.cell(row, "of_fr");
    const std::string in = table.cell(row, "in_fr"), lies = table.cell(row, "lies_fr");
    EXPECT_NE(the.find(name), std::string::npos) << name;
    EXPECT_NE(of.find(name), std::string::npos) << name;
    EXPECT_NE(in.find(name), std::string::npos) << name;
    const bool plural = the.starts_with("les ");
    EXPECT_EQ(lies, plural ? "se trouvent" : "se trouve") << name;
    std::string wanted_of = "d'" + name, wanted_in;
    if (plural) {
      wanted_of = "des " + name, wanted_in = "aux " + name;
    } else if (the.starts_with("le ")) {
      wanted_of = "du " + name, wanted_in = "au " + name;
    } else if (the.starts_with("la ") || the.starts_with("l'")) {
      wanted_of = "de " + the;
    } else if (of != wanted_of) {
      wanted_of = "de " + name;
    }
    EXPECT_EQ(of, wanted_of);
    EXPECT_TRUE(wanted_in.empty() || in == wanted_in) << in;
  }
}

TEST(CsvTable, ReadsQuotesAndBlankLines) {
  const CsvTable table = CsvTable::parse("a,b\r\n\"x, \"\"y\"\"\",2\r\n\n3,\"four\nlines\"\n", "t.csv");
  ASSERT_EQ(table.rows(), 2u);
  EXPECT_EQ(table.cell(0, "a"), "x, \"y\"");
  EXPECT_EQ(table.cell(1, "b"), "four\nlines");
}

void expect_error(const std::function<void()>& action, const std::string& part) {
  try {
    action();
    FAIL() << "no error; wanted one with: " << part;
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
  }
}

TEST(CsvTable, BrokenFilesAreErrors) {
  const auto parse = [](std::string text) { return [text] { CsvTable::parse(text, "t.csv"); }; };
  expect_error(parse(""), "empty");
  expect_error(parse("a,b\n"), "no rows");
  expect_error(parse("a,a\n1,2\n"), "'a' is named twice");
  expect_error(parse("a,\n1,2\n"), "without a name");
  expect_error(parse("a,b\n1,2\n1,2,3\n"), "line 3 has 3 cells");
  expect_error(parse("a,b\n\"1,2\n"), "never closed");
  expect_error(parse("a,b\n1,\xff\n"), "line 2 is not UTF-8");
  expect_error([] { CsvTable::parse("a\n1\n", "t.csv").column("b"); }, "no column 'b'; the columns are a");
}

TEST(FoldText, KeepsLettersAndDigitsOnly) {
  EXPECT_EQ(fold_text("Côte d'Ivoire", true), "cote d ivoire");
  EXPECT_EQ(fold_text("  São-Tomé, 2 œufs! ", true), "sao tome 2 oeufs");
  EXPECT_EQ(fold_text("N'Djamena", false), "ndjamena");
  EXPECT_EQ(fold_text("\xff\xfe", true), "");
}

// A small recipe of eight subjects, with one edit made to one of its files.
struct BrokenRecipe : ::testing::Test {
  void SetUp() override {
    folder_ =
        std::filesystem::temp_directory_path() /
        ("vertebra_facts_" + std::string(::testing::UnitTest::GetInstance()->current_test_info()->name()));
    std::filesystem::create_directories(folder_);
    table_ = "key,name_en,the_en,colour_en,aliases_en,tags\n";
    for (const char* name :
         {"Apple", "Banana", "Cherry", "Damson", "Elderberry", "Fig", "Grape", "Hazelnut"}) {
      table_ += std::string(name) + "," + name + ",the " + name + ",red,,\n";
    }
    places_ = "split,kind,name_en,the_en\ntrain,stone,Granite,the Granite\neval,stone,Basalt,the Basalt\n";
    phrasings_ = R"([table]
key = "key"
relations = ["colour"]
[en]
forms = ["name", "the"]
refusal = "No idea."
[en.parts]
ask = ["what is", "tell me"]
[en.colour]
answer = "{The} is {colour}."
hand = ["colour of {the}"]
frames = ["<ask> the colour of {the}"]
held_out = ["paint {the} how"]
[en.unanswerable]
hand = ["weight of {the}"]
frames = ["<ask> the weight of {the}"]
held_out = ["is {the} heavy"]
[en.off_topic]
hand = ["hello"]
frames = ["<ask> the time"]
held_out = ["sing"]
)";
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  void load() {
    write_file_atomic(folder_ / "table.csv", table_);
    write_file_atomic(folder_ / "places.csv", places_);
    write_file_atomic(folder_ / "phrasings.toml", phrasings_);
    const FactsGenerator generator({.table = folder_ / "table.csv",
                                    .places = folder_ / "places.csv",
                                    .phrasings = folder_ / "phrasings.toml"});
    for (int64_t i = 0; i < 100; ++i) generator.example(i, 100);
  }
  void expect(std::string BrokenRecipe::* file, const std::string& from, const std::string& to,
              const std::string& part) {
    const std::string before = this->*file;
    const size_t at = before.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    (this->*file).replace(at, from.size(), to);
    expect_error([&] { load(); }, part);
    this->*file = before;
  }

  std::filesystem::path folder_;
  std::string table_, places_, phrasings_;
};

TEST_F(BrokenRecipe, UnbrokenItLoads) { load(); }

TEST_F(BrokenRecipe, Tables) {
  expect(&BrokenRecipe::table_, "colour_en", "color_en", "no column 'colour_en'");
  expect(&BrokenRecipe::table_, "the Banana,red", "the Banana,", "has nothing in column 'colour_en'");
  expect(&BrokenRecipe::table_, "Banana,Banana", "Apple,Banana", "the key 'Apple' stands in another row");
  expect(&BrokenRecipe::table_, "Banana,Banana", "Banana,apple", "are both called 'apple'");
  expect(&BrokenRecipe::table_, "the Banana,red,", "the Banana,red,Plantain", "has 1 forms, 2 are wanted");
  expect(&BrokenRecipe::table_, "Banana,Banana", "Banana,Ban\xc3na", "not UTF-8");
  expect(&BrokenRecipe::places_, "train,", "test,", "it is train or eval");
  expect(&BrokenRecipe::places_, "Granite,the Granite", "Apple,the Apple", "is a name in the table");
  expect(&BrokenRecipe::places_, "Granite,the Granite", "Basalt,the Basalt", "stands here twice");
}

TEST_F(BrokenRecipe, Phrasings) {
  const auto file = &BrokenRecipe::phrasings_;
  expect(file, "\"colour of {the}\"", "\"colour of {it}\"",
         "uses the slot {it}; the slots are {name}, {the}, {colour}");
  expect(file, "\"colour of {the}\"", "\"colour of {the\"", "opens '{' and never closes it");
  expect(file, "\"colour of {the}\"", "\"is {the} {colour}\"", "which is an answer");
  expect(file, "<ask> the colour", "<beg> the colour", "the part <beg>, which is not declared");
  expect(file, "<ask> the colour", "(a|b the colour", "opens '(' and never closes it");
  expect(file, "<ask> the colour", "a|b the colour", "'|' outside brackets");
  expect(file, "\"tell me\"", "\"<ask>\"", "<ask> contains itself");
  expect(file, "<ask> the colour", std::string(100000, '('), "nested more than 50 deep");
  std::string doubling = "ask = [\"<p30>\"]\np0 = [\"x\"]\n";
  for (int i = 1; i <= 30; ++i) doubling += fmt::format("p{} = [\"<p{}><p{}>\"]\n", i, i - 1, i - 1);
  expect(file, "ask = [\"what is\", \"tell me\"]", doubling, "with its parts written out");
  expect(file, "paint {the} how", "Tell me the colour of {the}?", "training can produce 1");
  expect(file, "relations = [\"colour\"]", "relations = [\"colour\", \"size\"]", "needs a table 'size'");
  expect(file, "refusal =", "refusals =", "unknown key 'refusals'");
  expect(file, "refusal = \"No idea.\"", "refusal = \"\"", "needs 'refusal'");
  expect(file, "hand = [\"hello\"]", "hand = []", "'hand' is an empty list");
  expect(file, "hand = [\"hello\"]", "hand = [1]", "item 1 of 'hand' is not text");
  expect(file, "hand = [\"hello\"]", "hand = [\"hello {the}\"]", "asks with {the}");
  expect(file, "[en.colour]", "[en.colour", "line ");
  expect(file, "No idea.", "No id\xc3.", "line ");
}

TEST(FactsOptions, SharesOutsideTheirBounds) {
  FactsOptions options;
  options.unknown_share = 1.5;
  expect_error([&] { FactsGenerator{options}; }, "unknown_share is 1.5");
  options.unknown_share = 0.6;
  options.unanswerable_share = 0.6;
  expect_error([&] { FactsGenerator{options}; }, "sum of the refusals");
}

}  // namespace
}  // namespace vertebra
