// The Anthropic Messages protocol, versions 2023-06-01 and 2026-10-21: its requests as ChatRequest, our
// answers and errors in its words. Text only so far: tools, images, thinking, structured output and threads
// are refused by name.
#pragma once

#include "server/chat.h"
#include "server/model_service.h"

namespace vertebra::server::anthropic {

// Of a POST to /v1/messages, or to count_tokens when `counts`. Throws invalid_argument naming the field.
// `version` is the anthropic-version header's.
struct MessagesRequest {
  ChatRequest chat;
  bool stream = false;
  bool only_warms = false;  // max_tokens 0: the answer has no content
};
MessagesRequest read_messages(const Json& body, std::string_view version, bool counts);

std::unique_ptr<AnswerWriter> make_writer(std::shared_ptr<HttpReply> reply, const MessagesRequest& request,
                                          std::string request_id, int64_t context_length);

// Throws invalid_argument for a version that is none of the two, or absent.
void check_version(std::string_view version);
HttpResponse error_response(const Error& error, const std::string& request_id);
Json model_json(const ModelInfo& info);
Json model_list(const std::vector<ModelInfo>& models, const HttpRequest& request);

}  // namespace vertebra::server::anthropic
