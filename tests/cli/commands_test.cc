// inspect, devices, tokenizer and bench as a user runs them: output, exit codes, damage found.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <sstream>

#include "base/file.h"
#include "base/manifest.h"
#include "models/model_folder.h"
#include "text/bpe_trainer.h"

namespace vertebra {
namespace {

namespace fs = std::filesystem;

struct Outcome {
  int code = -1;
  std::string out;
  Json json() const { return parse_json(out, "stdout"); }
};

class Commands : public ::testing::Test {
 protected:
  Commands() : folder_(fs::temp_directory_path() / fmt::format("cli_test_{}", getpid())) {
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  ~Commands() override { fs::remove_all(folder_); }

  // Runs the program in the test's folder; standard error goes to the file "stderr".
  Outcome run(const std::string& arguments) const {
    const std::string command =
        fmt::format("cd '{}' && {} {} 2> stderr", folder_.string(), VERTEBRA_PROGRAM, arguments);
    Outcome outcome;
    FILE* pipe = popen(command.c_str(), "r");
    char chunk[4096];
    for (size_t got; (got = fread(chunk, 1, sizeof chunk, pipe)) > 0;) outcome.out.append(chunk, got);
    const int status = pclose(pipe);
    if (WIFEXITED(status)) outcome.code = WEXITSTATUS(status);
    return outcome;
  }
  std::string stderr_text() const { return read_file(folder_ / "stderr"); }

  // A tiny model with a tokenizer and a manifest.
  fs::path make_model_folder() const {
    const fs::path path = folder_ / "model";
    fs::create_directories(path);
    BpeTrainerOptions options;
    options.vocab_size = 270;
    const Tokenizer tokenizer = train_bpe_documents({"one two one two three"}, options);
    const auto model = make_model(
        default_config("llama", {{"depth", 1}, {"embedding", 64}}, tokenizer.vocab_size(), 64), "test");
    std::vector<NamedTensor> parameters;
    for (const ParameterSpec& spec : model->parameters())
      parameters.push_back({spec.name, initial_value(spec, 1)});
    write_model_folder(path, *model, parameters, -1);
    tokenizer.save(path);
    Manifest manifest;
    manifest.kind = "model";
    write_manifest(path, manifest);
    return path;
  }

  fs::path folder_;
};

TEST_F(Commands, InspectKnowsAWholeModel) {
  const fs::path model = make_model_folder();
  const Outcome outcome = run("inspect model --json");
  ASSERT_EQ(outcome.code, 0) << outcome.out << stderr_text();
  const Json json = outcome.json();
  EXPECT_EQ(json["kind"], "model");
  EXPECT_EQ(json["whole"], true);
  EXPECT_EQ(json["layers"], 1);
  EXPECT_GT(json["parameters"].get<int64_t>(), 10'000);
  EXPECT_EQ(run("inspect model/model.safetensors --tensors --json").json()["tensor_list"].size(),
            json["tensors"].get<size_t>());
  EXPECT_EQ(run("inspect model/tokenizer.json --json").json()["kind"], "tokenizer");
  // The folder around it is a run.
  EXPECT_EQ(run("inspect . --json").json()["kind"], "run");
}

TEST_F(Commands, InspectNamesDamage) {
  const fs::path weights = make_model_folder() / "model.safetensors";
  std::string bytes = read_file(weights);
  bytes[bytes.size() - 3] ^= 1;
  write_file_atomic(weights, bytes);
  Outcome outcome = run("inspect model");
  EXPECT_EQ(outcome.code, 1);
  EXPECT_NE(outcome.out.find("DAMAGED: 'model/model.safetensors' does not match"), std::string::npos)
      << outcome.out;
  EXPECT_EQ(run("inspect .").code, 1);

  write_file_atomic(weights, bytes.substr(0, bytes.size() / 2));
  outcome = run("inspect model --json");
  EXPECT_EQ(outcome.code, 1);
  EXPECT_EQ(outcome.json()["whole"], false);
  EXPECT_EQ(outcome.json()["damage"].size(), 2u) << outcome.out;
}

TEST_F(Commands, InspectRefusesWhatItDoesNotKnow) {
  write_file_atomic(folder_ / "a.txt", "text");
  EXPECT_EQ(run("inspect a.txt").code, 2);
  EXPECT_EQ(run("inspect absent").code, 1);
  EXPECT_NE(stderr_text().find("'absent' does not exist"), std::string::npos);
  write_file_atomic(folder_ / "bad.safetensors", "garbage, not a header");
  EXPECT_EQ(run("inspect bad.safetensors").code, 1);
}

TEST_F(Commands, TokenizerTrainsEncodesAndDecodes) {
  write_file_atomic(folder_ / "text.txt", "the cat sat on the mat, the cat sat\n");
  const Outcome trained =
      run("tokenizer train text.txt --vocabulary 270 --special '<|end|>' -o t.json --json");
  ASSERT_EQ(trained.code, 0) << stderr_text();
  const auto vocabulary = trained.json()["vocabulary"].get<int>();
  EXPECT_GT(vocabulary, 257);
  EXPECT_LE(vocabulary, 270);

  const Json ids = run("tokenizer encode t.json -p 'the cat<|end|>'").json()["ids"];
  EXPECT_EQ(ids.back(), 0);
  std::string list;
  for (const Json& id : ids) list += (list.empty() ? "" : ",") + id.dump();
  EXPECT_EQ(run("tokenizer decode t.json --json --ids " + list).json()["text"], "the cat<|end|>");
  EXPECT_EQ(run("tokenizer decode t.json --skip-special --ids " + list).out, "the cat\n");
  EXPECT_NE(run("tokenizer encode t.json --no-control -p '<|end|>'").json()["ids"].back(), 0);

  // A line a line, whether from a file or a pipe.
  write_file_atomic(folder_ / "lines.jsonl", "{\"t\":\"the\"}\n\n{\"t\":\"\"}\n{\"t\":\"cat\"}");
  const Outcome lines = run("tokenizer encode t.json --jsonl lines.jsonl --field t");
  EXPECT_EQ(std::count(lines.out.begin(), lines.out.end(), '\n'), 3) << lines.out;
  EXPECT_EQ(run("tokenizer encode t.json --field t --jsonl - < lines.jsonl").out, lines.out);
  EXPECT_EQ(run("tokenizer encode t.json < text.txt").code, 0);
}

TEST_F(Commands, TokenizerRendersConversations) {
  const fs::path model = make_model_folder();
  write_file_atomic(model / "chat_template.jinja",
                    "{{ bos_token }}{{ pad_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}"
                    "{% generation %}{{ m.reasoning_content }}{% endgeneration %}{% endfor %}"
                    "{{ mood }}{{ tools|length if tools }}{{ '>' if add_generation_prompt }}"
                    "{{ raise_exception('no system') if messages[0].role == 'system' }}");
  write_file_atomic(model / "tokenizer_config.json",
                    R"({"bos_token": "<s>", "pad_token": {"content": "<pad>"}})");
  write_file_atomic(
      folder_ / "chats.jsonl",
      R"({"messages": [{"role": "user", "content": "Hi", "name": null}], "mood": "!", "tools": [1, 2]})"
      "\n"
      R"({"messages": [{"role": "system", "content": "x"}]})"
      "\n"
      R"({"messages": [{"role": "assistant", "content": "A B ", "thinking": "T"}], "bos_token": "<b>",)"
      R"( "continue_final_message": true})"
      "\n");
  EXPECT_NE(run("tokenizer render model --jsonl chats.jsonl").code, 0);
  EXPECT_NE(stderr_text().find("no system"), std::string::npos);
  const Outcome lines = run("tokenizer render model --keep-going --jsonl - < chats.jsonl");
  ASSERT_EQ(lines.code, 0) << stderr_text();
  std::istringstream stream(lines.out);
  std::vector<Json> rows;
  for (std::string line; std::getline(stream, line);) rows.push_back(parse_json(line, "line"));
  ASSERT_EQ(rows.size(), 3u);
  EXPECT_EQ(rows[0]["text"], "<s><pad>[user]Hi!2");
  EXPECT_NE(rows[1]["error"].get<std::string>().find("no system"), std::string::npos);
  EXPECT_EQ(rows[2]["text"], "<b><pad>[assistant]A B ");
  // What {% generation %} wrote lies behind the text to continue.
  EXPECT_EQ(rows[2]["assistant_spans"][0][0], rows[2]["assistant_spans"][0][1]);
  EXPECT_NE(run("tokenizer render text.txt --jsonl chats.jsonl").code, 0);
}

TEST_F(Commands, TokenizerNamesMistakes) {
  write_file_atomic(folder_ / "text.txt", "the cat\n");
  ASSERT_EQ(run("tokenizer train text.txt --vocabulary 260 -o t.json").code, 0);
  write_file_atomic(folder_ / "lines.jsonl", "{\"text\":\"a\"}\n{\"text\":7}\n");
  EXPECT_EQ(run("tokenizer encode t.json --jsonl lines.jsonl").code, 2);
  EXPECT_NE(stderr_text().find("lines.jsonl:2"), std::string::npos) << stderr_text();
  EXPECT_NE(run("tokenizer decode t.json --ids 99999").code, 0);
  EXPECT_EQ(run("tokenizer decode t.json").code, 2);
  EXPECT_EQ(run("tokenizer").code, 2);
  EXPECT_EQ(run("tokenizer train text.txt --vocabulary 5 -o t.json").code, 2);
}

TEST_F(Commands, DevicesListsTheCpu) {
  const Json device = run("devices --json --threads 1").json()["devices"][0];
  EXPECT_EQ(device["name"], "cpu");
  EXPECT_EQ(device["threads"], 1);
  EXPECT_FALSE(device["isas"].empty());
  EXPECT_EQ(run("devices").code, 0);
  EXPECT_NE(run("devices --device nothing").code, 0);
}

TEST_F(Commands, APluginThatIsNoneIsAnErrorThatSaysWhy) {
  write_file_atomic(folder_ / "text.so", "no library");
  const fs::path model = make_model_folder();
  const auto fails = [&](const std::string& device, const std::string& part) {
    EXPECT_NE(run(fmt::format("generate '{}' -p one -n 2 --device {}", model.string(), device)).code, 0);
    EXPECT_NE(stderr_text().find(part), std::string::npos) << stderr_text();
  };
  fails("pjrt:abacus", "there is no vendor 'abacus'");
  fails("pjrt:./text.so", "text.so cannot be loaded");
  fails("pjrt:./missing.so", "there is no plugin file ./missing.so");
  fails("pjrt:./text.so --isa baseline", "--isa chooses kernels of the device 'cpu'");
}

TEST_F(Commands, BenchPrintsOneLineAFigure) {
  const std::string tiny =
      " --seconds 0 --depth 1 --embedding 64 --vocabulary 300 --rows 1 --length 16 --json";
  for (const char* name : {"train", "prefill", "decode"}) {
    const Outcome outcome = run(std::string("bench ") + name + tiny);
    ASSERT_EQ(outcome.code, 0) << name << stderr_text();
    const Json figure = parse_json(outcome.out.substr(0, outcome.out.find('\n')), name);
    for (const char* key : {"name", "value", "unit", "ceiling", "share", "threads", "isa", "device", "model"})
      EXPECT_TRUE(figure.contains(key)) << name << " " << key;
    EXPECT_GT(figure["value"].get<double>(), 0) << name;
    EXPECT_EQ(figure["unit"], "tokens/s");
  }
  EXPECT_EQ(run("bench nothing").code, 2);
}

}  // namespace
}  // namespace vertebra
