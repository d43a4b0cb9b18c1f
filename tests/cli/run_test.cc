// Recipes as a user runs them: from text to a gated model, twice, changed, killed at random, on a full disk,
// with mistakes in them; and the model that comes out, asked questions.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <functional>
#include <thread>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/rng.h"
#include "base/sha256.h"
#include "formats/safetensors.h"
#include "tests/cli/run_program.h"

namespace vertebra {
namespace {

namespace fs = std::filesystem;

class Run : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ =
        fs::path(::testing::TempDir()) /
        fmt::format("run-{}-{}", getpid(), ::testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::create_directories(folder_ / "text");
    const char* sentences[] = {"The sea is blue. ", "The sky is grey. ", "A cat sits on a mat. ",
                               "A dog runs in the park. "};
    const Philox random(5, "text");
    for (int file = 0; file < 12; ++file) {
      std::string text;
      for (uint64_t i = 0; i < 40; ++i)
        text += sentences[random.below(static_cast<uint64_t>(file) * 100 + i, 4)];
      write_file_atomic(folder_ / "text" / fmt::format("{}.txt", file), text);
    }
    write_file_atomic(folder_ / "task.jsonl",
                      R"({"prompt": "The sea is", "choices": [" blue.", " a mat."], "answer": 0}
{"prompt": "A cat sits on a", "choices": [" mat.", " grey."], "answer": 0, "tags": {"animal": "cat"}}
)");
    write_recipe("tiny", kRecipe);
  }
  void TearDown() override { fs::remove_all(folder_); }

  void write_recipe(const std::string& name, const std::string& text) const {
    write_file_atomic(folder_ / (name + ".toml"), text);
  }
  // Runs the program in the test's folder.
  Outcome vertebra(const std::string& arguments) const { return run_program(folder_, arguments, folder_); }
  std::string weights(const std::string& run) const {
    return sha256_file(folder_ / run / "tiny" / "model" / "model.safetensors");
  }
  static std::vector<std::string> stages_that_ran(const Outcome& outcome) {
    std::vector<std::string> out;
    const Json json = parse_json(outcome.out, "stdout");
    for (const Json& stage : json["stages"]) {
      if (stage["ran"].get<bool>()) out.push_back(stage["stage"].get<std::string>());
    }
    return out;
  }

  static constexpr const char* kRecipe = R"(
name = "tiny"
seed = 3
[data]
path = "text"
[tokenizer]
vocabulary = 300
[shards]
validation_share = 0.2
[model]
architecture = "llama"
depth = 2
embedding = 32
heads = 2
context_length = 64
[pretrain]
rows = 4
length = 32
steps = 60
learning_rate = 0.01
warmup_steps = 5
checkpoint_every = 7
precision = "f32"
[eval]
tasks = ["task.jsonl"]
[gate.at_least]
task = 0.5
)";
  fs::path folder_;
};

using Names = std::vector<std::string>;

TEST_F(Run, FromTextToAGatedModelAndNothingTwice) {
  const Outcome first = vertebra("run tiny.toml --json");
  ASSERT_EQ(first.code, 0) << first.err;
  EXPECT_EQ(stages_that_ran(first), (Names{"tokenizer", "shards", "pretrain", "eval", "gate"}));
  for (const char* file :
       {"model/config.json", "model/tokenizer.json", "model/manifest.json", "report.html"}) {
    EXPECT_TRUE(fs::exists(folder_ / "runs/tiny" / file)) << file;
  }
  const std::string before = sha256_file(folder_ / "runs/tiny/model/manifest.json");
  const Outcome second = vertebra("run tiny.toml --json");
  EXPECT_EQ(stages_that_ran(second), Names{});
  EXPECT_EQ(sha256_file(folder_ / "runs/tiny/model/manifest.json"), before);
  // One key changed: what depends on it runs again, and nothing else.
  EXPECT_EQ(stages_that_ran(vertebra("run tiny.toml --json --set pretrain.steps=61")),
            (Names{"pretrain", "eval", "gate"}));
  EXPECT_EQ(
      stages_that_ran(vertebra("run tiny.toml --json --set pretrain.steps=61 --set gate.at_least.task=0.4")),
      Names{"gate"});
  EXPECT_EQ(stages_that_ran(
                vertebra("run tiny.toml --json --set pretrain.steps=61 --set shards.validation_share=0.3")),
            (Names{"shards", "pretrain", "eval", "gate"}));
  // A damaged result is noticed and made again.
  fs::resize_file(folder_ / "runs/tiny/tokenizer/tokenizer.json", 100);
  const Outcome repaired =
      vertebra("run tiny.toml --json --set pretrain.steps=61 --set shards.validation_share=0.3");
  EXPECT_EQ(stages_that_ran(repaired), Names{"tokenizer"})
      << "the same tokenizer came out, so nothing after it had to run";
}

