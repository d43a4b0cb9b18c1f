#include "eval/task.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "base/error.h"
#include "base/file.h"
#include "base/interrupt.h"
#include "base/progress.h"
#include "text/regex.h"
#include "train/evaluate.h"

namespace vertebra {
namespace {

constexpr size_t kWrongShown = 20;
constexpr size_t kBatch = 64;  // prompts handed to the engine at a time, so that interrupts are seen

std::string trimmed(const std::string& text) {
  const size_t first = text.find_first_not_of(" \t\r\n");
  if (first == std::string::npos) return "";
  return text.substr(first, text.find_last_not_of(" \t\r\n") - first + 1);
}

Match match_from_name(const std::string& name, const std::string& source) {
  if (name == "exact") return Match::kExact;
  if (name == "contains") return Match::kContains;
  if (name == "pattern") return Match::kPattern;
  fail(Code::kInvalidArgument, "{}: match is '{}'; exact, contains and pattern are known", source, name);
}

std::vector<std::string> read_texts(const Json& value, const std::string& key, const std::string& source) {
  if (value.is_string()) return {value.get<std::string>()};
  if (!value.is_array() || value.empty()) json_field_wrong(key, value, "a text or a list of texts", source);
  std::vector<std::string> out;
  for (const Json& item : value) out.push_back(json_convert<std::string>(item, key, source));
  return out;
}

void read_prompt(const Json& line, const std::string& source, Question& question) {
  if (!line.contains("messages")) {
    question.prompt = json_get<std::string>(line, "prompt", source);
    question.conversation.messages = {{"user", question.prompt}};
    return;
  }
  const Json messages = json_get<Json>(line, "messages", source);
  if (!messages.is_array() || messages.empty())
    json_field_wrong("messages", messages, "a list of messages", source);
  for (const Json& message : messages) {
    question.conversation.messages.push_back(
        {json_get<std::string>(message, "role", source), json_get<std::string>(message, "content", source)});
  }
  question.prompt = question.conversation.messages.back().content;
}

Question parse_question(const Json& line, const std::string& source) {
  Question question;
  read_prompt(line, source, question);
  if (line.contains("choices")) {
    question.match = Match::kChoice;
    question.choices = read_texts(line["choices"], "choices", source);
    const auto answer = json_get<int64_t>(line, "answer", source);
    require(answer >= 0 && answer < static_cast<int64_t>(question.choices.size()),
            "{}: answer is {}, 0 to {} was wanted", source, answer, question.choices.size() - 1);
    question.right_choice = static_cast<size_t>(answer);
  } else {
    question.match = match_from_name(json_get<std::string>(line, "match", source, "exact"), source);
    question.answers = read_texts(json_get<Json>(line, "answer", source), "answer", source);
    if (question.match == Match::kPattern) {
      for (const std::string& pattern : question.answers) Regex(pattern, source);
    }
  }
  const Json tags = json_get<Json>(line, "tags", source, Json::object());
  if (!tags.is_object()) json_field_wrong("tags", tags, "an object", source);
  for (const auto& [key, value] : tags.items())
    question.tags[key] = value.is_string() ? value.get<std::string>() : json_line(value);
  return question;
}

void count(TaskResult& result, const Question& question, QuestionOutcome outcome) {
  ++result.questions;
  result.right += outcome.right ? 1 : 0;
  for (const auto& [key, value] : question.tags) {
    auto& [right, asked] = result.by_tag[key + "=" + value];
    right += outcome.right ? 1 : 0;
    ++asked;
  }
  if (!outcome.right && result.wrong.size() < kWrongShown) result.wrong.push_back(std::move(outcome));
}

std::vector<int32_t> prompt_tokens(const Assistant& assistant, const Question& question,
                                   const TaskOptions& options) {
  if (options.use_chat_template && assistant.has_chat_template())
    return assistant.chat_prompt(question.conversation);
  return assistant.text_prompt(question.prompt);
}

bool pattern_found(const std::string& pattern, const std::string& text) {
  bool found = false;
  Regex(pattern, "pattern").for_each_match(text, [&](size_t, size_t) { found = true; });
  return found;
}

// Log probabilities of continuations by full forward passes, padded to a few lengths so that few graphs are
// compiled.
class ContinuationScorer {
 public:
  ContinuationScorer(Backend& backend, const Assistant& assistant)
      : backend_(backend), assistant_(assistant) {}

