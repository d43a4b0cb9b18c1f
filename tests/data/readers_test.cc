// Documents and conversations from files, folders and archives: what is read, in which order, and
// what every kind of bad input is told.
#include <string>
#include <vector>

#include "base/rng.h"
#include "data/conversation_reader.h"
#include "data/document_reader.h"
#include "tests/data/test_files.h"

namespace vertebra {
namespace {

using testing::error_of;
using testing::expect_contains;
using testing::TestFolder;

std::vector<Document> read_all(const std::filesystem::path& path, DocumentReaderOptions options = {}) {
  DocumentReader reader(path, options);
  std::vector<Document> out;
  Document document;
  while (reader.next(document)) out.push_back(document);
  return out;
}

std::vector<std::string> texts(const std::vector<Document>& documents) {
  std::vector<std::string> out;
  for (const Document& document : documents) out.push_back(document.text);
  return out;
}

using Texts = std::vector<std::string>;

TEST(DocumentReader, FolderInSortedOrderThroughEveryFormat) {
  const TestFolder folder;
  folder.write("b.txt", "plain");
  folder.write("a.md", "\xEF\xBB\xBF# Title\r\nline\r\n");
  folder.write("c/d.jsonl", "{\"text\": \"one\"}\n\n{\"id\": 2, \"text\": \"two \\u00e9\"}");
  folder.write("c/e.txt.gz", testing::gzip("gz"));
  folder.write("c/f.jsonl.xz", testing::xz("{\"text\":\"xz\"}\r\n"));
  folder.write("c/g.txt.zst", testing::zstd("zst"));
  folder.write("h.tar",
               testing::tar({{"x/2.txt", "two"}, {"x/1.jsonl", "{\"text\":\"one\"}\n"}, {"pic.png", "x"}}));
  folder.write("i.tgz", testing::gzip(testing::tar({{"t.txt", "tgz"}})));
  folder.write("j.tar.zst", testing::zstd(testing::tar({{"t.txt", "tzst"}})));
  folder.write("k.tar.xz", testing::xz(testing::tar({{"t.txt", "txz"}})));
  folder.write("LICENSE", "skipped");
  folder.write(".hidden.txt", "skipped");
  folder.write("l.txt", "");
  folder.write("m.txt", " \n\n");

  DocumentReader reader(folder / "");
  std::vector<Document> all;
  Document document;
  while (reader.next(document)) all.push_back(document);
  EXPECT_EQ(texts(all), (Texts{"# Title\r\nline\r\n", "plain", "one", "two \xC3\xA9", "gz", "xz", "zst",
                               "two", "one", "tgz", "tzst", "txz"}));
  EXPECT_EQ(all[3].source, (folder / "c/d.jsonl").string() + ":3");
  EXPECT_EQ(all[8].source, (folder / "h.tar").string() + ":x/1.jsonl:1");
  EXPECT_EQ(reader.report().documents, 12);
  EXPECT_EQ(reader.report().blank, 2);
  EXPECT_EQ(reader.report().input.skipped, 2);  // LICENSE and pic.png
}

TEST(DocumentReader, SeveralPathsInTheOrderGiven) {
  const TestFolder folder;
  const std::vector<std::filesystem::path> paths = {folder.write("b.txt", "b"), folder / "c",
                                                    folder / "a.txt"};
  folder.write("a.txt", "a");
  folder.write("c/1.txt", "c");
  DocumentReader reader(paths);
  Document document;
  std::string joined;
  while (reader.next(document)) joined += document.text;
  EXPECT_EQ(joined, "bca");
  std::filesystem::remove(folder / "c/1.txt");
  expect_contains(error_of(Code::kNotFound, [&] { DocumentReader{paths}; }), {"nothing to read"});
}

TEST(DocumentReader, SeveralMembersAndFramesAreOneStream) {
  const TestFolder folder;
  folder.write("a.txt.gz", testing::gzip("one ") + testing::gzip("two"));
  folder.write("b.txt.xz", testing::xz("one ") + testing::xz("two"));
  folder.write("c.txt.zst", testing::zstd("one ") + testing::zstd("two"));
  EXPECT_EQ(texts(read_all(folder / "")), Texts(3, "one two"));
}

TEST(DocumentReader, Separator) {
  const TestFolder folder;
  const auto path =
      folder.write("a.txt", "<|end|>\none\n<|end|>\n\n <|end|>\nx<|end|>\n<|end|>\r\nthree\n<|end|>");
  DocumentReaderOptions options;
  options.separator = "<|end|>";
  EXPECT_EQ(texts(read_all(path, options)), (Texts{"one\n", "\n <|end|>\nx<|end|>\n", "three\n"}));
}

// Separators at every distance from the ends of the reader's internal blocks.
TEST(DocumentReader, SeparatorAcrossBlocks) {
  const TestFolder folder;
  for (int shift = 0; shift < 12; ++shift) {
    const std::string first = std::string((1 << 18) - 12 + static_cast<size_t>(shift), 'a') + "\n";
    const auto path = folder.write("a.txt", first + "<|end|>\r\nnext\n");
    DocumentReaderOptions options;
    options.separator = "<|end|>";
    EXPECT_EQ(texts(read_all(path, options)), (Texts{first, "next\n"})) << shift;
  }
}

TEST(DocumentReader, LongDocumentsAreCutAtLinesAndReported) {
  const TestFolder folder;
  std::string text;
  for (int i = 0; i < 200; ++i) text += "line " + std::to_string(i) + "\n";
  text += std::string(50, 'x');
  std::string wide;
  for (int i = 0; i < 100; ++i) wide += "\xE2\x82\xAC";  // 300 bytes without a line end
  folder.write("a.txt", text);
  folder.write("b.txt", wide);
  folder.write("c.jsonl", "{\"text\": \"" + wide + "\"}\n{\"text\": \"short\"}\n");
  DocumentReaderOptions options;
  options.max_document_bytes = 100;
  DocumentReader reader(folder / "", options);
  Document document;
  std::string joined;
  int parts = 0;
  while (reader.next(document)) {
    EXPECT_LE(document.text.size(), 100u);
    joined += document.text;
    ++parts;
    if (joined.size() < text.size()) {
      EXPECT_EQ(document.text.back(), '\n');
    }
    if (document.source.ends_with("c.jsonl:1 part 2")) {
      EXPECT_EQ(document.text.size(), 99u);
    }
  }
  EXPECT_EQ(joined, text + wide + wide + "short");
  EXPECT_GT(reader.report().cut, 20);
  EXPECT_EQ(reader.report().first_cut, (folder / "a.txt").string());
  EXPECT_EQ(reader.report().documents, parts);
}

TEST(DocumentReader, EmptyFolder) {
  const TestFolder folder;
  expect_contains(error_of(Code::kNotFound, [&] { read_all(folder / ""); }), {"nothing to read", ".jsonl"});
  folder.write("picture.png", "x");
  expect_contains(error_of(Code::kNotFound, [&] { read_all(folder / ""); }), {"1 files", "picture.png"});
  expect_contains(error_of(Code::kNotFound, [&] { read_all(folder / "none"); }), {"does not exist"});
  expect_contains(error_of(Code::kInvalidArgument, [&] { read_all(folder / "picture.png"); }),
                  {"picture.png", "format"});
}

TEST(DocumentReader, BinaryFile) {
  const TestFolder folder;
  const auto path = folder.write("a.txt", std::string("abc\0def", 7));
  expect_contains(error_of(Code::kInvalidArgument, [&] { read_all(path); }), {"a.txt", "byte 3", "binary"});
  DocumentReaderOptions keep;
  keep.invalid_utf8 = InvalidUtf8::kKeep;
  error_of(Code::kInvalidArgument, [&] { read_all(path, keep); });
}

TEST(DocumentReader, BrokenUtf8) {
  const TestFolder folder;
  const std::pair<std::string, std::string> cases[] = {{"ab\xFF", "byte 2"},
                                                       {"\xC0\xAF", "byte 0"},
                                                       {"x\xED\xA0\x80", "byte 1"},
                                                       {"\xE2\x82", "byte 0"},
                                                       {"ok \xF4\x90\x80\x80", "byte 3"},
                                                       {"\xE0\x80\x80", "byte 0"}};
  for (const auto& [text, place] : cases) {
    const auto path = folder.write("a.txt", text);
    expect_contains(error_of(Code::kInvalidArgument, [&] { read_all(path); }),
                    {"a.txt", place + " ", "UTF-8"});
    DocumentReaderOptions keep;
    keep.invalid_utf8 = InvalidUtf8::kKeep;
    EXPECT_EQ(texts(read_all(path, keep)), Texts{text});
  }
  const auto path = folder.write("b.jsonl", "{\"text\": \"good\"}\n{\"text\": \"\xFF\"}\n");
  expect_contains(error_of(Code::kInvalidArgument, [&] { read_all(path); }), {"b.jsonl:2"});
}

TEST(DocumentReader, BadJsonLines) {
  const TestFolder folder;
  const std::pair<std::string, std::vector<std::string>> cases[] = {
      {"{\"text\": \"a\"", {"a.jsonl:2", "not valid JSON"}},
      {"{\"body\": \"a\"}", {"a.jsonl:2", "'text' is missing"}},
      {"{\"text\": 5}", {"a.jsonl:2", "5", "a string"}},
      {"[1]", {"a.jsonl:2"}},
      {"{\"text\": \"\\ud800\"}", {"a.jsonl:2"}},
      {std::string(100000, '['), {"a.jsonl:2"}},
      {"{\"text\": \"" + std::string(5000, 'x') + "\"}", {"a.jsonl:2", "4096"}},
  };
  DocumentReaderOptions options;
  options.max_line_bytes = 4096;
  for (const auto& [line, wanted] : cases) {
    const auto path = folder.write("a.jsonl", "{\"text\": \"fine\"}\n" + line + "\n");
    expect_contains(error_of(Code::kInvalidArgument, [&] { read_all(path, options); }), wanted);
  }
  // What the fast parser refuses and the general one reads: a number beyond 64 bits elsewhere.
  const auto path = folder.write("b.jsonl", "{\"n\": 123456789012345678901234567890, \"text\": \"t\"}\n");
  EXPECT_EQ(texts(read_all(path)), Texts{"t"});
}

TEST(DocumentReader, HugeLine) {
  const TestFolder folder;
  const std::string huge(3 << 20, 'y');
  const auto path = folder.write("a.txt", huge);
  DocumentReaderOptions options;
  options.max_document_bytes = 1 << 20;
  EXPECT_EQ(read_all(path, options).size(), 3u);
  const auto lines = folder.write("b.jsonl", "{\"text\": \"" + huge + "\"}");
  options.max_line_bytes = 1 << 20;
  expect_contains(error_of(Code::kInvalidArgument, [&] { read_all(lines, options); }),
                  {"b.jsonl:1", "1048576"});
}

TEST(DocumentReader, DamagedCompression) {
  const TestFolder folder;
  std::string text;
  for (int i = 0; i < 5000; ++i) text += std::to_string(i * 7919 % 10007) + "\n";
  const std::pair<std::string, std::string> files[] = {
      {"a.txt.gz", testing::gzip(text)}, {"a.txt.xz", testing::xz(text)}, {"a.txt.zst", testing::zstd(text)}};
  for (const auto& [name, bytes] : files) {
    const auto path = folder.write(name, bytes);
    EXPECT_EQ(texts(read_all(path)), Texts{text});
    for (const size_t size : {size_t{0}, size_t{5}, bytes.size() / 2, bytes.size() - 1}) {
      folder.write(name, bytes.substr(0, size));
      expect_contains(error_of(Code::kDataLoss, [&] { read_all(path); }), {name});
    }
    folder.write(name, "this is not compressed at all, whatever its name may say");
    expect_contains(error_of(Code::kDataLoss, [&] { read_all(path); }), {name});
    std::filesystem::remove(path);
  }
}

TEST(DocumentReader, DecompressionBomb) {
  const TestFolder folder;
  const std::string zeros(size_t{80} << 20, '\n');
  for (const auto& [name, bytes] : {std::pair<std::string, std::string>{"a.txt.xz", testing::xz(zeros)},
                                    {"a.txt.zst", testing::zstd(zeros)}}) {
    const auto path = folder.write(name, bytes);
    expect_contains(error_of(Code::kResourceExhausted, [&] { read_all(path); }), {name, "bomb"});
  }
}

TEST(DocumentReader, TarNamesAndDamage) {
  const TestFolder folder;
  const std::string long_name = std::string(150, 'n') + ".txt";
  const std::string pax = fmt::format("{} path={}\n", 6 + 4 + long_name.size(), long_name);
  const std::string end(1024, '\0');
  const std::string gnu = testing::tar_member("././@LongLink", long_name + '\0', 'L');
  const std::string folder_entry = testing::tar_member("d/", "", '5');
  ASSERT_EQ(pax.size(), 6 + 4 + long_name.size());
  const auto path = folder.write("a.tar", folder_entry + gnu + testing::tar_member("cut", "gnu") +
                                              testing::tar_member("pax", pax, 'x') +
                                              testing::tar_member("cut", "pax") + end);
  const auto documents = read_all(path);
  EXPECT_EQ(texts(documents), (Texts{"gnu", "pax"}));
  EXPECT_EQ(documents[0].source, path.string() + ":" + long_name);
  EXPECT_EQ(documents[1].source, path.string() + ":" + long_name);

  const std::string good = testing::tar_member("a.txt", std::string(700, 'a')) + end;
  for (const size_t size : {size_t{100}, size_t{512}, size_t{1000}, size_t{1536}}) {
    folder.write("a.tar", good.substr(0, size));
    expect_contains(error_of(Code::kDataLoss, [&] { read_all(path); }), {"a.tar"});
  }
  std::string lying = good;
  lying[124] = '7';
  folder.write("a.tar", lying);
  expect_contains(error_of(Code::kDataLoss, [&] { read_all(path); }), {"a.tar", "byte 0"});
}

TEST(DocumentReader, MutatedInputsNeverCrash) {
  const TestFolder folder;
  const std::string seeds[] = {
      testing::tar({{"a.txt", "some text"}, {"b.jsonl", "{\"text\": \"x\"}\n"}}),
      testing::gzip("some text and some more"), testing::xz("some text and some more"),
      testing::zstd("some text and some more"), "{\"text\": \"a \\u1234 b\"}\n{\"text\": \"\"}\n"};
  const std::string names[] = {"a.tar", "a.txt.gz", "a.txt.xz", "a.txt.zst", "a.jsonl"};
  PhiloxSequence random(Philox(1, "mutations"));
  for (int i = 0; i < 500; ++i) {
    const size_t kind = static_cast<size_t>(i) % 5;
    std::string bytes = seeds[kind];
    for (uint64_t flips = 1 + random.below(3); flips > 0; --flips)
      bytes[random.below(bytes.size())] = static_cast<char>(random.below(256));
    if (random.chance(0.3)) bytes.resize(random.below(bytes.size()));
    const auto path = folder.write(names[kind], bytes);
    try {
      read_all(path);
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("a."), std::string::npos) << error.what();
    }
  }
}

TEST(DocumentReader, TheNovels) {
  const std::filesystem::path path =
      std::filesystem::path(VERTEBRA_SOURCE_DIR) / "../shared/data/pretrain/eltec-fra.tar.xz";
  if (!std::filesystem::exists(path)) GTEST_SKIP() << "SKIPPED: " << path << " is not here";
  DocumentReader reader(path);
  Document document;
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(reader.next(document));
  EXPECT_GT(reader.report().bytes, 1'000'000u);
  EXPECT_EQ(reader.report().cut, 0);
}

std::vector<Conversation> read_conversations(const std::filesystem::path& path) {
  ConversationReader reader(path);
  std::vector<Conversation> out;
  Conversation conversation;
  std::string source;
  while (reader.next(conversation, source)) out.push_back(conversation);
  return out;
}

TEST(ConversationReader, ReadsFoldersAndArchives) {
  const TestFolder folder;
  const std::string line =
      "{\"id\": 3, \"messages\": [{\"role\": \"system\", \"content\": \"s\"}, {\"role\": \"user\", "
      "\"content\": "
      "\"\"}, {\"role\": \"assistant\", \"content\": \"\\u00e9\"}]}\n";
  folder.write("a.jsonl", line + "\n" + line);
  folder.write("b.tar.xz", testing::xz(testing::tar({{"README.md", "no"}, {"x.jsonl", line}})));
  folder.write("c.jsonl.gz", testing::gzip(line));
  folder.write("README.md", "not data");
  const Conversation wanted{{{"system", "s"}, {"user", ""}, {"assistant", "\xC3\xA9"}}};
  EXPECT_EQ(read_conversations(folder / ""), std::vector<Conversation>(4, wanted));
}

TEST(ConversationReader, BadLines) {
  const TestFolder folder;
  const std::pair<std::string, std::vector<std::string>> cases[] = {
      {"{\"messages\": []}", {"a.jsonl:2", "messages"}},
      {"{\"messages\": {}}", {"a.jsonl:2", "messages"}},
      {"{}", {"a.jsonl:2", "'messages' is missing"}},
      {"{\"messages\": [\"hi\"]}", {"a.jsonl:2", "message 1"}},
      {"{\"messages\": [{\"role\": \"bot\", \"content\": \"x\"}]}", {"a.jsonl:2", "'bot'", "assistant"}},
      {"{\"messages\": [{\"role\": \"user\"}]}", {"a.jsonl:2", "message 1", "content"}},
      {"{\"messages\": [{\"role\": \"user\", \"content\": [1]}]}", {"a.jsonl:2", "content"}},
      {"{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}, {\"role\": \"system\", \"content\": "
       "\"x\"}]}",
       {"a.jsonl:2", "message 2", "system"}},
      {"{\"messages\"", {"a.jsonl:2", "not valid JSON"}},
      {"\xFF", {"a.jsonl:2"}},
  };
  const std::string good = "{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}]}\n";
  for (const auto& [line, wanted] : cases) {
    const auto path = folder.write("a.jsonl", good + line + "\n");
    expect_contains(error_of(Code::kInvalidArgument, [&] { read_conversations(path); }), wanted);
  }
}

}  // namespace
}  // namespace vertebra