// Name, data and depth are a whole recipe; what they lead to stands in the manifest, and a value that is set
// wins.
TEST_F(Run, ADepthIsAWholeRecipe) {
  write_recipe("base", "name = \"base\"\n[data]\npath = \"text\"\n[model]\ndepth = 1\n");
  const Outcome outcome = vertebra("run base.toml --json --verbose --set shards.validation_share=0.3");
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(stages_that_ran(outcome), (Names{"tokenizer", "shards", "pretrain"}));
  EXPECT_TRUE(fs::exists(folder_ / "runs/base/model/model.safetensors"));
  EXPECT_NE(outcome.err.find("matrix_learning_rate"), std::string::npos) << "the plan is told\n"
                                                                         << outcome.err;
  const Json manifest = read_json_file(folder_ / "runs/base/pretrain/manifest.json");
  const Json training = manifest["results"]["training"];
  EXPECT_EQ(training["length"], 256);
  EXPECT_EQ(training["optimizer"], "muon");
  EXPECT_GT(training["learning_rate"].get<double>(), 0);
  const auto tokens = static_cast<double>(manifest["results"]["tokens"].get<int64_t>());
  const Json shards = read_json_file(folder_ / "runs/base/shards/manifest.json");
  const auto once = static_cast<double>(shards["results"]["train"]["tokens"].get<int64_t>());
  EXPECT_NEAR(tokens / once, 4, 0.5) << "four passes over little text";

  const Outcome set = vertebra(
      "run base.toml --json --out set --set pretrain.steps=2 --set pretrain.rows=3 --set pretrain.length=16 "
      "--set pretrain.learning_rate=0.5 --set tokenizer.vocabulary=260 --set pretrain.optimizer=adamw");
  ASSERT_EQ(set.code, 0) << set.err;
  const Json chosen = read_json_file(folder_ / "set/base/pretrain/manifest.json")["results"]["training"];
  EXPECT_EQ(chosen["steps"], 2);
  EXPECT_EQ(chosen["rows"], 3);
  EXPECT_EQ(chosen["length"], 16);
  EXPECT_EQ(chosen["learning_rate"], 0.5);
  EXPECT_EQ(chosen["optimizer"], "adamw");
  EXPECT_EQ(read_json_file(folder_ / "set/base/model/config.json")["vocab_size"], 260);
}

TEST_F(Run, TheSameWeightsOnAnyNumberOfThreads) {
  for (int threads = 1; threads <= 4; ++threads) {
    ASSERT_EQ(
        vertebra(fmt::format("run tiny.toml --stage pretrain --threads {} --out t{}", threads, threads)).code,
        0);
    EXPECT_EQ(sha256_file(folder_ / fmt::format("t{}/tiny/pretrain/model.safetensors", threads)),
              sha256_file(folder_ / "t1/tiny/pretrain/model.safetensors"));
  }
}

