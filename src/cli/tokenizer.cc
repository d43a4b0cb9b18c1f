// vertebra tokenizer train|encode|decode|render: a vocabulary from text, text to token ids, and back;
// conversations to text.
#include "text/tokenizer.h"

#include <fmt/format.h>

#include <chrono>
#include <cstdio>
#include <iostream>
#include <iterator>
#include <optional>

#include "base/error.h"
#include "base/file.h"
#include "base/interrupt.h"
#include "base/progress.h"
#include "base/thread_team.h"
#include "cli/command.h"
#include "cli/model_argument.h"
#include "data/document_reader.h"
#include "engine/assistant.h"
#include "text/bpe_trainer.h"
#include "text/chat_template.h"

namespace vertebra::cli {
namespace {

namespace fs = std::filesystem;

constexpr size_t kLinesAtOnce = 4096;  // encoded together, then printed in order

// A tokenizer.json or tokenizer.model, a folder that holds one, a GGUF file, or a run folder with a model.
Tokenizer load_tokenizer(const std::string& given) {
  const fs::path path = model_argument(given);
  const bool is_gguf = path.extension() == ".gguf";
  if (!is_gguf && (fs::is_regular_file(path) || fs::exists(path / "tokenizer.json") ||
                   fs::exists(path / "tokenizer.model")))
    return Tokenizer::load(path);
  return read_tokenizer(find_model(path));
}

std::string read_stdin() {
  return {std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>()};
}

void print_text(std::string_view text) {
  require(std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0,
          Code::kUnavailable, "standard output cannot be written");
}

// Calls work(line, source) for every line of a JSONL file that is not blank, many at once, and prints what
// it returns in the order of the lines.
void print_for_lines(const fs::path& path,
                     FunctionRef<std::string(const Json& line, std::string_view source)> work) {
  // A pipe cannot be mapped.
  std::optional<MappedFile> file;
  std::string piped;
  if (fs::is_regular_file(path)) {
    file.emplace(path);
  } else {
    piped = path == "-" ? read_stdin() : read_file(path);
  }
  const std::string_view text = file ? file->text() : std::string_view(piped);
  Progress progress("lines", 0, "lines");
  size_t number = 0, at = 0;
  while (at < text.size()) {
    std::vector<std::pair<size_t, std::string_view>> lines;
    for (; at < text.size() && lines.size() < kLinesAtOnce;) {
      const size_t end = std::min(text.find('\n', at), text.size());
      const std::string_view line = text.substr(at, end - at);
      at = end + 1;
      ++number;
      if (line.find_first_not_of(" \t\r") != std::string_view::npos) lines.emplace_back(number, line);
    }
    std::vector<std::string> out(lines.size());
    global_thread_team().parallel_for(static_cast<int64_t>(lines.size()), [&](int64_t i, int) {
      const auto& [line_number, line] = lines[static_cast<size_t>(i)];
      const std::string source = fmt::format("{}:{}", path.string(), line_number);
      out[static_cast<size_t>(i)] = work(parse_json(line, source), source) + "\n";
    });
    std::string joined;
    for (const std::string& each : out) joined += each;
    print_text(joined);
    if (interrupt_requested()) throw Interrupted("stopped while reading " + path.string());
    progress.update(number);
  }
}

struct TrainFlags {
  std::vector<std::string> paths;
  BpeTrainerOptions options;
  DocumentReaderOptions documents;
  std::string output, format = "auto";
  int64_t max_bytes = 0;

  void add(CLI::App& app) {
    app.add_option("path", paths, "Text or JSONL files, or folders of them, plain or compressed")->required();
    app.add_option("--vocabulary", options.vocab_size, "Tokens, special ones and the 256 bytes included")
        ->capture_default_str()
        ->check(CLI::Range(257, 1 << 20));
    app.add_option("--pattern", options.pattern,
                   "How text is cut into pieces: gpt2, cl100k, llama3, qwen2, qwen3, smollm, or a regular "
                   "expression")
        ->capture_default_str();
    app.add_option("--special", options.special_tokens, "A special token; may be given several times")
        ->allow_extra_args(false);
    app.add_option("--min-frequency", options.min_frequency, "Of a pair, to be merged")
        ->check(CLI::Range(int64_t{0}, int64_t{1} << 40));
    app.add_option("--format", format, "auto, text or jsonl")->capture_default_str();
    app.add_option("--field", documents.field, "Field of a JSON line")->capture_default_str();
    app.add_option("--separator", documents.separator, "A line that separates documents in a text file");
    app.add_option("--max-bytes", max_bytes, "Read no more text than this (0: all)")
        ->check(CLI::Range(int64_t{0}, int64_t{1} << 50));
    app.add_option("-o,--output", output, "Where tokenizer.json goes: a file, or an existing folder")
        ->required();
  }