  double log_probability(const std::vector<int32_t>& prompt, const std::vector<int32_t>& continuation) {
    const auto tokens =
        static_cast<int64_t>(prompt.size() + continuation.size()) - 1;  // the last one predicts nothing
    const int64_t context = assistant_.model().shape().context_length;
    require(tokens <= context, Code::kOutOfRange,
            "a question and its choice have {} tokens, the context holds {}", tokens + 1, context);
    int64_t length = std::min<int64_t>(64, context);
    while (length < tokens) length = std::min(2 * length, context);
    Batch batch;
    batch.rows = 1;
    batch.length = static_cast<int>(length);
    const auto token_at = [&](int64_t i) {
      const auto index = static_cast<size_t>(i);
      return index < prompt.size() ? prompt[index] : continuation[index - prompt.size()];
    };
    for (int64_t i = 0; i < length; ++i) {
      const bool inside = i < tokens, learnt = inside && i + 1 >= static_cast<int64_t>(prompt.size());
      batch.tokens.push_back(inside ? token_at(i) : 0);
      batch.labels.push_back(learnt ? token_at(i + 1) : -1);
      batch.segments.push_back(inside ? 0 : -1);
      batch.positions.push_back(inside ? static_cast<int32_t>(i) : 0);
    }
    const LossSummary summary = evaluator(length).run(
        [&](int64_t index) { return index == 0 ? std::optional<Batch>(batch) : std::nullopt; });
    return -summary.loss_sum;
  }

 private:
  LossEvaluator& evaluator(int64_t length) {
    auto& place = evaluators_[length];
    if (!place) {
      place = std::make_unique<LossEvaluator>(backend_, assistant_.model(), assistant_.parameters(), 1,
                                              length, assistant_.compute(), std::span<const int32_t>());
    }
    return *place;
  }

