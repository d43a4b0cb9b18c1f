// A server with a tiny model of random weights in this process, and plain sockets to speak to it.
#pragma once

#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <thread>

#include "backend/cpu/cpu_backend.h"
#include "base/file.h"
#include "models/model_folder.h"
#include "server/server.h"
#include "text/bpe_trainer.h"
#include "text/chat_template.h"

namespace vertebra::server {

// A connection to a port of this machine.
class Socket {
 public:
  explicit Socket(uint16_t port) : handle_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const timeval limit = {20, 0};
    setsockopt(handle_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    connected_ = connect(handle_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
  }
  ~Socket() { close(handle_); }
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;

  bool connected() const { return connected_; }
  void send(const std::string& text) const {
    for (size_t at = 0; at < text.size();) {
      const ssize_t n = ::send(handle_, text.data() + at, text.size() - at, MSG_NOSIGNAL);
      if (n <= 0) return;
      at += static_cast<size_t>(n);
    }
  }
  // Until `end` has come, or the other side closes.
  std::string receive(const std::string& end = "") const {
    std::string out;
    char buffer[4096];
    while (end.empty() || out.find(end) == std::string::npos) {
      const ssize_t n = recv(handle_, buffer, sizeof buffer, 0);
      if (n <= 0) break;
      out.append(buffer, static_cast<size_t>(n));
    }
    return out;
  }

 private:
  int handle_;
  bool connected_ = false;
};

// Sends bytes as they are and reads until the server closes.
inline std::string talk(uint16_t port, const std::string& bytes) {
  const Socket socket(port);
  socket.send(bytes);
  return socket.receive();
}

struct Answer {
  int status = 0;
  std::string head, body;
  Json json() const { return parse_json(body, "the answer"); }
};

inline Answer parse_answer(const std::string& text) {
  Answer out;
  const size_t end = text.find("\r\n\r\n");
  if (end == std::string::npos || text.size() < 12) return out;
  out.status = std::stoi(text.substr(9, 3));
  out.head = text.substr(0, end);
  out.body = text.substr(end + 4);
  if (out.head.find("chunked") == std::string::npos) return out;
  std::string joined;
  for (size_t at = 0; at < out.body.size();) {
    const size_t size = std::stoul(out.body.substr(at), nullptr, 16), start = out.body.find("\r\n", at) + 2;
    joined += out.body.substr(start, size);
    at = start + size + 2;
  }
  out.body = joined;
  return out;
}

inline Answer request(uint16_t port, const std::string& method, const std::string& target,
                      const std::string& body = "", const std::string& headers = "") {
  return parse_answer(talk(port, fmt::format("{} {} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{}"
                                             "Content-Length: {}\r\n\r\n{}",
                                             method, target, headers, body.size(), body)));
}

// A tiny Llama under the name "tiny".
inline std::filesystem::path make_tiny_folder(const std::filesystem::path& root) {
  const std::filesystem::path path = root / "tiny";
  BpeTrainerOptions options;
  options.vocab_size = 300;
  options.special_tokens = {"<|im_start|>", "<|im_end|>"};
  const Tokenizer tokenizer = train_bpe_documents({"one two one two three user assistant system"}, options);
  const auto model = make_model(
      default_config("llama", {{"depth", 2}, {"embedding", 64}}, tokenizer.vocab_size(), 256), "test");
  std::vector<NamedTensor> parameters;
  for (const ParameterSpec& spec : model->parameters())
    parameters.push_back({spec.name, initial_value(spec, 1)});
  write_model_folder(path, *model, parameters, -1);
  tokenizer.save(path);
  write_file_atomic(path / "chat_template.jinja", kChatMlTemplate);
  return path;
}

class RunningServer {
 public:
  explicit RunningServer(HttpOptions options = {}) {
    folder_ = std::filesystem::temp_directory_path() / fmt::format("vertebra-server-{}", getpid());
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_ / "tiny");
    EngineOptions engine;
    engine.max_requests = 4;
    auto assistant = std::make_unique<Assistant>(*backend_, make_tiny_folder(folder_), engine);
    std::vector<std::unique_ptr<ModelService>> models;
    models.push_back(std::make_unique<ModelService>(std::move(assistant), "tiny", 1'700'000'000));
    server_ = std::make_unique<Server>(std::move(models), std::move(options));
    thread_ = std::thread([this] { server_->run(); });
  }
  ~RunningServer() {
    server_->stop(std::chrono::seconds(5));
    thread_.join();
    server_.reset();
    std::filesystem::remove_all(folder_);
  }
  uint16_t port() const { return server_->port(); }

 private:
  std::filesystem::path folder_;
  std::unique_ptr<Backend> backend_ = make_cpu_backend();
  std::unique_ptr<Server> server_;
  std::thread thread_;
};

}  // namespace vertebra::server
