#include "server/chat.h"

#include <random>

namespace vertebra::server {

std::string random_id(std::string_view prefix) {
  static constexpr std::string_view kLetters =
      "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
  thread_local std::random_device device;
  std::uniform_int_distribution<size_t> letter(0, kLetters.size() - 1);
  std::string out(prefix);
  for (int i = 0; i < 24; ++i) out += kLetters[letter(device)];
  return out;
}

std::string sse_event(std::string_view name, const Json& data) {
  const std::string event = name.empty() ? std::string() : fmt::format("event: {}\n", name);
  return fmt::format("{}data: {}\n\n", event, json_line(data));
}

}  // namespace vertebra::server