  int run(const GlobalOptions& global) {
    documents.format = input_format_from_name(format);
    DocumentReader reader(std::vector<fs::path>(paths.begin(), paths.end()), documents);
    Document document;
    Progress progress("reading", 0, "documents");
    int64_t count = 0, bytes = 0;
    const auto start = std::chrono::steady_clock::now();
    const Tokenizer tokenizer = train_bpe(
        [&]() -> std::optional<std::string_view> {
          if ((max_bytes > 0 && bytes >= max_bytes) || !reader.next(document)) {
            progress.clear();
            return std::nullopt;
          }
          bytes += static_cast<int64_t>(document.text.size());
          progress.update(static_cast<uint64_t>(++count), format_bytes(static_cast<uint64_t>(bytes)));
          return document.text;
        },
        options);
    tokenizer.save(output);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (global.json) {
      print_json({{"tokenizer", output},
                  {"vocabulary", tokenizer.vocab_size()},
                  {"sha256", tokenizer.hash()},
                  {"documents", count},
                  {"bytes", bytes},
                  {"seconds", seconds}});
      return kDone;
    }
    fmt::print("{}: {} tokens from {} documents ({}) in {}\n", output, tokenizer.vocab_size(), count,
               format_bytes(static_cast<uint64_t>(bytes)), format_duration(seconds));
    if (tokenizer.vocab_size() < options.vocab_size)
      fmt::print("the text has no more pairs to merge: {} tokens were asked for\n", options.vocab_size);
    return kDone;
  }
};

struct EncodeFlags {
  std::string model, jsonl, field = "text";
  std::vector<std::string> texts;
  bool add_special = true, parse_special = true;

  void add(CLI::App& app) {
    app.add_option("model", model, "A model folder, a run folder, a tokenizer.json or a tokenizer.model")
        ->required();
    auto* text =
        app.add_option("-p,--prompt", texts, "A text; may be given several times")->allow_extra_args(false);
    app.add_option("--jsonl", jsonl,
                   "A file of JSON lines (-: standard input); without it and -p, standard input is one text")
        ->excludes(text);
    app.add_option("--field", field, "Field of a JSON line that holds the text")->capture_default_str();
    app.add_flag("!--no-added", add_special, "Without the tokens that the tokenizer puts around a text");
    app.add_flag("!--no-control", parse_special, "Spellings of control tokens are ordinary text");
  }

  int run(const GlobalOptions&) {
    const Tokenizer tokenizer = load_tokenizer(model);
    const auto line = [&](std::string_view text) {
      return json_line({{"ids", tokenizer.encode(text, add_special, parse_special)}});
    };
    if (!jsonl.empty()) {
      print_for_lines(jsonl, [&](const Json& value, std::string_view source) {
        return line(json_get<std::string>(value, field, source));
      });
      return kDone;
    }
    if (texts.empty()) texts.push_back(read_stdin());
    for (const std::string& text : texts) print_text(line(text) + "\n");
    return kDone;
  }
};

struct DecodeFlags {
  std::string model, jsonl;
  std::vector<int32_t> ids;
  bool skip_special = false;

  void add(CLI::App& app) {
    app.add_option("model", model, "A model folder, a run folder, a tokenizer.json or a tokenizer.model")
        ->required();
    auto* list = app.add_option("--ids", ids, "Token ids: 1,2,3")->delimiter(',');
    app.add_option("--jsonl", jsonl, "A file of lines {\"ids\": [...]}, as encode prints them")
        ->excludes(list);
    app.add_flag("--skip-special", skip_special, "Leave out control tokens");
  }