// kill -9 at a random moment, again and again, then the same command to its end: the weights of a run that
// was never disturbed. At least twenty kills; the moments cover start-up, steps and checkpoint writes.
TEST_F(Run, KilledAtAnyMomentItGoesOnWithTheSameBits) {
  const auto start = std::chrono::steady_clock::now();
  ASSERT_EQ(vertebra("run tiny.toml --out whole --set pretrain.steps=200").code, 0);
  const std::chrono::duration<double> undisturbed = std::chrono::steady_clock::now() - start;
  PhiloxSequence random(Philox(9, "kills"));
  int kills = 0, checkpoints_seen = 0;
  for (int attempt = 0; attempt < 200 && kills < 20; ++attempt) {
    const pid_t child = fork();
    if (child == 0) {
      if (chdir(folder_.c_str()) != 0) _exit(1);
      const int null = open("/dev/null", O_RDWR);
      dup2(null, 0);
      dup2(null, 1);
      dup2(null, 2);
      const std::string command =
          fmt::format("exec {} run tiny.toml --out killed --set pretrain.steps=200", VERTEBRA_PROGRAM);
      execl("/bin/sh", "sh", "-c", command.c_str(), nullptr);
      _exit(127);
    }
    std::this_thread::sleep_for(undisturbed * (0.05 + 0.6 * random.uniform()));
    kill(child, SIGKILL);
    int status = 0;
    waitpid(child, &status, 0);
    kills += WIFSIGNALED(status) ? 1 : 0;
    checkpoints_seen += fs::exists(folder_ / "killed/tiny/pretrain/checkpoints") ? 1 : 0;
    if (WIFEXITED(status)) {
      ASSERT_EQ(WEXITSTATUS(status), 0);
      fs::remove_all(folder_ / "killed");  // it was faster than the kill: from the start again
    }
  }
  EXPECT_GE(kills, 20);
  EXPECT_GT(checkpoints_seen, 0);
  ASSERT_EQ(vertebra("run tiny.toml --out killed --set pretrain.steps=200").code, 0);
  EXPECT_EQ(weights("killed"), weights("whole"));
}

// A disk that is really full, again and again, a little larger each time: a tmpfs in a mount namespace of its
// own. Every attempt ends with one error that names the file and the cause, leaves nothing half-written, and
// the last one gives the weights of a run that always had room.
TEST_F(Run, OnAFullDiskItStopsWithOneErrorAndGoesOnWithTheSameBits) {
  if (std::system("unshare -Urm mount -t tmpfs none /mnt 2> /dev/null") != 0)
    GTEST_SKIP() << "SKIPPED: a tmpfs in a namespace of its own is not allowed here (unshare -Urm)";
  ASSERT_EQ(vertebra("run tiny.toml --out roomy").code, 0);
  fs::create_directories(folder_ / "small");
  fs::create_directories(folder_ / "seen");
  // After each attempt: exit code, messages, names of temporary files, what inspect says of each checkpoint.
  write_file_atomic(folder_ / "attempts.sh", fmt::format(R"(set -u
mount -t tmpfs -o size=4k none small
size=0
for attempt in $(seq 1 100); do
  size=$((size + 4 + size / 6))
  mount -o remount,size=${{size}}k small
  {0} run tiny.toml --out small --verbose > /dev/null 2> seen/$attempt.err
  echo $? > seen/$attempt.code
  find small -name '*.tmp*' > seen/$attempt.temporary
  for step in small/tiny/pretrain/checkpoints/step-*; do
    [ -d $step ] && {{ {0} inspect $step > /dev/null 2>&1; echo $? >> seen/$attempt.inspected; }}
  done
  [ $(cat seen/$attempt.code) = 0 ] && break
done
cp small/tiny/model/model.safetensors small/tiny/pretrain/metrics.jsonl seen/
)",
                                                         VERTEBRA_PROGRAM));
  ASSERT_EQ(std::system(fmt::format("cd '{}' && unshare -Urm sh attempts.sh", folder_.string()).c_str()), 0);

  int attempts = 1, with_checkpoint = 0, continued = 0;
  for (;; ++attempts) {
    const std::string seen = fmt::format("{}/seen/{}.", folder_.string(), attempts);
    const std::string err = read_file(seen + "err");
    EXPECT_EQ(read_file(seen + "temporary"), "") << err;
    if (fs::exists(seen + "inspected")) {
      ++with_checkpoint;
      EXPECT_EQ(read_file(seen + "inspected").find('1'), std::string::npos) << "a checkpoint is damaged\n"
                                                                            << err;
    }
    continued += err.find("continuing from step") != std::string::npos ? 1 : 0;
    if (read_file(seen + "code") == "0\n") break;
    EXPECT_EQ(read_file(seen + "code"), "1\n") << err;
    size_t errors = 0;
    for (size_t at = 0; (at = err.find("error: ", at)) != std::string::npos; ++at) ++errors;
    EXPECT_EQ(errors, 1u) << err;
    EXPECT_NE(err.find("No space left on device"), std::string::npos) << err;
    EXPECT_NE(err.find("small/tiny"), std::string::npos) << "the file is not named: " << err;
  }
  EXPECT_GE(attempts, 5);
  EXPECT_GE(with_checkpoint, 3);
  EXPECT_GE(continued, 2);
  EXPECT_EQ(sha256_file(folder_ / "seen/model.safetensors"), weights("roomy"));
  // Every logged step once, although lines were cut off.
  std::vector<int64_t> steps;
  const std::string metrics = read_file(folder_ / "seen/metrics.jsonl");
  for (size_t start = 0; start < metrics.size(); start = metrics.find('\n', start) + 1) {
    const std::string line = metrics.substr(start, metrics.find('\n', start) - start);
    steps.push_back(parse_json(line, "metrics.jsonl")["step"].get<int64_t>());
  }
  EXPECT_EQ(steps, (std::vector<int64_t>{10, 20, 30, 40, 50, 60}));
}

