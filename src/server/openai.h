// The OpenAI chat completions protocol: its requests as ChatRequest, our answers and errors in its words.
// Text only so far: tools, images, response formats and penalties are refused by name.
#pragma once

#include "server/chat.h"
#include "server/model_service.h"

namespace vertebra::server::openai {

struct ChatCompletionRequest {
  ChatRequest chat;
  bool stream = false, include_usage = false, log_probabilities = false;
};
// Of a POST to /v1/chat/completions. Throws invalid_argument naming the field.
ChatCompletionRequest read_chat_completion(const Json& body);

std::unique_ptr<AnswerWriter> make_writer(std::shared_ptr<HttpReply> reply,
                                          const ChatCompletionRequest& request, std::string request_id,
                                          const Tokenizer& tokenizer);

HttpResponse error_response(const Error& error, const std::string& request_id);
Json model_json(const ModelInfo& info);

}  // namespace vertebra::server::openai