  int run(const GlobalOptions& global) {
    require(!ids.empty() || !jsonl.empty(), "nothing to decode: give --ids 1,2,3 or --jsonl FILE");
    const Tokenizer tokenizer = load_tokenizer(model);
    if (!jsonl.empty()) {
      print_for_lines(jsonl, [&](const Json& value, std::string_view source) {
        const auto list = json_get<std::vector<int32_t>>(value, "ids", source);
        return json_line({{"text", tokenizer.decode(list, skip_special)}});
      });
      return kDone;
    }
    const std::string text = tokenizer.decode(ids, skip_special);
    if (global.json) {
      print_json({{"text", text}});
    } else {
      print_text(text + "\n");
    }
    return kDone;
  }
};

// A chat template and what it is given beside the conversation.
struct LoadedTemplate {
  ChatTemplate chat_template;
  ChatTemplateOptions options;
};

// Of a model folder, a GGUF file, a run folder with a model, or from a file of its own.
LoadedTemplate load_template(const fs::path& path) {
  if (path.extension() == ".jinja") return {ChatTemplate::parse(read_file(path), path.string()), {}};
  ModelText text = read_model_text(find_model(path));
  require(text.chat_template.has_value(), Code::kFailedPrecondition, "'{}' has no chat template",
          path.string());
  LoadedTemplate out{ChatTemplate::parse(std::move(*text.chat_template), std::move(text.chat_template_name)),
                     {}};
  out.options.bos_token = std::move(text.bos_token);
  out.options.eos_token = std::move(text.eos_token);
  out.options.extra = std::move(text.other_tokens);
  return out;
}

struct RenderFlags {
  std::string model, jsonl = "-";
  std::optional<int64_t> now_unix_s;
  bool keep_going = false;

  void add(CLI::App& app) {
    app.add_option("model", model, "A model folder, a run folder, a GGUF file, or a template (*.jinja)")
        ->required();
    app.add_option("--jsonl", jsonl,
                   "Lines {\"messages\": [...], \"tools\", \"documents\", \"add_generation_prompt\", "
                   "\"continue_final_message\", any variable of the template}; -: standard input")
        ->capture_default_str();
    app.add_option("--now", now_unix_s, "The time that a template sees, in seconds since 1970, UTC");
    app.add_flag("--keep-going", keep_going,
                 "A line that the template refuses gives {\"error\": ...} and does not end the command");
  }

  int run(const GlobalOptions&) {
    LoadedTemplate loaded = load_template(model);
    loaded.options.now_unix_s = now_unix_s;
    print_for_lines(jsonl, [&](const Json& line, std::string_view source) {
      try {
        return json_line(render(loaded, line, source));
      } catch (const Error& error) {
        if (!keep_going) throw;
        return json_line({{"error", error.what()}});
      }
    });
    return kDone;
  }

  static Json render(const LoadedTemplate& loaded, const Json& line, std::string_view source) {
    const Json messages = json_get<Json>(line, "messages", source);
    const ChatTemplateOptions options = read_template_options(line, loaded.options, source);
    const RenderedChat chat = loaded.chat_template.render_messages(messages, options);
    Json out = {{"text", chat.text}};
    if (!loaded.chat_template.marks_assistant()) return out;
    Json& spans = out["assistant_spans"] = Json::array();  // bytes [begin, end) of the text
    for (const Span& span : chat.assistant_spans) spans.push_back({span.begin, span.end});
    return out;
  }
};

class TokenizerCommand final : public Command {
 public:
  const char* name() const override { return "tokenizer"; }
  const char* description() const override {
    return "Train a tokenizer; turn text into token ids and back, conversations into text";
  }

  void add_options(CLI::App& app) override {
    app.require_subcommand(1);
    train_app_ = app.add_subcommand("train", "Learn a byte-level BPE vocabulary from text");
    encode_app_ = app.add_subcommand("encode", "Text to token ids, one line {\"ids\": [...]} a text");
    decode_app_ = app.add_subcommand("decode", "Token ids to text");
    render_app_ = app.add_subcommand(
        "render", "Conversations to what the model reads, by its chat template: a line {\"text\": ...} each");
    for (CLI::App* each : {train_app_, encode_app_, decode_app_, render_app_}) each->fallthrough();
    train_.add(*train_app_);
    encode_.add(*encode_app_);
    decode_.add(*decode_app_);
    render_.add(*render_app_);
  }

  int run(const GlobalOptions& global) override {
    if (train_app_->parsed()) return train_.run(global);
    if (encode_app_->parsed()) return encode_.run(global);
    if (render_app_->parsed()) return render_.run(global);
    return decode_.run(global);
  }

 private:
  CLI::App *train_app_ = nullptr, *encode_app_ = nullptr, *decode_app_ = nullptr, *render_app_ = nullptr;
  TrainFlags train_;
  EncodeFlags encode_;
  DecodeFlags decode_;
  RenderFlags render_;
};

}  // namespace

std::unique_ptr<Command> make_tokenizer_command() { return std::make_unique<TokenizerCommand>(); }

}  // namespace vertebra::cli