TEST_F(Run, TwoRunsInOneFolderAreRefused) {
  ASSERT_EQ(vertebra("run tiny.toml --stage tokenizer").code, 0);
  {
    const FolderLock other(folder_ / "runs" / "tiny");
    const Outcome refused = vertebra("run tiny.toml --fresh --stage tokenizer");
    EXPECT_EQ(refused.code, 1);
    EXPECT_NE(refused.err.find("another process is at work in the folder"), std::string::npos) << refused.err;
    EXPECT_TRUE(fs::exists(folder_ / "runs" / "tiny" / "tokenizer" / "manifest.json"));
    EXPECT_EQ(vertebra("run tiny.toml --out other --stage tokenizer").code, 0);
  }
  EXPECT_EQ(vertebra("run tiny.toml --fresh --stage tokenizer").code, 0);
}

TEST_F(Run, AnInterruptSavesAndSaysHowToGoOn) {
  ASSERT_EQ(vertebra("run tiny.toml --set pretrain.steps=3000 --stage shards").code, 0);
  const std::string command = fmt::format(
      "cd '{}' && timeout --foreground --preserve-status -s INT 1.5 {} run tiny.toml --set "
      "pretrain.steps=30000 > stdout "
      "2> stderr",
      folder_.string(), VERTEBRA_PROGRAM);
  const int status = std::system(command.c_str());
  ASSERT_TRUE(WIFEXITED(status));
  const std::string err = read_file(folder_ / "stderr");
  EXPECT_EQ(WEXITSTATUS(status), 130) << err;
  EXPECT_NE(err.find("the same command goes on"), std::string::npos) << err;
}

TEST_F(Run, AFailedGateIsExitCode3AndChatWarns) {
  const Outcome outcome = vertebra("run tiny.toml --set gate.at_least.task=1.1");
  EXPECT_EQ(outcome.code, 3) << outcome.err;
  EXPECT_NE(outcome.out.find("NOT passed"), std::string::npos);
  const Json manifest = read_json_file(folder_ / "runs/tiny/model/manifest.json");
  EXPECT_EQ(manifest["results"]["gate"]["passed"], false);
}

TEST_F(Run, TheModelAnswers) {
  ASSERT_EQ(vertebra("run tiny.toml").code, 0);
  const Outcome text = vertebra("generate runs/tiny -p 'The sea is' -n 4 --json");
  ASSERT_EQ(text.code, 0) << text.err;
  const Json json = parse_json(text.out, "stdout");
  EXPECT_EQ(json["usage"]["output_tokens"], 4);
  EXPECT_EQ(json["stop_reason"], "max_tokens");
  EXPECT_EQ(vertebra("generate runs/tiny -p 'The sea is' -n 4 --temperature 1 --seed 5 --json").out,
            vertebra("generate runs/tiny -p 'The sea is' -n 4 --temperature 1 --seed 5 --json").out);
  const Outcome scores = vertebra("eval runs/tiny --task task.jsonl --task text/0.txt --json");
  ASSERT_EQ(scores.code, 0) << scores.err;
  EXPECT_EQ(parse_json(scores.out.substr(0, scores.out.find('\n')), "line 1")["questions"], 2);
  EXPECT_LT(parse_json(scores.out.substr(scores.out.find('\n')), "line 2")["bits_per_byte"].get<double>(), 3);
  // A base model has no chat template; a prompt that does not fit says how long it was.
  EXPECT_EQ(vertebra("chat runs/tiny -p hello").code, 1);
  const Outcome overflow = vertebra("generate runs/tiny -p 'The sea is blue.' -n 64");
  EXPECT_NE(overflow.code, 0);
  EXPECT_NE(overflow.err.find("the context holds 64"), std::string::npos) << overflow.err;
}

