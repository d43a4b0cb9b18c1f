// The stage `tokenizer`: a byte-level BPE vocabulary learnt from the recipe's data.
#include "base/file.h"
#include "recipe/chat.h"
#include "recipe/data_source.h"
#include "recipe/model_settings.h"
#include "recipe/stage.h"
#include "text/bpe_trainer.h"

namespace vertebra {
namespace {

class TokenizerStage final : public Stage {
 public:
  std::string_view name() const override { return "tokenizer"; }

  void configure(const RunContext& context, Settings& settings) override {
    source_ = DataSource::read(context);
    options_.vocab_size = static_cast<int>(read_vocabulary(settings, ModelSettings::read(context)));
    options_.pattern = settings.text("pattern", "llama3");
    options_.min_frequency = settings.integer("min_frequency", 0, 0, 1 << 30);
    options_.special_tokens =
        settings.texts("special_tokens", std::vector<std::string>{kEndOfText, kStartOfTurn, kEndOfTurn});
    options_.threads = &context.team;
    max_bytes_ = settings.integer("max_bytes", int64_t{1} << 30, 1, int64_t{1} << 50);
    chat_ = ChatSettings::read(context);
  }
  Json further_settings(const RunContext&) const override { return {{"data", source_.settings}}; }

  std::vector<std::string> needs(const RunContext&) const override {
    return source_.from_facts() ? std::vector<std::string>{"facts"} : std::vector<std::string>{};
  }
  std::map<std::string, std::filesystem::path> files(const RunContext&) const override {
    auto out = chat_.files();
    if (!source_.from_facts()) out["data"] = source_.path;
    return out;
  }

  Json run(const RunContext& context, const std::filesystem::path& folder) override {
    const Tokenizer tokenizer =
        source_.conversations ? train_on_conversations(context) : train_on_documents(context);
    tokenizer.save(folder / "tokenizer.json");
    return {{"vocabulary", tokenizer.vocab_size()}, {"bytes", bytes_}};
  }

 private:
  Tokenizer train_on_documents(const RunContext& context) {
    DocumentReader reader(source_.location(context), source_.documents);
    Document document;
    return train_bpe(
        [&]() -> std::optional<std::string_view> {
          if (bytes_ >= max_bytes_ || !reader.next(document)) return std::nullopt;
          bytes_ += static_cast<int64_t>(document.text.size());
          return document.text;
        },
        options_);
  }

  // Learns from what the model will read: conversations as the chat template renders them.
  Tokenizer train_on_conversations(const RunContext& context) {
    ConversationReader reader(source_.location(context));
    const ChatTemplate chat_template = chat_.load();
    Conversation conversation;
    std::string where, text;
    return train_bpe(
        [&]() -> std::optional<std::string_view> {
          if (bytes_ >= max_bytes_ || !reader.next(conversation, where)) return std::nullopt;
          text = chat_template.render(conversation);
          for (const std::string& special : options_.special_tokens) erase_all(text, special);
          bytes_ += static_cast<int64_t>(text.size());
          return text;
        },
        options_);
  }

  // Control tokens are no text to learn from; a line break keeps what stood around them apart.
  static void erase_all(std::string& text, const std::string& part) {
    for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at))
      text.replace(at, part.size(), "\n");
  }

  DataSource source_;
  ChatSettings chat_;
  BpeTrainerOptions options_;
  int64_t max_bytes_ = 0, bytes_ = 0;
};

}  // namespace

std::unique_ptr<Stage> make_tokenizer_stage() { return std::make_unique<TokenizerStage>(); }

}  // namespace vertebra
