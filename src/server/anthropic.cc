#include "server/anthropic.h"

#include <fmt/chrono.h>

#include <algorithm>

#include "server/fields.h"

namespace vertebra::server::anthropic {
namespace {

constexpr std::string_view kFirstVersion = "2023-06-01", kSecondVersion = "2026-10-21";
constexpr int64_t kMostTokens = int64_t{1} << 24;

struct ErrorKind {
  int status;
  const char* type;
};

ErrorKind kind_of(Code code) {
  switch (code) {
    case Code::kInvalidArgument:
    case Code::kOutOfRange:
    case Code::kFailedPrecondition:
    case Code::kUnimplemented:
      return {400, "invalid_request_error"};
    case Code::kUnauthenticated:
      return {401, "authentication_error"};
    case Code::kPermissionDenied:
      return {403, "permission_error"};
    case Code::kNotFound:
      return {404, "not_found_error"};
    case Code::kAlreadyExists:
      return {409, "conflict_error"};
    case Code::kDeadlineExceeded:
      return {504, "timeout_error"};
    case Code::kResourceExhausted:
    case Code::kUnavailable:
      return {529, "overloaded_error"};
    default:
      return {500, "api_error"};
  }
}

Json error_json(const Error& error, const std::string& request_id) {
  return {{"type", "error"},
          {"error", {{"type", kind_of(error.code()).type}, {"message", error.what()}}},
          {"request_id", request_id}};
}

// Text that blocks of one message hold, in order. What this server cannot show a model is refused by its
// type.
void append_block(const Json& block, const std::string& path, bool assistant, std::string_view version,
                  std::string& out) {
  Fields fields(block, path);
  const std::string& type = fields.wanted_text("type");
  const auto append = [&](const std::string& text) {
    if (!out.empty() && !text.empty()) out += '\n';
    out += text;
  };
  fields.ignore({"cache_control"});
  if (type == "text") {
    append(fields.wanted_text("text"));
    const Json& citations = fields.list("citations");
    require(assistant || version == kFirstVersion || citations.is_null() || citations.empty(),
            "{}: citations of a user's text are not taken in version {}", path, version);
  } else if (type == "document") {
    require(!assistant || version == kFirstVersion, "{}: documents do not belong into an assistant's turn",
            path);
    Fields source(fields.raw("source"), path + ".source");
    const std::string& source_type = source.wanted_text("type");
    require(source_type == "text", "{}.source: the model reads text; '{}' is not taken", path, source_type);
    source.ignore({"media_type"});
    std::string document;
    if (const std::string* title = fields.text("title")) document += *title + "\n";
    if (const std::string* context = fields.text("context")) document += *context + "\n";
    append(document + source.wanted_text("data"));
    source.finish();
    Fields citations(fields.has("citations") ? fields.raw("citations") : Json::object(), path + ".citations");
    require(!citations.flag("enabled", false), "{}.citations: this server makes no citations", path);
  } else if (assistant && (type == "thinking" || type == "redacted_thinking")) {
    fields.ignore({"thinking", "signature", "data"});  // of an earlier turn: not part of the prompt
  } else {
    require(false, "{}: blocks of type '{}' are not served; the model reads text", path, type);
  }
  fields.finish();
}

std::string read_content(const Json& content, const std::string& path, bool assistant,
                         std::string_view version) {
  if (content.is_string()) return content.get<std::string>();
  require(content.is_array(), "{}: a string or a list of blocks is wanted, {} was sent", path,
          Fields::kind(content));
  std::string out;
  for (size_t i = 0; i < content.size(); ++i)
    append_block(content[i], fmt::format("{}.{}", path, i), assistant, version, out);
  return out;
}

void read_turns(Fields& fields, std::string_view version, ChatRequest& chat) {
  auto& messages = chat.conversation.messages;
  if (const Json& system = fields.raw("system"); !system.is_null())
    messages.push_back({"system", read_content(system, "system", false, version)});
  const Json& list = fields.list("messages");
  require(list.is_array() && !list.empty(), "messages: at least one message is required");
  for (size_t i = 0; i < list.size(); ++i) {
    const std::string path = fmt::format("messages.{}", i);
    Fields message(list[i], path);
    const std::string role = message.wanted_text("role");
    require(role == "user" || role == "assistant" || role == "system",
            "{}.role: '{}' was sent, 'user' or 'assistant' is wanted", path, role);
    const Json& content = message.raw("content");
    require(!content.is_null(), "{}.content: field required", path);
    std::string text = read_content(content, path + ".content", role == "assistant", version);
    message.finish();
    const bool last = i + 1 == list.size();
    require(!text.empty() || (last && role == "assistant"), "{}.content: text must not be empty", path);
    if (!messages.empty() && messages.back().role == role) {
      messages.back().content += "\n" + text;
    } else {
      messages.push_back({role, std::move(text)});
    }
  }
  chat.continues_last = messages.back().role == "assistant";
  if (!chat.continues_last) return;
  const std::string& prefill = messages.back().content;
  require(prefill.empty() || std::string_view(" \t\r\n").find(prefill.back()) == std::string_view::npos,
          "messages: the final assistant content cannot end with trailing whitespace");
  if (prefill.empty()) {
    messages.pop_back();
    chat.continues_last = false;
  }
}

void read_sampling(Fields& fields, std::string_view version, ChatRequest& chat) {
  for (const char* key : {"temperature", "top_p", "top_k"})
    require(version == kFirstVersion || !fields.has(key), "{}: not taken in version {}", key, version);
  chat.temperature = fields.number("temperature", 0, 1);
  chat.top_p = fields.number("top_p", 0, 1);
  chat.top_k = fields.integer("top_k", 0, kMostTokens);
  const Json& stops = fields.list("stop_sequences");
  for (size_t i = 0; i < stops.size(); ++i) {
    require(stops[i].is_string() && !stops[i].get_ref<const std::string&>().empty(),
            "stop_sequences.{}: a string that is not empty is wanted", i);
    chat.options.stop.push_back(stops[i].get<std::string>());
  }
}

// Fields whose function is not there: refused, unless they ask for nothing.
void refuse_what_is_missing(Fields& fields) {
  const Json& tools = fields.list("tools");
  require(tools.is_null() || tools.empty(), "tools: this server does not serve tools");
  fields.ignore({"tool_choice"});  // without tools it says nothing
  if (fields.has("thinking")) {
    Fields thinking(fields.raw("thinking"), "thinking");
    require(thinking.wanted_text("type") == "disabled",
            "thinking: this model does not think before it answers");
  }
  if (fields.has("output_config")) {
    Fields output(fields.raw("output_config"), "output_config");
    output.finish();
  }
}

Json usage_json(int64_t prompt_tokens, int64_t cached, int64_t output) {
  return {{"cache_creation", nullptr},
          {"cache_creation_input_tokens", 0},
          {"cache_read_input_tokens", cached},
          {"inference_geo", nullptr},
          {"input_tokens", prompt_tokens - cached},
          {"output_tokens", output},
          {"output_tokens_details", nullptr},
          {"server_tool_use", nullptr},
          {"service_tier", "standard"},
          {"speed", nullptr}};
}

class Writer final : public AnswerWriter {
 public:
  Writer(std::shared_ptr<HttpReply> reply, const MessagesRequest& request, std::string request_id,
         int64_t context_length)
      : reply_(std::move(reply)),
        stream_(request.stream),
        only_warms_(request.only_warms),
        model_(request.chat.model),
        id_(random_id("msg_")),
        request_id_(std::move(request_id)),
        context_length_(context_length) {}

