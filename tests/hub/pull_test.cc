// Models from a hub that cuts, lies, stalls and redirects (hub_server.py): what arrives is whole and right,
// or an error says why not, and the token goes nowhere else.
#include "hub/pull.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "base/error.h"
#include "base/file.h"
#include "base/interrupt.h"
#include "base/manifest.h"
#include "base/sha256.h"
#include "hub/http.h"
#include "hub/hub_client.h"
#include "tests/hub/hub_server.h"

namespace vertebra {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;
constexpr const char* kCommit = "0123456789abcdef0123456789abcdef01234567";

class PullTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / fmt::format("pull_test_{}", getpid());
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    options_.endpoint = server_.url();
    options_.cache = folder_ / "models";
    options_.other_cache = folder_ / "other";
    options_.retry_delay = milliseconds(1);
    options_.stall_timeout = milliseconds(500);
    if (!server_.runs()) GTEST_SKIP() << "no python3 to run the server with";
  }
  void TearDown() override {
    set_interrupt_requested(false);
    fs::remove_all(folder_);
  }

  PullResult pull_model(const std::string& name, std::vector<std::string> files = {}) {
    return pull(options_, {parse_hub_model("hf:" + name), std::move(files), {}});
  }
  // The error of a pull that must fail.
  Error error_of(const std::string& name, std::vector<std::string> files = {}) {
    try {
      pull_model(name, std::move(files));
    } catch (const Error& error) {
      EXPECT_FALSE(
          fs::exists(options_.cache / (name.substr(0, name.find('/')) + "--m") / kCommit / "manifest.json"));
      EXPECT_EQ(std::string(error.what()).find("secret"), std::string::npos) << error.what();
      return error;
    }
    ADD_FAILURE() << name << " was pulled";
    return {Code::kUnknown, ""};
  }
  void expect_error(const std::string& name, Code code, const std::string& words) {
    const Error error = error_of(name);
    EXPECT_EQ(error.code(), code) << error.what();
    EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what();
  }

  Json log() const {
    HttpSession session({});
    std::string body;
    session.get(
        server_.url() + "/log", {}, [](const HttpResponse&) { return true; },
        [&](std::span<const char> bytes) {
          body.append(bytes.data(), bytes.size());
          return true;
        });
    return parse_json(body, "log");
  }
  std::vector<Json> requests_for(const std::string& part) const {
    std::vector<Json> out;
    for (const Json& each : log()) {
      if (each["path"].get<std::string>().find(part) != std::string::npos) out.push_back(each);
    }
    return out;
  }

  // The weights are there, whole and right, with a manifest that says so.
  void expect_whole(const PullResult& result) {
    const Manifest manifest = read_manifest(result.folder);
    EXPECT_EQ(find_damage(result.folder, manifest), std::nullopt);
    EXPECT_EQ(manifest.files.at("model.safetensors").size_bytes, 3'000'000U);
    EXPECT_EQ(sha256_file(result.folder / "model.safetensors"),
              manifest.files.at("model.safetensors").sha256);
    EXPECT_FALSE(fs::exists(result.folder / "model.safetensors.part"));
    EXPECT_FALSE(fs::exists(result.folder / "model.safetensors.part.etag"));
  }
  std::vector<std::string> names_in(const fs::path& folder) const {
    std::vector<std::string> out;
    for (const auto& each : fs::recursive_directory_iterator(folder)) {
      if (each.is_regular_file()) out.push_back(fs::relative(each.path(), folder).string());
    }
    std::sort(out.begin(), out.end());
    return out;
  }

  HubServer server_;
  fs::path folder_;
  HubOptions options_;
};