  Backend& backend_;
  const Assistant& assistant_;
  std::map<int64_t, std::unique_ptr<LossEvaluator>> evaluators_;
};

QuestionOutcome choose(const Assistant& assistant, ContinuationScorer& scorer, const Question& question,
                       const std::vector<int32_t>& prompt) {
  QuestionOutcome outcome{question.prompt, question.choices[question.right_choice], "", false, -INFINITY};
  for (size_t i = 0; i < question.choices.size(); ++i) {
    const auto continuation = assistant.tokenizer().encode(question.choices[i], false, false);
    require(!continuation.empty(), "choice {} of the question '{}' is empty", i, question.prompt);
    const double log_probability = scorer.log_probability(prompt, continuation);
    if (log_probability <= outcome.log_probability) continue;
    outcome.log_probability = log_probability;
    outcome.found = question.choices[i];
    outcome.right = i == question.right_choice;
  }
  return outcome;
}

}  // namespace

bool answer_matches(const Question& question, const std::string& answer) {
  const std::string found = trimmed(answer);
  return std::any_of(question.answers.begin(), question.answers.end(), [&](const std::string& wanted) {
    switch (question.match) {
      case Match::kExact:
        return found == trimmed(wanted);
      case Match::kContains:
        return found.find(trimmed(wanted)) != std::string::npos;
      case Match::kPattern:
        return pattern_found(wanted, found);
      case Match::kChoice:
        return false;
    }
    return false;
  });
}

Task read_task(const std::filesystem::path& path, int64_t limit) {
  Task task;
  task.name = path.stem().string();
  const std::string text = read_file(path);
  int64_t number = 0;
  for (size_t start = 0; start < text.size();) {
    const size_t end = std::min(text.find('\n', start), text.size());
    const std::string_view line(text.data() + start, end - start);
    start = end + 1;
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    const std::string source = fmt::format("{}:{}", path.string(), number);
    task.questions.push_back(parse_question(parse_json(line, source), source));
    if (limit > 0 && static_cast<int64_t>(task.questions.size()) == limit) break;
  }
  require(!task.questions.empty(), "{}: the task has no questions", path.string());
  return task;
}

TaskResult run_task(Backend& backend, Assistant& assistant, const Task& task, const TaskOptions& options) {
  TaskResult result;
  result.name = task.name;
  const auto start = std::chrono::steady_clock::now();
  Progress progress(task.name, task.questions.size(), "questions");
  ContinuationScorer scorer(backend, assistant);
  TextOptions text_options;
  text_options.max_tokens = options.max_tokens;
  text_options.may_withhold = true;
  for (size_t first = 0; first < task.questions.size(); first += kBatch) {
    if (interrupt_requested()) throw Interrupted("stopped in task " + task.name);
    const size_t last = std::min(task.questions.size(), first + kBatch);
    std::vector<std::vector<int32_t>> prompts;
    std::vector<size_t> generated;
    for (size_t i = first; i < last; ++i) {
      const Question& question = task.questions[i];
      std::vector<int32_t> prompt = prompt_tokens(assistant, question, options);
      if (question.match == Match::kChoice) {
        count(result, question, choose(assistant, scorer, question, prompt));
      } else {
        generated.push_back(i);
        prompts.push_back(std::move(prompt));
      }
    }
    const std::vector<TextResult> answers = assistant.generate_all(std::move(prompts), text_options);
    for (size_t k = 0; k < answers.size(); ++k) {
      const Question& question = task.questions[generated[k]];
      count(result, question,
            {question.prompt, question.answers[0], answers[k].text, answer_matches(question, answers[k].text),
             answers[k].log_probability});
    }
    progress.update(last, fmt::format("{:.1f} % right", 100 * result.score()));
  }
  result.wall_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

Json TaskResult::to_json() const {
  Json out = {{"task", name},
              {"score", score()},
              {"right", right},
              {"questions", questions},
              {"seconds", wall_seconds}};
  out["tags"] = Json::object();
  for (const auto& [tag, counts] : by_tag)
    out["tags"][tag] = {{"right", counts.first}, {"questions", counts.second}};
  out["wrong"] = Json::array();
  for (const QuestionOutcome& each : wrong) {
    out["wrong"].push_back({{"prompt", each.prompt}, {"expected", each.expected}, {"found", each.found}});
  }
  return out;
}

TextLoss measure_text(Backend& backend, Assistant& assistant, const std::string& text, int64_t window) {
  const Tokenizer& tokenizer = assistant.tokenizer();
  const int64_t context = assistant.model().shape().context_length;
  if (window == 0) window = std::min<int64_t>(context, 1024);
  require(window >= 2 && window <= context, "a window of {} tokens was asked for; 2 to {} are possible",
          window, context);
  const std::vector<int32_t> ids = tokenizer.encode(text, false, false);
  require(ids.size() >= 2, "the text has {} tokens; at least 2 are needed to measure a loss", ids.size());
  const std::vector<int32_t> token_bytes = tokenizer.text_lengths();
  LossEvaluator evaluator(backend, assistant.model(), assistant.parameters(), 1, window, assistant.compute(),
                          token_bytes);
  const auto total = static_cast<int64_t>(ids.size()) - 1;  // predictions
  const LossSummary summary = evaluator.run([&](int64_t index) -> std::optional<Batch> {
    const int64_t begin = index * window;
    if (begin >= total) return std::nullopt;
    if (interrupt_requested()) throw Interrupted("stopped while measuring a text");
    Batch batch;
    batch.rows = 1;
    batch.length = static_cast<int>(window);
    for (int64_t i = 0; i < window; ++i) {
      const bool inside = begin + i < total;
      batch.tokens.push_back(inside ? ids[static_cast<size_t>(begin + i)] : 0);
      batch.labels.push_back(inside ? ids[static_cast<size_t>(begin + i + 1)] : -1);
      batch.segments.push_back(inside ? 0 : -1);
      batch.positions.push_back(inside ? static_cast<int32_t>(i) : 0);
    }
    return batch;
  });
  return {summary.labels, summary.bytes, summary.loss(), summary.perplexity(), summary.bits_per_byte()};
}

Json TextLoss::to_json() const {
  return {{"tokens", tokens},
          {"bytes", bytes},
          {"loss", loss},
          {"perplexity", perplexity},
          {"bits_per_byte", bits_per_byte}};
}

}  // namespace vertebra
