// vertebra chat MODEL: talk to an assistant in the terminal, or ask it prompts given with -p.
#include <fmt/format.h>
#include <histedit.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <optional>

#include "base/file.h"
#include "base/interrupt.h"
#include "base/log.h"
#include "cli/command.h"
#include "cli/generation_options.h"
#include "cli/model_argument.h"

namespace vertebra::cli {
namespace {

// Lines from a terminal with editing and history (libedit), or plain lines from a pipe.
class LineReader {
 public:
  LineReader() {
    if (!isatty(STDIN_FILENO)) return;
    editor_ = el_init("vertebra", stdin, stdout, stderr);
    history_ = history_init();
    HistEvent event;
    history(history_, &event, H_SETSIZE, 1000);
    if (const char* home = std::getenv("HOME")) history_file_ = std::string(home) + "/.vertebra_history";
    if (!history_file_.empty()) history(history_, &event, H_LOAD, history_file_.c_str());
    el_set(editor_, EL_PROMPT, +[](EditLine*) -> char* { return const_cast<char*>("> "); });
    el_set(editor_, EL_EDITOR, "emacs");
    el_set(editor_, EL_SIGNAL, 1);
    el_set(editor_, EL_HIST, history, history_);
    el_source(editor_, nullptr);
  }
  ~LineReader() {
    if (editor_ == nullptr) return;
    HistEvent event;
    if (!history_file_.empty()) history(history_, &event, H_SAVE, history_file_.c_str());
    history_end(history_);
    el_end(editor_);
  }
  LineReader(const LineReader&) = delete;
  LineReader& operator=(const LineReader&) = delete;

  // Without its line break; nothing at the end of input.
  std::optional<std::string> read() {
    std::string line;
    if (editor_ == nullptr) {
      if (!std::getline(std::cin, line)) return std::nullopt;
      return line;
    }
    int length = 0;
    const char* text = el_gets(editor_, &length);
    if (text == nullptr || length <= 0) return std::nullopt;
    line.assign(text, static_cast<size_t>(length));
    HistEvent event;
    if (line != "\n") history(history_, &event, H_ENTER, line.c_str());
    if (line.ends_with('\n')) line.pop_back();
    return line;
  }

 private:
  EditLine* editor_ = nullptr;
  History* history_ = nullptr;
  std::string history_file_;
};

class ChatCommand final : public Command {
 public:
  const char* name() const override { return "chat"; }
  const char* description() const override {
    return "Talk to an assistant, sampled as its generation_config.json says";
  }

  void add_options(CLI::App& app) override {
    flags_.add(app);
    app.add_option("--system", system_, "System prompt");
  }

  int run(const GlobalOptions& global) override {
    check_sampling(flags_.text.sampling);
    flags_.text.may_withhold = true;
    Backend& backend = open_backend(global);
    Assistant assistant(backend, model_argument(flags_.model), flags_.engine(backend),
                        flags_.weight_form(backend));
    flags_.take_defaults(assistant.sampling_defaults());
    require(assistant.has_chat_template(), Code::kFailedPrecondition,
            "'{}' has no chat template, so it cannot chat; 'vertebra generate' continues plain text",
            flags_.model);
    if (assistant.gate_passed() == std::optional<bool>(false)) {
      log_message(LogLevel::kWarning,
                  "this model has NOT passed its gate: its manifest.json lists the scores that are too low");
    }
    if (!flags_.prompts.empty()) return answer_prompts(global, assistant);
    return talk(assistant);
  }

 private:
  Conversation fresh() const {
    Conversation out;
    if (!system_.empty()) out.messages.push_back({"system", system_});
    return out;
  }

  // Every prompt is a conversation of its own.
  int answer_prompts(const GlobalOptions& global, Assistant& assistant) {
    for (const std::string& prompt : flags_.prompts) {
      Conversation conversation = fresh();
      conversation.messages.push_back({"user", prompt});
      const TextResult result = answer(assistant, conversation, !global.json);
      if (interrupt_requested()) throw Interrupted("stopped");
      if (global.json) print_json(result_to_json(prompt, result));
    }
    return kDone;
  }

  TextResult answer(Assistant& assistant, const Conversation& conversation, bool stream) {
    const TextResult result =
        assistant.generate(assistant.chat_prompt(conversation), flags_.text, [&](const std::string& piece) {
          if (stream) {
            std::fwrite(piece.data(), 1, piece.size(), stdout);
            std::fflush(stdout);
          }
          return true;
        });
    if (stream) std::puts("");
    return result;
  }

  int talk(Assistant& assistant) {
    if (isatty(STDIN_FILENO))
      fmt::print("{}: type a question; /help lists commands, Ctrl-D ends.\n", assistant.name());
    LineReader reader;
    Conversation conversation = fresh();
    while (const auto line = reader.read()) {
      if (line->find_first_not_of(" \t") == std::string::npos) continue;
      const size_t messages = conversation.messages.size();
      try {
        if (line->starts_with('/')) {
          if (!obey(*line, conversation)) return kDone;
          continue;
        }
        conversation.messages.push_back({"user", *line});
        const TextResult result = answer(assistant, conversation, true);
        conversation.messages.push_back({"assistant", result.text});
      } catch (const Error& error) {  // one line failed; the conversation goes on as it was before
        conversation.messages.resize(messages);
        log_message(LogLevel::kError, error.what());
      }
      set_interrupt_requested(false);  // Ctrl-C ended the answer, not the chat
    }
    return kDone;
  }

  // A line that starts with '/'. False ends the chat.
  bool obey(const std::string& line, Conversation& conversation) {
    const size_t space = line.find(' ');
    const std::string word = line.substr(0, space),
                      rest = space == std::string::npos ? "" : line.substr(space + 1);
    if (word == "/quit" || word == "/exit") return false;
    if (word == "/help") {
      fmt::print(
          "/reset           forget the conversation\n/system TEXT     set the system prompt and start anew\n"
          "/save FILE       write the conversation as JSON\n/quit            end\n");
    } else if (word == "/reset") {
      conversation = fresh();
      fmt::print("(new conversation)\n");
    } else if (word == "/system") {
      system_ = rest;
      conversation = fresh();
      fmt::print("(new conversation{})\n", rest.empty() ? " without system prompt" : "");
    } else if (word == "/save") {
      save(rest, conversation);
    } else {
      fmt::print("{} is not known; /help lists commands\n", word);
    }
    return true;
  }

  static void save(const std::string& file, const Conversation& conversation) {
    if (file.empty()) return fmt::print("/save needs a file name\n");
    Json messages = Json::array();
    for (const Message& message : conversation.messages) {
      messages.push_back({{"role", message.role}, {"content", message.content}});
    }
    write_json_file(file, {{"messages", messages}});
    fmt::print("(saved to {})\n", file);
  }

  GenerationFlags flags_;
  std::string system_;
};

}  // namespace

std::unique_ptr<Command> make_chat_command() { return std::make_unique<ChatCommand>(); }

}  // namespace vertebra::cli