  void begin(int64_t prompt_tokens) override {
    if (!stream_) return;
    HttpResponse head;
    head.content_type = "text/event-stream; charset=utf-8";
    head.headers = {{"request-id", request_id_}, {"Cache-Control", "no-cache"}};
    head.body = sse_event("message_start", {{"type", "message_start"},
                                            {"message", message_json(Json::array(), nullptr, nullptr,
                                                                     usage_json(prompt_tokens, 0, 0))}}) +
                sse_event("ping", {{"type", "ping"}});
    reply_->start_stream(std::move(head));
    started_ = true;
  }

  void text(int, const std::string& piece) override {
    if (!stream_ || only_warms_) return;
    open_block();
    event("content_block_delta", {{"index", 0}, {"delta", {{"type", "text_delta"}, {"text", piece}}}});
  }

  void done(int, TextResult result) override {
    const Json usage = usage_json(result.prompt_tokens, result.cached_tokens, result.output_tokens);
    const bool full =
        result.stop_reason == "max_tokens" && result.prompt_tokens + result.output_tokens >= context_length_;
    const Json reason = full ? "model_context_window_exceeded" : result.stop_reason;
    const Json sequence = result.stop_sequence.empty() ? Json() : Json(result.stop_sequence);
    if (!stream_) {
      Json content = Json::array();
      if (!only_warms_) content.push_back({{"citations", nullptr}, {"text", result.text}, {"type", "text"}});
      HttpResponse response;
      response.body = json_line(message_json(content, reason, sequence, usage));
      response.headers = {{"request-id", request_id_}};
      return reply_->send(std::move(response));
    }
    if (!only_warms_) {
      open_block();  // an answer without text has an empty block
      event("content_block_stop", {{"index", 0}});
    }
    event("message_delta", {{"delta",
                             {{"container", nullptr},
                              {"stop_details", nullptr},
                              {"stop_reason", reason},
                              {"stop_sequence", sequence}}},
                            {"usage",
                             {{"cache_creation_input_tokens", usage["cache_creation_input_tokens"]},
                              {"cache_read_input_tokens", usage["cache_read_input_tokens"]},
                              {"input_tokens", usage["input_tokens"]},
                              {"output_tokens", usage["output_tokens"]},
                              {"output_tokens_details", nullptr},
                              {"server_tool_use", nullptr}}}});
    event("message_stop", Json::object());
    reply_->finish();
  }

