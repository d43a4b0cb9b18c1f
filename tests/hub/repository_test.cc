// Names of models and of files: what is taken, what is refused.
#include "hub/repository.h"

#include <gtest/gtest.h>

#include <cstdlib>

#include "base/error.h"
#include "hub/file_hash.h"
#include "hub/http.h"
#include "hub/hub_model.h"
#include "hub/hub_options.h"

namespace vertebra {
namespace {

TEST(HubModel, NamesAreTakenApart) {
  const HubModel model = parse_hub_model("hf:Org-1/Model_2.5-x@refs/pr/3:Q4_K_M");
  EXPECT_EQ(model.repository, "Org-1/Model_2.5-x");
  EXPECT_EQ(model.revision, "refs/pr/3");
  EXPECT_EQ(model.choice, "Q4_K_M");
  EXPECT_EQ(model.to_string(), "hf:Org-1/Model_2.5-x@refs/pr/3:Q4_K_M");
  EXPECT_EQ(folder_name(model), "Org-1--Model_2.5-x");
  EXPECT_EQ(parse_hub_model("hf:a/b").revision, "main");
  EXPECT_EQ(parse_hub_model("hf:a/b").to_string(), "hf:a/b");
}

TEST(HubModel, WhatIsNoNameIsRefused) {
  for (const char* text : {"a/b",
                           "hf:",
                           "hf:a",
                           "hf:/b",
                           "hf:a/",
                           "hf:a/b/c",
                           "hf:../b",
                           "hf:a/..",
                           "hf:a--b/c",
                           "hf:a/b@",
                           "hf:a/b:",
                           "hf:a/b@../x",
                           "hf:a/b@x y",
                           "hf:a/b:../x.gguf",
                           "hf:a/b:/etc/passwd",
                           "hf:a b/c",
                           "hf:a/b?x",
                           "hf:a/.b",
                           "hf:a/b%2e",
                           "hf:a/b@-x"})
    EXPECT_THROW(parse_hub_model(text), Error) << text;
}

TEST(HubRepository, UnsafePaths) {
  for (const char* path : {"a", "a/b.safetensors", "model-00001-of-00002.safetensors", "..a", "a..b", "ünï"})
    EXPECT_TRUE(is_safe_path(path)) << path;
  for (const char* path :
       {"", "/a", "../a", "a/../b", "a/..", ".", "./a", "a//b", "a/", "a\\b", "C:a", "a\nb", "a\x7f",
        "manifest.json", "MANIFEST.JSON", "a/manifest.json", "x.part", "x.part.etag", "1/2/3/4/5/6/7/8/9"})
    EXPECT_FALSE(is_safe_path(path)) << path;
  EXPECT_FALSE(is_safe_path(std::string("a\0b", 3)));
  EXPECT_FALSE(is_safe_path(std::string(300, 'a')));
}

TEST(HubRepository, QuantizationsAreFoundAtTheEndOfNames) {
  EXPECT_TRUE(chooses("Q4_K_M", "a/Model-Q4_K_M.gguf"));
  EXPECT_TRUE(chooses("q4_k_m", "model.Q4_K_M.gguf"));
  EXPECT_TRUE(chooses("Q4_K_M", "Q4_K_M/model-Q4_K_M-00001-of-00003.gguf"));
  EXPECT_TRUE(chooses("model.gguf", "a/model.gguf"));
  EXPECT_FALSE(chooses("K_M", "model-Q4-K_MM.gguf"));
  EXPECT_FALSE(chooses("Q4_K", "model-Q4_K_M.gguf"));
  EXPECT_FALSE(chooses("4_K_M", "model-Q4_K_M.gguf"));
  EXPECT_FALSE(chooses("Q4_K_M", "model-Q4_K_M.bin"));
}

TEST(HubRepository, SizesNobodyHasAreLies) {
  const auto parse = [](const Json& file) {
    return parse_repository({{"sha", std::string(40, 'a')}, {"siblings", Json::array({file})}}, "test");
  };
  EXPECT_THROW(parse({{"rfilename", "a"}, {"size", uint64_t{1} << 60}}), Error);
  EXPECT_THROW(parse({{"rfilename", "a"}, {"size", -1}}), Error);
  EXPECT_THROW(parse({{"rfilename", 7}}), Error);
  EXPECT_THROW(parse({{"size", 1}}), Error);
  EXPECT_EQ(parse({{"rfilename", "a"}, {"size", 5}, {"blobId", "x"}}).files.at(0).size_bytes, 5U);
}

TEST(HubFileHash, IsThatOfGit) {
  FileHash hash(14);
  hash.update(std::span("Hello, World!\n", 14));
  const FileHash::Digests digests = hash.finish();
  EXPECT_EQ(digests.git_sha1, "8ab686eafeb1f44702738c8b0f24f2567c36da6d");
  EXPECT_EQ(digests.sha256, "c98c24b677eff44860afea6f493bbaec5bb1c4cbb209c6fc2bbb47f66ff2ad31");
}

TEST(HubHttp, PlainHttpToStrangersIsReadable) {
  EXPECT_TRUE(is_readable_on_the_way("http://hub.example/x"));
  EXPECT_FALSE(is_readable_on_the_way("https://hub.example/x"));
  for (const char* url : {"http://localhost:8000", "http://127.0.0.1", "http://[::1]:80/"})
    EXPECT_FALSE(is_readable_on_the_way(url)) << url;
  EXPECT_EQ(url_encoded("refs/pr/1 ä", false), "refs%2Fpr%2F1%20%C3%A4");
  EXPECT_EQ(url_encoded("a/b+c", true), "a/b%2Bc");
}

TEST(HubOptions, TheEnvironmentIsRespected) {
  const auto set = [](const char* name, const char* value) { setenv(name, value, 1); };
  set("HF_ENDPOINT", "https://mirror.example/hub/");
  set("HF_TOKEN", " abc\n");
  set("HF_HUB_OFFLINE", "1");
  set("VERTEBRA_CACHE", "/x");
  set("HF_HOME", "/h");
  HubOptions options = HubOptions::from_environment();
  EXPECT_EQ(options.endpoint, "https://mirror.example/hub");
  EXPECT_EQ(options.token, "abc");
  EXPECT_TRUE(options.offline);
  EXPECT_EQ(options.cache, "/x/models");
  EXPECT_EQ(options.other_cache, "/h/hub");
  unsetenv("VERTEBRA_CACHE");
  set("XDG_CACHE_HOME", "/c");
  set("HF_HUB_OFFLINE", "0");
  options = HubOptions::from_environment();
  EXPECT_EQ(options.cache, "/c/vertebra/models");
  EXPECT_FALSE(options.offline);
  set("HF_TOKEN", "a\nX-Header: b");
  EXPECT_THROW(HubOptions::from_environment(), Error);
  set("HF_TOKEN", "");
  set("HF_ENDPOINT", "file:///etc");
  EXPECT_THROW(HubOptions::from_environment(), Error);
}

}  // namespace
}  // namespace vertebra
