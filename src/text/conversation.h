// A conversation as data: messages with a role each. Read by data/conversation_reader, rendered by
// text/chat_template, served by the engine. Holds no rules of its own: who checks roles says so.
#pragma once

#include <string>
#include <vector>

namespace vertebra {

struct Message {
  std::string role;  // "system", "user" or "assistant"
  std::string content;
  bool operator==(const Message&) const = default;
};

struct Conversation {
  std::vector<Message> messages;
  bool operator==(const Conversation&) const = default;
};

}  // namespace vertebra