  void failed(const Error& error) override {
    if (!started_) return reply_->send(error_response(error, request_id_));
    reply_->write(sse_event("error", error_json(error, request_id_)));
    reply_->finish();
  }

 private:
  Json message_json(Json content, Json stop_reason, Json stop_sequence, Json usage) const {
    return {{"id", id_},
            {"container", nullptr},
            {"content", std::move(content)},
            {"diagnostics", nullptr},
            {"model", model_},
            {"role", "assistant"},
            {"stop_details", nullptr},
            {"stop_reason", std::move(stop_reason)},
            {"stop_sequence", std::move(stop_sequence)},
            {"type", "message"},
            {"usage", std::move(usage)}};
  }

  void event(const char* name, const Json& fields) {
    Json data = {{"type", name}};
    data.update(fields);
    reply_->write(sse_event(name, data));
  }

  void open_block() {
    if (block_open_) return;
    block_open_ = true;
    event("content_block_start",
          {{"index", 0}, {"content_block", {{"citations", nullptr}, {"text", ""}, {"type", "text"}}}});
  }

  std::shared_ptr<HttpReply> reply_;
  bool stream_, only_warms_, started_ = false, block_open_ = false;
  std::string model_, id_, request_id_;
  int64_t context_length_;
};

}  // namespace

void check_version(std::string_view version) {
  require(!version.empty(), "anthropic-version: header is required");
  require(version == kFirstVersion || version == kSecondVersion,
          "anthropic-version: \"{}\" is not a valid version; {} and {} are served", version, kFirstVersion,
          kSecondVersion);
}

MessagesRequest read_messages(const Json& body, std::string_view version, bool counts) {
  Fields fields(body, "");
  MessagesRequest out;
  out.chat.model = fields.wanted_text("model");
  read_turns(fields, version, out.chat);
  refuse_what_is_missing(fields);
  fields.ignore({"metadata", "cache_control", "service_tier", "speed", "diagnostics", "inference_geo",
                 "user_profile_id", "workspace_id"});
  if (!counts) {
    const auto max_tokens = fields.integer("max_tokens", 0, kMostTokens);
    require(max_tokens.has_value(), "max_tokens: field required");
    out.only_warms = *max_tokens == 0;
    out.chat.options.max_tokens = std::max<int64_t>(1, *max_tokens);
    out.stream = fields.flag("stream", false);
    read_sampling(fields, version, out.chat);
  }
  fields.finish();
  return out;
}

std::unique_ptr<AnswerWriter> make_writer(std::shared_ptr<HttpReply> reply, const MessagesRequest& request,
                                          std::string request_id, int64_t context_length) {
  return std::make_unique<Writer>(std::move(reply), request, std::move(request_id), context_length);
}

HttpResponse error_response(const Error& error, const std::string& request_id) {
  HttpResponse out;
  out.status = kind_of(error.code()).status;
  out.body = json_line(error_json(error, request_id));
  out.headers = {{"request-id", request_id}};
  if (out.status == 529) out.headers.emplace_back("retry-after", "1");
  return out;
}

Json model_json(const ModelInfo& info) {
  return {{"id", info.id},
          {"capabilities", nullptr},
          {"created_at",
           fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(static_cast<time_t>(info.created_unix_s)))},
          {"deprecated_at", nullptr},
          {"display_name", info.id},
          {"lifecycle", "active"},
          {"line", nullptr},
          {"max_input_tokens", info.context_length},
          {"max_tokens", info.context_length},
          {"retires_at", nullptr},
          {"type", "model"}};
}

Json model_list(const std::vector<ModelInfo>& models, const HttpRequest& request) {
  size_t limit = 20, first = 0, end = models.size();
  bool backwards = false;
  const auto position = [&](const std::string& id) {
    const auto it =
        std::find_if(models.begin(), models.end(), [&](const ModelInfo& each) { return each.id == id; });
    require(it != models.end(), Code::kNotFound, "there is no model '{}'", id);
    return static_cast<size_t>(it - models.begin());
  };
  for (const auto& [key, value] : request.query) {
    if (key == "limit") {
      const bool digits =
          !value.empty() && value.size() <= 4 && value.find_first_not_of("0123456789") == std::string::npos;
      require(digits && std::stoi(value) >= 1 && std::stoi(value) <= 1000,
              "limit: '{}' was sent, a number from 1 to 1000 is wanted", value);
      limit = static_cast<size_t>(std::stoi(value));
    } else if (key == "after_id") {
      first = position(value) + 1;
    } else if (key == "before_id") {
      end = position(value);
      backwards = true;
    }
  }
  first = std::min(first, end);
  const bool has_more = end - first > limit;
  if (has_more && backwards) {
    first = end - limit;
  } else if (has_more) {
    end = first + limit;
  }
  Json data = Json::array();
  for (size_t i = first; i < end; ++i) data.push_back(model_json(models[i]));
  return {{"data", data},
          {"has_more", has_more},
          {"first_id", data.empty() ? Json() : data.front()["id"]},
          {"last_id", data.empty() ? Json() : data.back()["id"]}};
}

}  // namespace vertebra::server::anthropic