TEST_F(Run, MistakesInARecipeAreNamedBeforeAnythingRuns) {
  const auto error_of = [&](const std::string& arguments, int code = 2) {
    const Outcome outcome = vertebra("run " + arguments);
    EXPECT_EQ(outcome.code, code) << arguments << "\n" << outcome.err;
    EXPECT_FALSE(fs::exists(folder_ / "runs/tiny/tokenizer")) << arguments;
    return outcome.err;
  };
  const auto says = [](const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
  };
  EXPECT_TRUE(says(error_of("tiny.toml --set pretrain.stepz=5"), "did you mean 'pretrain.steps'"));
  EXPECT_TRUE(says(error_of("tiny.toml --set pretrian.steps=5"), "did you mean 'pretrain'"));
  EXPECT_TRUE(says(error_of("tiny.toml --set pretrain.steps=many"), "pretrain.steps is \"many\""));
  EXPECT_TRUE(says(error_of("tiny.toml --set pretrain.rows=0"), "from 1 to"));
  EXPECT_TRUE(says(error_of("tiny.toml --set pretrain.optimizer=adam"), "did you mean 'adamw'"));
  EXPECT_TRUE(says(error_of("tiny.toml --set model.heads=-1"), "model.heads is -1"));
  EXPECT_TRUE(
      says(error_of("tiny.toml --set model.heads=5"), "embedding 32 is no multiple of model.heads 5"));
  EXPECT_TRUE(says(error_of("tiny.toml --set model.head_dim=7"), "even"));
  EXPECT_TRUE(says(error_of("tiny.toml --set pretrain.length=65"), "from 8 to 64"));
  EXPECT_TRUE(says(error_of("tiny.toml --set pretrain"), "KEY=VALUE"));
  EXPECT_TRUE(says(error_of("tiny.toml --stage pretrian"), "no such stage"));
  EXPECT_TRUE(says(error_of("tiny.toml --set data.path=absent", 1), "does not exist"));
  EXPECT_TRUE(says(error_of("tiny.toml --set 'eval.tasks=[\"absent.jsonl\"]'", 1), "absent.jsonl"));
  EXPECT_TRUE(
      says(error_of("tiny.toml --set chat.template=absent.jinja --set sft.rows=4", 1), "absent.jinja"));
  EXPECT_TRUE(says(error_of("absent.toml", 1), "absent.toml"));
  write_recipe("broken", "name = \"tiny\"\n[pretrain\n");
  EXPECT_TRUE(says(error_of("broken.toml"), "broken.toml:2"));
  write_recipe("empty", "name = \"tiny\"\n");
  EXPECT_TRUE(says(error_of("empty.toml"), "no stage"));
  write_recipe("path", "name = \"../up\"\n[tokenizer]\nvocabulary = 300\n");
  EXPECT_TRUE(says(error_of("path.toml"), "plain folder name"));
}

TEST_F(Run, AMeshThatDoesNotFitIsNamed) {
  const auto error_of = [&](const std::string& arguments) {
    const Outcome outcome = vertebra("run tiny.toml " + arguments);
    EXPECT_EQ(outcome.code, 2) << arguments << "\n" << outcome.err;
    EXPECT_FALSE(fs::exists(folder_ / "runs/tiny/tokenizer")) << arguments;
    return outcome.err;
  };
  const auto says = [](const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
  };
  EXPECT_TRUE(says(error_of("--set mesh.data=2 --set mesh.fsdp=2"), "choose --device pjrt:NAME"));
  EXPECT_TRUE(says(error_of("--set mesh.dat=2"), "did you mean 'mesh.data'"));
  EXPECT_TRUE(says(error_of("--set mesh.tensor=0"), "mesh.tensor is 0"));
  EXPECT_TRUE(says(error_of("--set mesh.data=65536 --set mesh.fsdp=2"), "131072 devices"));
}