TEST_F(PullTest, BringsAModelIntoTheCacheWithAManifest) {
  const PullResult result = pull_model("plain/m");
  EXPECT_EQ(result.path, options_.cache / "plain--m" / kCommit);
  EXPECT_EQ(result.transferred_bytes, result.size_bytes);
  expect_whole(result);
  const Manifest manifest = read_manifest(result.folder);
  EXPECT_EQ(manifest.recipe["pull"]["repository"], "plain/m");
  EXPECT_EQ(manifest.recipe["pull"]["commit"], kCommit);
  EXPECT_EQ(find_pulled(options_.cache, parse_hub_model("hf:plain/m")), result.path);
  EXPECT_EQ(find_pulled(options_.cache, parse_hub_model(fmt::format("hf:plain/m@{}", kCommit))), result.path);
  for (const Json& each : log()) EXPECT_EQ(each["encoding"], "identity");
}

TEST_F(PullTest, TakesOnlyWhatIsNeeded) {
  const PullResult result = pull_model("shards/m");
  const std::vector<std::string> wanted = {"LICENSE",
                                           "chat_template.jinja",
                                           "config.json",
                                           "generation_config.json",
                                           "manifest.json",
                                           "model-00001-of-00002.safetensors",
                                           "model-00002-of-00002.safetensors",
                                           "model.safetensors.index.json",
                                           "tokenizer.json"};
  EXPECT_EQ(names_in(result.folder), wanted);
  EXPECT_EQ(find_damage(result.folder, read_manifest(result.folder)), std::nullopt);
}

TEST_F(PullTest, AModelOfNoUseIsFoundOutBeforeItsWeightsCome) {
  PullRequest request{parse_hub_model("hf:plain/m"), {}, [](const fs::path& config) {
                        fail(Code::kUnimplemented, "unknown: {}", read_file(config));
                      }};
  EXPECT_THROW(pull(options_, request), Error);
  EXPECT_EQ(requests_for("/resolve/").size(), 1U);
  request.files = {"model.safetensors"};  // by name it comes all the same
  pull(options_, request);
}

TEST_F(PullTest, SecondPullBringsNothing) {
  pull_model("plain/m");
  const PullResult again = pull_model("plain/m");
  EXPECT_EQ(again.transferred_bytes, 0U);
  EXPECT_EQ(requests_for("/resolve/").size(), 3U);
  EXPECT_EQ(requests_for("/api/").size(), 2U);  // what "main" means may have changed
  pull_model(fmt::format("plain/m@{}", kCommit));
  EXPECT_EQ(requests_for("/api/").size(), 2U);  // what a commit means does not
}

TEST_F(PullTest, GoesOnWhereItWasCut) {
  expect_whole(pull_model("cut/m"));
  const auto requests = requests_for("model.safetensors");
  ASSERT_EQ(requests.size(), 4U);
  EXPECT_TRUE(requests[0]["range"].is_null());
  int64_t last = 0;
  for (size_t i = 1; i < requests.size(); ++i) {
    const int64_t from = std::stoll(requests[i]["range"].get<std::string>().substr(6));
    EXPECT_GT(from, last);
    last = from;
    EXPECT_TRUE(requests[i]["if_range"].is_string());
  }
}

TEST_F(PullTest, AnEndThatComesTooSoonIsACutToo) { expect_whole(pull_model("unsized/m")); }
TEST_F(PullTest, BeginsAnewWhereRangesAreIgnored) { expect_whole(pull_model("norange/m")); }
TEST_F(PullTest, BeginsAnewWhereTheRangeIsAnother) { expect_whole(pull_model("badrange/m")); }
TEST_F(PullTest, BeginsAnewWhereTheContentIsAnother) { expect_whole(pull_model("newtag/m")); }

TEST_F(PullTest, LeavesAStalledTransfer) {
  expect_whole(pull_model("stall/m"));
  EXPECT_EQ(requests_for("model.safetensors").size(), 2U);
}

