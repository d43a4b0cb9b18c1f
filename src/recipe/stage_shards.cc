// The stage `shards`: the recipe's data as token shards, with a held-out share.
#include "data/produce_shards.h"
#include "recipe/chat.h"
#include "recipe/data_source.h"
#include "recipe/stage.h"
#include "text/chat_encoding.h"
#include "text/tokenizer.h"

namespace vertebra {
namespace {

class ShardsStage final : public Stage {
 public:
  std::string_view name() const override { return "shards"; }
  std::vector<std::string> needs(const RunContext&) const override {
    if (source_.from_facts()) return {"facts", "tokenizer"};
    return {"tokenizer"};
  }

  void configure(const RunContext& context, Settings& settings) override {
    source_ = DataSource::read(context);
    chat_ = ChatSettings::read(context);
    options_.validation_share = settings.number("validation_share", 0.01, 0, 0.9);
    options_.drop_duplicates = settings.flag("drop_duplicates", true);
    options_.shard_tokens =
        settings.integer("shard_tokens", options_.shard_tokens, 1 << 10, int64_t{1} << 32);
  }
  Json further_settings(const RunContext&) const override { return {{"data", source_.settings}}; }
  std::map<std::string, std::filesystem::path> files(const RunContext&) const override {
    auto out = chat_.files();
    if (!source_.from_facts()) out["data"] = source_.path;
    return out;
  }

  Json run(const RunContext& context, const std::filesystem::path& folder) override {
    const Tokenizer tokenizer = Tokenizer::load(context.stage_folder("tokenizer"));
    options_.folder = folder / "tokens";
    options_.vocab_size = tokenizer.vocab_size();
    options_.tokenizer_digest = tokenizer.hash();
    const ShardReport report =
        source_.conversations ? write_conversations(context, tokenizer) : write_documents(context, tokenizer);
    Json results = {{"documents_read", report.documents_read},
                    {"duplicates_dropped", report.duplicates_dropped}};
    for (const Split split : {Split::kTrain, Split::kValidation}) {
      const SplitCounts& counts = report.counts[static_cast<size_t>(split)];
      results[std::string(split_name(split))] = {{"documents", counts.documents},
                                                 {"tokens", counts.tokens},
                                                 {"loss_tokens", counts.loss_tokens},
                                                 {"text_bytes", counts.text_bytes}};
    }
    return results;
  }

 private:
  ShardReport write_documents(const RunContext& context, const Tokenizer& tokenizer) {
    DocumentReader reader(source_.location(context), source_.documents);
    if (const auto end = tokenizer.token_id(kEndOfText)) options_.end_of_text = *end;
    return write_pretraining_shards(
        reader, [&](std::string_view text) { return tokenizer.encode(text, false, false); }, options_,
        context.team);
  }

  ShardReport write_conversations(const RunContext& context, const Tokenizer& tokenizer) {
    ConversationReader reader(source_.location(context));
    const ChatEncoder encoder(tokenizer, chat_.load());
    require(encoder.chat_template().marks_assistant(),
            "the chat template marks no assistant text: it needs a generation block "
            "around each answer, so that the loss falls on answers alone");
    return write_conversation_shards(
        reader,
        [&](const Conversation& conversation) {
          EncodedChat chat = encoder.encode(conversation);
          return TokenizedConversation{std::move(chat.tokens), std::move(chat.loss)};
        },
        options_, context.team);
  }

  DataSource source_;
  ChatSettings chat_;
  ShardOptions options_;
};

}  // namespace

std::unique_ptr<Stage> make_shards_stage() { return std::make_unique<ShardsStage>(); }

}  // namespace vertebra