// On the plugin that pretends to have any number of devices: training, samples, evaluation and gate on a
// mesh, and the checkpoint continued on one device.
TEST_F(Run, SeveralDevicesTrainOneModel) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "NOT TESTED under sanitizers: plugins are not instrumented, and ten times slower";
#endif
  const std::string shorter =
      "run tiny.toml --json --set pretrain.steps=10 --set 'pretrain.sample_prompts=[\"The sea\"]' --set "
      "pretrain.sample_every=10 --set pretrain.optimizer=adamw --set model.depth=1 ";
  const Outcome meshed =
      vertebra(shorter + "--device pjrt:cpu --set mesh.data=2 --set mesh.fsdp=2 --set gate.at_least.task=0");
  if (meshed.code != 0 && meshed.err.find("tools/get-plugin") != std::string::npos)
    GTEST_SKIP() << "NOT TESTED: the CPU plugin is not installed; 'tools/get-plugin cpu' fetches it";
  ASSERT_EQ(meshed.code, 0) << meshed.err;
  const Json manifest = read_json_file(folder_ / "runs/tiny/pretrain/manifest.json");
  EXPECT_EQ(manifest["results"]["mesh"], "data 2, fsdp 2");
  const Outcome single = vertebra(shorter + "--out one --stage pretrain");
  ASSERT_EQ(single.code, 0) << single.err;
  const Json alone = read_json_file(folder_ / "one/tiny/pretrain/manifest.json");
  EXPECT_NEAR(manifest["results"]["loss"].get<double>(), alone["results"]["loss"].get<double>(), 1e-3);
  EXPECT_NEAR(manifest["results"]["validation_loss"].get<double>(),
              alone["results"]["validation_loss"].get<double>(), 1e-3);
  // What was trained on four devices is done; on one nothing runs again.
  EXPECT_EQ(stages_that_ran(vertebra(shorter + "--set gate.at_least.task=0")), Names{});
  for (const auto& [setting, message] :
       {std::pair("mesh.data=3", "make pretrain.rows a multiple of 3"),
        std::pair("mesh.tensor=4", "make model.heads a multiple of 4"),
        std::pair("mesh.fsdp=12", "make model.embedding a multiple of 12")}) {
    const Outcome wrong =
        vertebra(fmt::format("run tiny.toml --out wrong --device pjrt:cpu --set {}", setting));
    EXPECT_NE(wrong.code, 0);
    EXPECT_NE(wrong.err.find(message), std::string::npos) << wrong.err;
    EXPECT_FALSE(fs::exists(folder_ / "wrong/tiny/tokenizer"));
  }
}

TEST_F(Run, BadDataIsOneClearError) {
  const auto error_of = [&](const std::string& path) {
    const Outcome outcome = vertebra("run tiny.toml --fresh --set data.path=" + path);
    EXPECT_NE(outcome.code, 0) << path;
    EXPECT_LT(outcome.code, 128) << path << ": the program died";
    EXPECT_FALSE(fs::exists(folder_ / "runs/tiny/shards/manifest.json")) << path;
    return outcome.err;
  };
  fs::create_directories(folder_ / "empty");
  EXPECT_NE(error_of("empty").find("empty"), std::string::npos);
  write_file_atomic(folder_ / "binary.txt", std::string("text\0more", 9));
  EXPECT_NE(error_of("binary.txt").find("binary.txt"), std::string::npos);
  write_file_atomic(folder_ / "broken.jsonl", "{\"text\": \"fine\"}\n{\"text\": \n");
  EXPECT_NE(error_of("broken.jsonl").find("broken.jsonl:2"), std::string::npos);
  write_file_atomic(folder_ / "latin.txt", "caf\xe9 au lait");
  EXPECT_NE(error_of("latin.txt").find("latin.txt"), std::string::npos);
  const std::string huge(65 << 20, 'y');
  write_file_atomic(folder_ / "huge.jsonl", "{\"text\": \"fine\"}\n{\"text\": \"" + huge + "\"}\n");
  EXPECT_NE(error_of("huge.jsonl").find("huge.jsonl:2"), std::string::npos);
}

