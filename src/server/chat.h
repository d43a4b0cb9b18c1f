// What both protocols become: a chat request, and the writer that turns its answer back into the protocol's
// words.
#pragma once

#include <memory>
#include <string>

#include "engine/assistant.h"
#include "server/http.h"
#include "text/conversation.h"

namespace vertebra::server {

struct ChatRequest {
  std::string model;
  Conversation conversation;
  bool continues_last = false;  // the last message is the assistant's, and the answer its continuation
  TextOptions options;
  // What is not given is as the model's own configuration has it, else as the protocols do.
  std::optional<double> temperature, top_p;
  std::optional<int64_t> top_k;
  int choices = 1;
};

// Gets every answer of a request, in order, each from one thread at a time.
class AnswerWriter {
 public:
  virtual ~AnswerWriter() = default;
  virtual void begin(int64_t prompt_tokens) = 0;
  virtual void text(int choice, const std::string& piece) = 0;
  virtual void done(int choice, TextResult result) = 0;
  virtual void failed(const Error& error) = 0;
};

// "msg_" and 24 random letters and digits.
std::string random_id(std::string_view prefix);
// One event of a stream: "event: NAME" (without, when empty) and the JSON on one line.
std::string sse_event(std::string_view name, const Json& data);

}  // namespace vertebra::server
