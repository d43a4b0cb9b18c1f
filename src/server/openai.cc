#include "server/openai.h"

#include <ctime>

#include "server/fields.h"

namespace vertebra::server::openai {
namespace {

constexpr int64_t kMostTokens = int64_t{1} << 24;
constexpr int kMostChoices = 16;
constexpr size_t kMostStops = 4;

struct ErrorKind {
  int status;
  const char *type, *code;  // code: null for none
};

ErrorKind kind_of(Code code) {
  switch (code) {
    case Code::kOutOfRange:
      return {400, "invalid_request_error", "context_length_exceeded"};
    case Code::kInvalidArgument:
    case Code::kFailedPrecondition:
    case Code::kUnimplemented:
      return {400, "invalid_request_error", nullptr};
    case Code::kUnauthenticated:
      return {401, "invalid_request_error", "invalid_api_key"};
    case Code::kPermissionDenied:
      return {403, "invalid_request_error", nullptr};
    case Code::kNotFound:
      return {404, "invalid_request_error", "model_not_found"};
    case Code::kResourceExhausted:
      return {429, "rate_limit_error", "server_busy"};
    case Code::kUnavailable:
      return {503, "server_error", nullptr};
    default:
      return {500, "server_error", nullptr};
  }
}

Json error_json(const Error& error) {
  const ErrorKind kind = kind_of(error.code());
  return {{"error",
           {{"message", error.what()},
            {"type", kind.type},
            {"param", nullptr},
            {"code", kind.code == nullptr ? Json() : Json(kind.code)}}}};
}

std::string read_content(const Json& content, const std::string& path) {
  if (content.is_string()) return content.get<std::string>();
  require(content.is_array(), "{}: a string or a list of parts is wanted, {} was sent", path,
          Fields::kind(content));
  std::string out;
  for (size_t i = 0; i < content.size(); ++i) {
    Fields part(content[i], fmt::format("{}.{}", path, i));
    const std::string& type = part.wanted_text("type");
    require(type == "text" || type == "refusal",
            "{}.{}: parts of type '{}' are not served; the model reads text", path, i, type);
    out += part.wanted_text(type);
    part.ignore({"prompt_cache_breakpoint"});
    part.finish();
  }
  return out;
}

void read_messages(Fields& fields, ChatRequest& chat) {
  const Json& list = fields.list("messages");
  require(list.is_array() && !list.empty(), "messages: at least one message is required");
  for (size_t i = 0; i < list.size(); ++i) {
    const std::string path = fmt::format("messages.{}", i);
    Fields message(list[i], path);
    std::string role = message.wanted_text("role");
    if (role == "developer") role = "system";
    require(role == "system" || role == "user" || role == "assistant",
            "{}.role: '{}' was sent; 'system', 'developer', 'user' and 'assistant' are served", path, role);
    if (role == "assistant") {
      message.ignore({"refusal", "annotations"});
      for (const char* key : {"tool_calls", "function_call", "audio"})
        require(!message.has(key) || message.raw(key).empty(), "{}.{}: this server does not serve it", path,
                key);
    }
    message.ignore({"name"});
    const Json& content = message.raw("content");
    require(!content.is_null(), "{}.content: text is wanted", path);
    chat.conversation.messages.push_back({role, read_content(content, path + ".content")});
    message.finish();
  }
}

void read_sampling(Fields& fields, ChatCompletionRequest& out) {
  TextOptions& options = out.chat.options;
  out.chat.temperature = fields.number("temperature", 0, 2);
  out.chat.top_p = fields.number("top_p", 0, 1);
  options.sampling.seed = static_cast<uint64_t>(fields.integer("seed", INT64_MIN, INT64_MAX).value_or(0));
  const auto newer = fields.integer("max_completion_tokens", 1, kMostTokens);
  const auto older = fields.integer("max_tokens", 1, kMostTokens);
  options.max_tokens = newer.has_value() ? *newer : older.value_or(0);
  out.chat.choices = static_cast<int>(fields.integer("n", 1, kMostChoices).value_or(1));
  const Json& stop = fields.raw("stop");
  const Json stops = stop.is_string() ? Json::array({stop}) : stop;
  require(stops.is_null() || stops.is_array(), "stop: a string or a list of strings is wanted");
  require(stops.size() <= kMostStops, "stop: {} strings were sent, at most {} are taken", stops.size(),
          kMostStops);
  for (const Json& each : stops) {
    require(each.is_string() && !each.get_ref<const std::string&>().empty(),
            "stop: strings that are not empty are wanted");
    options.stop.push_back(each.get<std::string>());
  }
  out.log_probabilities = fields.flag("logprobs", false);
  const auto top = fields.integer("top_logprobs", 0, 20);
  require(!top.has_value() || out.log_probabilities, "top_logprobs: needs logprobs to be true");
  options.top_log_probabilities = static_cast<int>(top.value_or(0));
}

// Fields whose function is not there: refused, unless they ask for nothing.
void refuse_what_is_missing(Fields& fields) {
  for (const char* key :
       {"tools", "functions", "logit_bias", "prediction", "moderation", "web_search_options"})
    require(!fields.has(key) || fields.raw(key).empty(), "{}: this server does not serve it", key);
  for (const char* key : {"frequency_penalty", "presence_penalty"})
    require(fields.number(key, -2, 2).value_or(0) == 0, "{}: only 0 is served", key);
  fields.ignore({"tool_choice", "parallel_tool_calls"});  // without tools they say nothing
  require(!fields.flag("store", false), "store: this server keeps no completions");
  const Json& modalities = fields.raw("modalities");
  require(modalities.is_null() || modalities == Json::array({"text"}),
          "modalities: only [\"text\"] is served");
  if (fields.has("response_format")) {
    Fields format(fields.raw("response_format"), "response_format");
    const std::string& type = format.wanted_text("type");
    require(type == "text", "response_format: '{}' is not served, only 'text'", type);
    format.finish();
  }
}

class Writer final : public AnswerWriter {
 public:
  Writer(std::shared_ptr<HttpReply> reply, const ChatCompletionRequest& request, std::string request_id,
         const Tokenizer& tokenizer)
      : reply_(std::move(reply)),
        stream_(request.stream),
        include_usage_(request.include_usage),
        log_probabilities_(request.log_probabilities),
        tokenizer_(tokenizer),
        model_(request.chat.model),
        id_(random_id("chatcmpl-")),
        request_id_(std::move(request_id)),
        created_(static_cast<int64_t>(std::time(nullptr))),
        results_(static_cast<size_t>(request.chat.choices)) {}

