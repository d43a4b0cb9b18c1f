// Evaluation tasks: JSONL files of questions, and how an answer is scored. A line is one of
//   {"prompt", "answer": TEXT or [TEXT...], "match": "exact" | "contains" | "pattern"}   generated, then
//   compared
//   {"prompt", "choices": [TEXT...], "answer": NUMBER}                                    chosen by
//   likelihood
// "messages" may stand for "prompt" (a conversation); "tags" are counted separately. Called by `eval` and
// the eval stage.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "engine/assistant.h"

namespace vertebra {

enum class Match { kExact, kContains, kPattern, kChoice };

struct Question {
  Conversation conversation;  // one user message for a plain prompt
  std::string prompt;
  std::vector<std::string> answers;  // any of them is right
  Match match = Match::kExact;
  std::vector<std::string> choices;
  size_t right_choice = 0;
  std::map<std::string, std::string> tags;
};

struct Task {
  std::string name;  // of the file, without its ending
  std::vector<Question> questions;
};

// Throws invalid_argument naming file and line. `limit` 0: all.
Task read_task(const std::filesystem::path& path, int64_t limit = 0);

struct QuestionOutcome {
  std::string prompt, expected, found;
  bool right = false;
  double log_probability = 0;  // of the generated answer, or of the chosen one
};

struct TaskResult {
  std::string name;
  int64_t questions = 0, right = 0;
  std::map<std::string, std::pair<int64_t, int64_t>> by_tag;  // "relation=capital" -> {right, asked}
  std::vector<QuestionOutcome> wrong;                         // the first 20, for the report
  double wall_seconds = 0;

  double score() const {
    return questions > 0 ? static_cast<double>(right) / static_cast<double>(questions) : 0;
  }
  Json to_json() const;
};

struct TaskOptions {
  int64_t max_tokens = 64;
  // Chat models answer through their template; a base model continues the plain prompt.
  bool use_chat_template = true;
};

TaskResult run_task(Backend& backend, Assistant& assistant, const Task& task,
                    const TaskOptions& options = {});

// Loss of the model over a text file, in windows of the context length (each token predicted once, from at
// most the window before it): perplexity per token and bits per byte.
struct TextLoss {
  int64_t tokens = 0, bytes = 0;
  double loss = 0, perplexity = 0, bits_per_byte = 0;
  Json to_json() const;
};
TextLoss measure_text(Backend& backend, Assistant& assistant, const std::string& text, int64_t window = 0);

// Whether an answer is right: surrounding white space never counts; "pattern" is a PCRE2 regular expression
// that must be found.
bool answer_matches(const Question& question, const std::string& answer);

}  // namespace vertebra