TEST_F(PullTest, AnotherProcessGoesOnWithWhatIsThere) {
  options_.attempts = 2;
  expect_error("always/m", Code::kUnavailable, "attempts");
  const fs::path part = options_.cache / "always--m" / kCommit / "model.safetensors.part";
  const uint64_t size = fs::file_size(part);
  EXPECT_GE(size, 200'000U);
  options_.attempts = 100;
  expect_whole(pull_model("always/m"));
  const auto requests = requests_for("model.safetensors");
  EXPECT_EQ(requests[2]["range"], fmt::format("bytes={}-", size));
  EXPECT_TRUE(requests[2]["if_range"].is_string());  // the validator outlived the process
}

TEST_F(PullTest, AForeignPartIsFoundOutAndFetchedAnew) {
  const fs::path folder = options_.cache / "plain--m" / kCommit;
  fs::create_directories(folder);
  write_file_atomic(folder / "model.safetensors.part", std::string(1'000'000, 'x'));
  expect_whole(pull_model("plain/m"));
  write_file_atomic(folder / "config.json.part", std::string(1'000'000, 'x'));  // longer than it may be
  fs::remove(folder / "manifest.json");
  expect_whole(pull_model("plain/m"));
}

TEST_F(PullTest, ALinkInPlaceOfAPartIsNotWrittenThrough) {
  const fs::path folder = options_.cache / "plain--m" / kCommit;
  fs::create_directories(folder);
  write_file_atomic(folder_ / "precious", "mine");
  fs::create_symlink(folder_ / "precious", folder / "model.safetensors.part");
  expect_error("plain/m", Code::kPermissionDenied, "is a link");
  EXPECT_EQ(read_file(folder_ / "precious"), "mine");
}

TEST_F(PullTest, LiesAreFoundOut) {
  expect_error("wrong/m", Code::kDataLoss, "hash");
  EXPECT_FALSE(fs::exists(options_.cache / "wrong--m" / kCommit / "model.safetensors"));
  EXPECT_FALSE(fs::exists(options_.cache / "wrong--m" / kCommit / "model.safetensors.part"));
  expect_error("long/m", Code::kDataLoss, "says 3000000 bytes, the server sends 3000004");
  expect_error("endless/m", Code::kDataLoss, "says 3000000 bytes");
  expect_error("gzip/m", Code::kDataLoss, "Content-Encoding");
  expect_error("nohash/m", Code::kDataLoss, "no size and hash");
  expect_error("twice/m", Code::kDataLoss, "listed twice");
  expect_error("badcommit/m", Code::kDataLoss, "commit of 40 digits");
  expect_error("missingshard/m", Code::kDataLoss, "does not have");
  expect_error("nojson/m", Code::kInvalidArgument, "revision/main");
  expect_error("longlist/m", Code::kDataLoss, "longer than");
  expect_error(fmt::format("othercommit/m@{}", kCommit), Code::kDataLoss, "another commit");
}

TEST_F(PullTest, FileNamesThatLeaveTheFolderAreRefused) {
  for (const char* name : {"escape/m", "absolute/m", "drive/m"})
    expect_error(name, Code::kDataLoss, "may not be written below a folder");
  EXPECT_TRUE(names_in(options_.cache / "escape--m").size() <= 2);
  EXPECT_FALSE(fs::exists(options_.cache / "evil.safetensors"));
}

TEST_F(PullTest, RedirectsAreFollowedWithReason) {
  expect_whole(pull_model("redirect/m"));
  EXPECT_EQ(requests_for("signed").at(0)["port"], server_.other_port());
  expect_whole(pull_model("renamed/m"));
  pull_model("moved/m");
  expect_error("circle/m", Code::kFailedPrecondition, "in a circle");
  expect_error("chain/m", Code::kFailedPrecondition, "more than 10 times");
  expect_error("tofile/m", Code::kFailedPrecondition, "no http address");
}

TEST_F(PullTest, TheTokenStaysWithItsHost) {
  expect_error("private/m", Code::kUnauthenticated, "HF_TOKEN");
  options_.token = "secret-token";
  expect_whole(pull_model("private/m"));
  int there = 0, elsewhere = 0;
  for (const Json& each : log()) {
    if (each["port"] == server_.port()) {
      there += each["token"] == "Bearer secret-token" ? 1 : 0;
    } else {
      ++elsewhere;
      EXPECT_TRUE(each["token"].is_null()) << each;
    }
  }
  EXPECT_GE(there, 4);
  EXPECT_EQ(elsewhere, 1);
  // Sent back home by a strange host, the client comes without it.
  expect_whole(pull_model("back/m"));
  const auto requests = requests_for("signed");
  const Json& last = requests.back();
  EXPECT_EQ(last["port"], server_.port());
  EXPECT_TRUE(last["token"].is_null()) << last;
}

TEST_F(PullTest, RefusalsSayWhatToDo) {
  expect_error("s401/m", Code::kUnauthenticated, "no token was sent");
  expect_error("s404/m", Code::kNotFound, "none of this name and revision");
  expect_error("gated/m", Code::kPermissionDenied, "Ask for access");
  options_.token = "secret-token";
  expect_error("gated/m", Code::kPermissionDenied, "does not open it");
}

TEST_F(PullTest, BusyServersAreAskedAgain) {
  expect_whole(pull_model("busy/m"));
  EXPECT_EQ(requests_for("/api/").size(), 3U);
  options_.attempts = 3;
  expect_error("broken/m", Code::kUnavailable, "the server answers 500 (3 attempts)");
  expect_error("later/m", Code::kUnavailable, "24 h 00 min");
  EXPECT_EQ(requests_for("later").size(), 1U);
}

TEST_F(PullTest, RetryAfterIsHeeded) {
  HttpResponse response;
  response.status = 503;
  EXPECT_EQ(response.retry_after(), std::nullopt);
  response.headers["retry-after"] = "1";
  EXPECT_EQ(response.retry_after(), 1);
  const auto start = std::chrono::steady_clock::now();
  EXPECT_TRUE(Patience(options_, [] { return false; }, "x").wait(response));
  EXPECT_GE(std::chrono::steady_clock::now() - start, milliseconds(1000));
  response.headers["retry-after"] = "Fri, 31 Dec 1999 23:59:59 GMT";
  EXPECT_EQ(response.retry_after(), 0);
  response.headers["retry-after"] = "Fri, 31 Dec 2100 23:59:59 GMT";
  EXPECT_GT(response.retry_after(), 1'000'000);
  response.headers["retry-after"] = "99999999999999999999";
  EXPECT_GT(response.retry_after(), 1'000'000);
  response.headers["retry-after"] = "soon";
  EXPECT_EQ(response.retry_after(), std::nullopt);
}

TEST_F(PullTest, GgufFilesAreChosenByQuantization) {
  expect_error("gguf/m", Code::kInvalidArgument, "small-Q4_K_M.gguf");
  const PullResult four = pull_model("gguf/m:q4_k_m");
  EXPECT_EQ(four.path, four.folder / "small-Q4_K_M.gguf");
  EXPECT_EQ(find_pulled(options_.cache, parse_hub_model("hf:gguf/m")), four.path);
  EXPECT_EQ(pull_model("gguf/m", {"small.Q8_0.gguf"}).path, four.folder / "small.Q8_0.gguf");
  EXPECT_EQ(pull_model("gguf/m:Q2_K").path, four.folder / "sub/folder/deep-Q2_K.gguf");
  EXPECT_EQ(find_damage(four.folder, read_manifest(four.folder)), std::nullopt);
  EXPECT_EQ(read_manifest(four.folder).files.size(), 3U);
  EXPECT_EQ(find_pulled(options_.cache, parse_hub_model("hf:gguf/m:Q8_0")), four.folder / "small.Q8_0.gguf");
  EXPECT_EQ(find_pulled(options_.cache, parse_hub_model("hf:gguf/m:small.Q8_0.gguf")),
            four.folder / "small.Q8_0.gguf");
  EXPECT_THROW(find_pulled(options_.cache, parse_hub_model("hf:gguf/m")), Error);       // which of them?
  EXPECT_THROW(find_pulled(options_.cache, parse_hub_model("hf:gguf/m:Q4_K")), Error);  // not here
  EXPECT_EQ(pull_model("one/m").path.filename(), "only-Q4_0.gguf");
}

TEST_F(PullTest, AllPartsOfAModelAreTaken) {
  const PullResult result = pull_model("gguf/m:F16");
  EXPECT_EQ(result.path, result.folder / "big-F16-00001-of-00002.gguf");
  EXPECT_EQ(read_file(result.folder / "big-F16-00002-of-00002.gguf"), "GGUF other half");
  EXPECT_EQ(find_pulled(options_.cache, parse_hub_model("hf:gguf/m:F16")), result.path);
  EXPECT_EQ(find_pulled(options_.cache, parse_hub_model("hf:gguf/m")), result.path);
}

TEST_F(PullTest, WhatCannotBeReadIsNotTaken) {
  expect_error("pickle/m", Code::kNotFound, "pickles");
  EXPECT_THROW(pull_model("gguf/m:F32"), Error);  // two of its three parts are not there
  EXPECT_THROW(pull_model("gguf/m", {"nothing.gguf"}), Error);
  EXPECT_TRUE(requests_for("/resolve/").empty());
}

TEST_F(PullTest, ADiskTooSmallIsFoundOutBefore) {
  expect_error("huge/m", Code::kResourceExhausted, "8.0 TiB more are needed");
  EXPECT_TRUE(requests_for("/resolve/").empty());
}

TEST_F(PullTest, AFullDiskIsAnErrorAndWhatHasComeIsKept) {
  std::atomic<uint64_t> room{1'000'000};
  set_write_hook_for_testing([&](const fs::path& path, size_t size) {
    if (path.extension() != ".part") return;
    require(size <= room, Code::kResourceExhausted, "'{}': the disk is full", path.string());
    room -= size;
  });
  expect_error("plain/m", Code::kResourceExhausted, "the disk is full");
  set_write_hook_for_testing({});
  EXPECT_GT(fs::file_size(options_.cache / "plain--m" / kCommit / "model.safetensors.part"), 0U);
  expect_whole(pull_model("plain/m"));
}

TEST_F(PullTest, AnInterruptKeepsWhatHasCome) {
  options_.attempts = 1000;
  options_.retry_delay = milliseconds(200);
  std::thread stopper([] {
    std::this_thread::sleep_for(milliseconds(300));
    set_interrupt_requested(true);
  });
  EXPECT_THROW(pull_model("always/m"), Interrupted);
  stopper.join();
  EXPECT_GE(fs::file_size(options_.cache / "always--m" / kCommit / "model.safetensors.part"), 200'000U);
}

TEST_F(PullTest, OfflineMeansTheCacheAlone) {
  options_.offline = true;
  expect_error("plain/m", Code::kUnavailable, "HF_HUB_OFFLINE");
  EXPECT_TRUE(log().empty());
  options_.offline = false;
  const PullResult result = pull_model("plain/m");
  options_.offline = true;
  EXPECT_EQ(pull_model("plain/m").path, result.path);
  EXPECT_EQ(requests_for("/api/").size(), 1U);
}

TEST_F(PullTest, FilesOfTheHubsOwnClientAreTakenOver) {
  const PullResult result = pull_model("plain/m");
  const fs::path snapshot = options_.other_cache / "models--redirect--m" / "snapshots" / kCommit;
  fs::create_directories(snapshot);
  fs::copy(result.folder / "model.safetensors", snapshot / "model.safetensors");
  write_file_atomic(snapshot / "config.json",
                    std::string(fs::file_size(result.folder / "config.json"), 'x'));  // a lie
  expect_whole(pull_model("redirect/m"));
  EXPECT_TRUE(requests_for("redirect/m/resolve/" + std::string(kCommit) + "/model.safetensors").empty());
  EXPECT_EQ(requests_for("redirect/m/resolve/" + std::string(kCommit) + "/config.json").size(), 1U);
}

TEST_F(PullTest, OneProcessAtATimeInAFolder) {
  const fs::path folder = options_.cache / "plain--m" / kCommit;
  fs::create_directories(folder);
  const FolderLock lock(folder);
  EXPECT_THROW(pull_model("plain/m"), Error);
}

}  // namespace
}  // namespace vertebra
