// HTTP/1.1 for the server: what a request is, how it is answered, at once or as a stream, and the listener.
// The protocols above it know nothing of sockets; this file's users include no networking library.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace vertebra::server {

struct HttpRequest {
  std::string method;
  std::string path;                                        // as sent, without the query
  std::vector<std::string> segments;                       // of the path: split at '/', then percent-decoded
  std::vector<std::pair<std::string, std::string>> query;  // decoded, in order
  std::map<std::string, std::string, std::less<>>
      headers;  // names in lower case; repeated ones joined by ", "
  std::string body;
  std::string peer;  // address of the client

  // Empty when absent.
  std::string_view header(std::string_view lower_case_name) const;
};

using HttpHeaders = std::vector<std::pair<std::string, std::string>>;

struct HttpResponse {
  int status = 200;
  std::string content_type = "application/json";
  std::string body;
  HttpHeaders headers;
};

// The answer to one request, from any thread: send once, or start_stream, write..., finish. What comes after
// the client left is dropped.
class HttpReply {
 public:
  virtual ~HttpReply() = default;
  virtual void send(HttpResponse response) = 0;
  virtual void start_stream(HttpResponse head) = 0;  // head.body is written first
  virtual void write(std::string text) = 0;
  virtual void finish() = 0;
  // Called once, from the listener's thread, when the client leaves before the answer is complete; at once
  // when it has already left.
  virtual void on_gone(std::function<void()> callback) = 0;
};

using HttpHandler = std::function<void(HttpRequest request, std::shared_ptr<HttpReply> reply)>;

struct HttpOptions {
  std::string host = "127.0.0.1";
  uint16_t port = 0;  // 0: any free one
  size_t max_header_bytes = 32 << 10;
  size_t max_body_bytes = 32 << 20;
  size_t max_connections = 4096;
  size_t max_unsent_bytes = 4 << 20;                 // of one stream, before its client counts as gone
  std::chrono::milliseconds header_timeout{10'000};  // for all of a request's headers
  std::chrono::milliseconds body_timeout{20'000};    // between two pieces of a body
  std::chrono::milliseconds idle_timeout{75'000};    // between two requests
  std::chrono::milliseconds write_timeout{30'000};   // for a piece of the answer
  // Hosts that a request may name (without port); empty: any. Guards a server on the loopback address against
  // pages whose name was pointed at it.
  std::vector<std::string> allowed_hosts;
};

class HttpServer {
 public:
  // Listens at once. Throws unavailable when the address is taken, invalid_argument when it is none.
  HttpServer(HttpOptions options, HttpHandler handler);
  ~HttpServer();
  uint16_t port() const;
  // Serves until stop(), in the calling thread; handlers run in another.
  void run();
  // From any thread: takes no more connections, lets answers end until `patience` is over, then run()
  // returns.
  void stop(std::chrono::milliseconds patience);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

// "a%20b" to "a b"; throws invalid_argument for a broken escape.
std::string percent_decode(std::string_view text, bool plus_is_space = false);
// Takes a request's target apart. Throws invalid_argument.
void parse_target(std::string_view target, HttpRequest& request);
// Whether a Host header ("[::1]:8080") or an Origin ("http://localhost:8080") names one of the hosts.
bool names_host(std::string_view host_and_port, const std::vector<std::string>& allowed);

}  // namespace vertebra::server