  void begin(int64_t) override {
    if (!stream_) return;
    HttpResponse head;
    head.content_type = "text/event-stream; charset=utf-8";
    head.headers = {{"x-request-id", request_id_}, {"Cache-Control", "no-cache"}};
    for (int i = 0; i < static_cast<int>(results_.size()); ++i)
      head.body += chunk(i, {{"role", "assistant"}, {"content", ""}, {"refusal", nullptr}}, nullptr, nullptr);
    reply_->start_stream(std::move(head));
    started_ = true;
  }

  void text(int choice, const std::string& piece) override {
    if (stream_) reply_->write(chunk(choice, {{"content", piece}}, nullptr, nullptr));
  }

  void done(int choice, TextResult result) override {
    const Json reason = result.stop_reason == "max_tokens" ? "length" : "stop";
    prompt_tokens_ = result.prompt_tokens;
    if (choice == 0) cached_tokens_ = result.cached_tokens;  // the prompt counts once
    output_tokens_ += result.output_tokens;
    const Json log_probabilities = log_probabilities_json(result);
    if (stream_) {
      // The helpers join the lists of all chunks: all at once is as good as one at a time.
      reply_->write(chunk(choice, Json::object(), reason, log_probabilities));
    } else {
      results_[static_cast<size_t>(choice)] = {{"finish_reason", reason},
                                               {"index", choice},
                                               {"logprobs", log_probabilities},
                                               {"message",
                                                {{"content", result.text},
                                                 {"refusal", nullptr},
                                                 {"role", "assistant"},
                                                 {"annotations", Json::array()}}}};
    }
    if (++finished_ == results_.size()) finish();
  }

  void failed(const Error& error) override {
    if (failed_) return;
    failed_ = true;
    if (!started_) return reply_->send(error_response(error, request_id_));
    reply_->write(sse_event("", error_json(error)));
    reply_->finish();
  }

 private:
  void finish() {
    if (failed_) return;
    if (stream_) {
      if (include_usage_) {
        Json last = frame("chat.completion.chunk", Json::array());
        last["usage"] = usage_json();
        reply_->write(sse_event("", last));
      }
      reply_->write("data: [DONE]\n\n");
      return reply_->finish();
    }
    HttpResponse response;
    Json body = frame("chat.completion", Json(results_));
    body["usage"] = usage_json();
    response.body = json_line(body);
    response.headers = {{"x-request-id", request_id_}};
    reply_->send(std::move(response));
  }

