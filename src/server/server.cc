#include "server/server.h"

#include <algorithm>

#include "base/log.h"
#include "server/anthropic.h"
#include "server/openai.h"

namespace vertebra::server {
namespace {

constexpr const char* kLoopback[] = {"127.0.0.1", "localhost", "[::1]", "::1"};

bool is_loopback(const std::string& host) {
  return std::find(std::begin(kLoopback), std::end(kLoopback), host) != std::end(kLoopback);
}

HttpResponse json_response(const Json& body) {
  HttpResponse out;
  out.body = json_line(body);
  return out;
}

// What the request's header says, or our own when it is absent: the protocols' files are named after their
// vendors.
bool speaks_anthropic(const HttpRequest& request) {
  return !request.header("anthropic-version").empty() || !request.header("x-api-key").empty() ||
         (request.segments.size() >= 2 && request.segments[1] == "messages");
}

}  // namespace

class Server::Router {
 public:
  explicit Router(std::vector<std::unique_ptr<ModelService>> models) : models_(std::move(models)) {}

  void handle(const HttpRequest& request, const std::shared_ptr<HttpReply>& reply) {
    const std::string request_id = random_id("req_");
    try {
      route(request, reply, request_id);
    } catch (const Error& error) {
      if (error.code() == Code::kInternal) log_message(LogLevel::kError, error.what());
      reply->send(speaks_anthropic(request) ? anthropic::error_response(error, request_id)
                                            : openai::error_response(error, request_id));
    }
  }

 private:
  void route(const HttpRequest& request, const std::shared_ptr<HttpReply>& reply,
             const std::string& request_id) {
    const auto& path = request.segments;
    const auto is = [&](std::initializer_list<std::string_view> wanted) {
      return std::equal(path.begin(), path.end(), wanted.begin(), wanted.end());
    };
    if (is({"healthz"}) || is({"readyz"})) {
      check_method(request, "GET");
      return reply->send(json_response({{"status", "ok"}}));
    }
    if (is({"v1", "messages"}) || is({"v1", "messages", "count_tokens"})) {
      check_method(request, "POST");
      anthropic::check_version(request.header("anthropic-version"));
      return path.size() == 3 ? count_tokens(request, reply, request_id)
                              : messages(request, reply, request_id);
    }
    if (is({"v1", "chat", "completions"})) {
      check_method(request, "POST");
      return chat_completion(request, reply, request_id);
    }
    if (path.size() >= 2 && path.size() <= 3 && path[0] == "v1" && path[1] == "models") {
      check_method(request, "GET");
      return send_models(request, reply, request_id);
    }
    fail(Code::kNotFound, "there is nothing at {}", request.path);
  }

  static void check_method(const HttpRequest& request, std::string_view method) {
    require(request.method == method || (method == "GET" && request.method == "HEAD"), Code::kInvalidArgument,
            "{} is asked with {}, not {}", request.path, method, request.method);
  }

  ModelService& model(const std::string& id) const {
    const auto it =
        std::find_if(models_.begin(), models_.end(), [&](const auto& each) { return each->info().id == id; });
    if (it != models_.end()) return **it;
    std::string known;
    for (const auto& each : models_) known += (known.empty() ? "" : ", ") + each->info().id;
    fail(Code::kNotFound, "model: there is no '{}' here; served: {}", id, known);
  }

  static Json read_body(const HttpRequest& request) { return parse_json(request.body, "the request"); }

  // The prompt of a chat, and what its answer may set, completed by what the model wants.
  static std::vector<int32_t> prompt_of(const ModelService& service, ChatRequest& chat) {
    const Assistant& assistant = service.assistant();
    const SamplingDefaults& defaults = assistant.sampling_defaults();
    SamplingOptions& sampling = chat.options.sampling;
    sampling.temperature = chat.temperature.value_or(defaults.temperature.value_or(1));
    sampling.top_p = chat.top_p.value_or(defaults.top_p.value_or(1));
    sampling.top_k = chat.top_k.value_or(defaults.top_k.value_or(0));
    sampling.min_p = defaults.min_p.value_or(0);
    sampling.repetition_penalty = defaults.repetition_penalty.value_or(1);
    chat.options.may_withhold = true;
    check_sampling(chat.options.sampling);
    std::vector<int32_t> prompt = assistant.chat_prompt(chat.conversation, chat.continues_last);
    const int64_t room = service.info().context_length - static_cast<int64_t>(prompt.size());
    require(room >= 1, Code::kOutOfRange, "prompt is too long: {} tokens > {} maximum", prompt.size(),
            service.info().context_length - 1);
    if (chat.options.max_tokens > room || chat.options.max_tokens == 0) chat.options.max_tokens = room;
    return prompt;
  }