// What is wrong with a model folder is one error that names the file, before any answer.
TEST_F(Run, ABrokenModelIsNamedAndAnswersNothing) {
  ASSERT_EQ(vertebra("run tiny.toml --set pretrain.steps=2 --set gate.at_least.task=0").code, 0);
  const fs::path weights = folder_ / "runs/tiny/model/model.safetensors";
  const std::string whole = read_file(weights);
  const auto error_of = [&](const std::string& bytes) {
    write_file_atomic(weights, bytes);
    const Outcome outcome = vertebra("generate runs/tiny/model -p 'The sea' -n 2");
    EXPECT_EQ(outcome.out, "");
    EXPECT_TRUE(outcome.code == 1 || outcome.code == 2) << outcome.code;
    EXPECT_NE(outcome.err.find("runs/tiny/model"), std::string::npos) << outcome.err;
    return outcome.err;
  };
  const auto changed = [&](const std::function<void(std::vector<NamedTensor>&)>& change) {
    write_file_atomic(weights, whole);
    std::vector<NamedTensor> tensors;
    {
      const SafetensorsFile file(weights);
      for (const SafetensorsEntry& entry : file.entries())
        tensors.push_back({entry.name, file.read(entry.name).clone()});
    }
    change(tensors);
    write_safetensors(weights, tensors);
    return read_file(weights);
  };
  const auto says = [](const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
  };
  constexpr const char* kNorm = "model.norm.weight";
  EXPECT_TRUE(says(error_of(changed([&](auto& tensors) {
                     std::erase_if(tensors, [&](const NamedTensor& each) { return each.name == kNorm; });
                   })),
                   kNorm));
  EXPECT_TRUE(says(
      error_of(changed([](auto& tensors) { tensors.push_back({"extra", Tensor::scalar(1.0f)}); })), "extra"));
  EXPECT_TRUE(says(error_of(changed([&](auto& tensors) {
                     for (NamedTensor& each : tensors)
                       if (each.name == kNorm) each.tensor = Tensor::zeros({DType::kF32, {33}});
                   })),
                   "[33]"));
  EXPECT_TRUE(says(error_of(whole.substr(0, whole.size() / 2)), "cut off"));
  std::string lies = whole;
  lies[6] = 1;  // of the header's length, 2^48
  EXPECT_TRUE(says(error_of(lies), "header"));
  std::string overlap = whole;
  const size_t second = overlap.find("\"data_offsets\":[", overlap.find("\"data_offsets\":[0,") + 1) + 16;
  overlap[second] = overlap[second] == '1' ? '2' : '1';
  EXPECT_TRUE(says(error_of(overlap), "byte"));
}

// Memory that is not there is an error like any other: nothing half-made, and with less to hold the run goes
// on.
TEST_F(Run, OutOfMemoryIsOneError) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "SKIPPED: a sanitizer's own memory does not fit under a limit of the address space";
#endif
  ASSERT_EQ(vertebra("run tiny.toml --stage shards").code, 0);
  const std::string command = fmt::format(
      "cd '{}' && ulimit -v 1000000 && {} run tiny.toml --threads 2 --set pretrain.rows=16384 > stdout 2> "
      "stderr",
      folder_.string(), VERTEBRA_PROGRAM);
  const int status = std::system(command.c_str());
  const std::string err = read_file(folder_ / "stderr");
  ASSERT_TRUE(WIFEXITED(status)) << err;
  EXPECT_EQ(WEXITSTATUS(status), 1) << err;
  EXPECT_EQ(err.find("error: "), err.rfind("error: ")) << err;
  EXPECT_NE(err.find("memory"), std::string::npos) << err;
  EXPECT_FALSE(fs::exists(folder_ / "runs/tiny/pretrain/manifest.json"));
  EXPECT_FALSE(fs::exists(folder_ / "runs/tiny/model"));
  EXPECT_EQ(vertebra("run tiny.toml --set pretrain.steps=2").code, 0);
}

}  // namespace
}  // namespace vertebra