  Json frame(const char* object, Json choices) const {
    return {{"id", id_},
            {"choices", std::move(choices)},
            {"created", created_},
            {"model", model_},
            {"object", object},
            {"service_tier", "default"},
            {"system_fingerprint", nullptr}};
  }

  std::string chunk(int choice, Json delta, Json reason, Json log_probabilities) const {
    Json out = frame("chat.completion.chunk", Json::array({{{"delta", std::move(delta)},
                                                            {"finish_reason", std::move(reason)},
                                                            {"index", choice},
                                                            {"logprobs", std::move(log_probabilities)}}}));
    if (include_usage_) out["usage"] = nullptr;
    return sse_event("", out);
  }

  Json usage_json() const {
    return {{"completion_tokens", output_tokens_},
            {"prompt_tokens", prompt_tokens_},
            {"total_tokens", prompt_tokens_ + output_tokens_},
            {"completion_tokens_details",
             {{"accepted_prediction_tokens", 0},
              {"audio_tokens", 0},
              {"reasoning_tokens", 0},
              {"rejected_prediction_tokens", 0}}},
            {"prompt_tokens_details", {{"audio_tokens", 0}, {"cached_tokens", cached_tokens_}}}};
  }

  Json token_json(int32_t id, double log_probability) const {
    const int32_t ids[] = {id};
    const std::string text = tokenizer_.decode(ids);
    Json bytes = Json::array();
    for (const char c : text) bytes.push_back(static_cast<uint8_t>(c));
    return {{"token", text}, {"bytes", bytes}, {"logprob", log_probability}};
  }

  Json log_probabilities_json(const TextResult& result) const {
    if (!log_probabilities_) return nullptr;
    Json content = Json::array();
    for (const GeneratedToken& token : result.tokens) {
      Json entry = token_json(token.id, token.log_probability);
      entry["top_logprobs"] = Json::array();
      for (const SampledToken& other : token.top)
        entry["top_logprobs"].push_back(token_json(other.id, other.log_probability));
      content.push_back(std::move(entry));
    }
    return {{"content", content}, {"refusal", nullptr}};
  }

  std::shared_ptr<HttpReply> reply_;
  bool stream_, include_usage_, log_probabilities_, started_ = false, failed_ = false;
  const Tokenizer& tokenizer_;
  std::string model_, id_, request_id_;
  int64_t created_, prompt_tokens_ = 0, cached_tokens_ = 0, output_tokens_ = 0;
  std::vector<Json> results_;
  size_t finished_ = 0;
};

}  // namespace

ChatCompletionRequest read_chat_completion(const Json& body) {
  Fields fields(body, "");
  ChatCompletionRequest out;
  out.chat.model = fields.wanted_text("model");
  read_messages(fields, out.chat);
  refuse_what_is_missing(fields);
  read_sampling(fields, out);
  out.stream = fields.flag("stream", false);
  if (fields.has("stream_options")) {
    require(out.stream, "stream_options: only with stream");
    Fields options(fields.raw("stream_options"), "stream_options");
    out.include_usage = options.flag("include_usage", false);
    options.ignore({"include_obfuscation"});
    options.finish();
  }
  fields.ignore({"metadata", "user", "safety_identifier", "prompt_cache_key", "prompt_cache_options",
                 "prompt_cache_retention", "service_tier"});
  fields.finish();
  return out;
}

std::unique_ptr<AnswerWriter> make_writer(std::shared_ptr<HttpReply> reply,
                                          const ChatCompletionRequest& request, std::string request_id,
                                          const Tokenizer& tokenizer) {
  return std::make_unique<Writer>(std::move(reply), request, std::move(request_id), tokenizer);
}

HttpResponse error_response(const Error& error, const std::string& request_id) {
  HttpResponse out;
  out.status = kind_of(error.code()).status;
  out.body = json_line(error_json(error));
  out.headers = {{"x-request-id", request_id}};
  if (out.status == 429 || out.status == 503) out.headers.emplace_back("retry-after", "1");
  return out;
}

Json model_json(const ModelInfo& info) {
  return {{"id", info.id}, {"created", info.created_unix_s}, {"object", "model"}, {"owned_by", "vertebra"}};
}

}  // namespace vertebra::server::openai