  void messages(const HttpRequest& request, const std::shared_ptr<HttpReply>& reply,
                const std::string& request_id) {
    anthropic::MessagesRequest parsed =
        anthropic::read_messages(read_body(request), request.header("anthropic-version"), /*counts=*/false);
    ModelService& service = model(parsed.chat.model);
    std::vector<int32_t> prompt = prompt_of(service, parsed.chat);
    generate(service, std::move(prompt), parsed.chat, reply,
             anthropic::make_writer(reply, parsed, request_id, service.info().context_length), request.peer);
  }

  void count_tokens(const HttpRequest& request, const std::shared_ptr<HttpReply>& reply,
                    const std::string& request_id) {
    const anthropic::MessagesRequest parsed =
        anthropic::read_messages(read_body(request), request.header("anthropic-version"), /*counts=*/true);
    const ModelService& service = model(parsed.chat.model);
    const auto prompt = service.assistant().chat_prompt(parsed.chat.conversation, parsed.chat.continues_last);
    HttpResponse response = json_response({{"input_tokens", prompt.size()}});
    response.headers = {{"request-id", request_id}};
    reply->send(std::move(response));
  }

  void chat_completion(const HttpRequest& request, const std::shared_ptr<HttpReply>& reply,
                       const std::string& request_id) {
    openai::ChatCompletionRequest parsed = openai::read_chat_completion(read_body(request));
    ModelService& service = model(parsed.chat.model);
    std::vector<int32_t> prompt = prompt_of(service, parsed.chat);
    generate(service, std::move(prompt), parsed.chat, reply,
             openai::make_writer(reply, parsed, request_id, service.assistant().tokenizer()), request.peer);
  }

  void send_models(const HttpRequest& request, const std::shared_ptr<HttpReply>& reply,
                   const std::string& request_id) {
    const bool anthropic = speaks_anthropic(request);
    std::vector<ModelInfo> infos;
    for (const auto& each : models_) infos.push_back(each->info());
    Json body;
    if (request.segments.size() == 3) {
      const ModelInfo& info = model(request.segments[2]).info();
      body = anthropic ? anthropic::model_json(info) : openai::model_json(info);
    } else if (anthropic) {
      body = anthropic::model_list(infos, request);
    } else {
      body = {{"object", "list"}, {"data", Json::array()}};
      for (const ModelInfo& info : infos) body["data"].push_back(openai::model_json(info));
    }
    HttpResponse response = json_response(body);
    response.headers = {{anthropic ? "request-id" : "x-request-id", request_id}};
    reply->send(std::move(response));
  }

  // One generation a choice; all end when the client leaves.
  static void generate(ModelService& service, std::vector<int32_t> prompt, const ChatRequest& chat,
                       const std::shared_ptr<HttpReply>& reply, std::shared_ptr<AnswerWriter> writer,
                       const std::string& client) {
    writer->begin(static_cast<int64_t>(prompt.size()));
    std::vector<uint64_t> numbers;
    for (int choice = 0; choice < chat.choices; ++choice) {
      TextOptions options = chat.options;
      options.sampling.seed += static_cast<uint64_t>(choice);
      GenerationEvents events;
      events.on_text = [writer, choice](const std::string& piece) { writer->text(choice, piece); };
      events.on_done = [writer, choice](TextResult result) { writer->done(choice, std::move(result)); };
      events.on_error = [writer](const Error& error) { writer->failed(error); };
      numbers.push_back(service.generate(prompt, options, std::move(events), client));
    }
    reply->on_gone([&service, numbers] {
      for (const uint64_t number : numbers) service.cancel(number);
    });
  }

  std::vector<std::unique_ptr<ModelService>> models_;
};

Server::Server(std::vector<std::unique_ptr<ModelService>> models, HttpOptions options)
    : router_(std::make_unique<Router>(std::move(models))) {
  require(is_loopback(options.host), Code::kUnimplemented,
          "--host is '{}', which other machines reach; without keys this server answers its own machine only "
          "(127.0.0.1)",
          options.host);
  options.allowed_hosts.assign(std::begin(kLoopback), std::end(kLoopback));
  http_ = std::make_unique<HttpServer>(
      std::move(options), [this](const HttpRequest& request, const std::shared_ptr<HttpReply>& reply) {
        router_->handle(request, reply);
      });
}

Server::~Server() {
  router_.reset();  // joins the models' threads, whose callbacks hold replies of http_
}

}  // namespace vertebra::server
