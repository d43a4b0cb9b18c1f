// The listener, on Boost.Beast: one thread for all connections, a coroutine for each; requests are handled in
// a second thread, so that parsing a large body holds up no stream. The only file that includes Boost.
#include <sys/socket.h>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/bind_executor.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http.hpp>
#include <deque>
#include <set>

#include "base/error.h"
#include "base/log.h"
#include "server/http.h"
#include "server/http_status.h"

namespace vertebra::server {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using asio::ip::tcp;
using boost::system::error_code;
using Clock = std::chrono::steady_clock;

constexpr size_t kReadBytes = 16 << 10;

auto with(error_code& error) { return asio::redirect_error(asio::use_awaitable, error); }

// What the handler's threads hand to the connection's coroutine. Its members belong to the listener's thread.
class Reply final : public HttpReply, public std::enable_shared_from_this<Reply> {
 public:
  Reply(asio::io_context& io, size_t max_unsent) : io_(io), signal_(io), max_unsent_(max_unsent) {}

  void send(HttpResponse response) override {
    post([this, response = std::move(response)]() mutable {
      if (started) return;
      started = finished = true;
      head = std::move(response);
      signal_.cancel();
    });
  }
  void start_stream(HttpResponse response) override {
    post([this, response = std::move(response)]() mutable {
      if (started) return;
      started = streams = true;
      push(std::exchange(response.body, {}));
      head = std::move(response);
      signal_.cancel();
    });
  }
  void write(std::string text) override {
    post([this, text = std::move(text)]() mutable { push(std::move(text)); });
  }
  void finish() override {
    post([this] {
      finished = true;
      signal_.cancel();
    });
  }
  void on_gone(std::function<void()> callback) override {
    post([this, callback = std::move(callback)]() mutable {
      if (gone_) {
        callback();
      } else {
        callback_ = std::move(callback);
      }
    });
  }

  // The listener's side.
  bool gone() const { return gone_; }
  void leave() {
    if (gone_) return;
    gone_ = true;
    unsent.clear();
    signal_.cancel();
    if (callback_) std::exchange(callback_, nullptr)();
  }
  // Until something changes.
  asio::awaitable<void> changed() {
    signal_.expires_at(Clock::time_point::max());
    error_code ignored;
    co_await signal_.async_wait(with(ignored));
  }

  bool started = false, streams = false, finished = false;
  HttpResponse head;
  std::deque<std::string> unsent;

 private:
  template <class F>
  void post(F work) {
    asio::post(io_, [self = shared_from_this(), work = std::move(work)]() mutable { work(); });
  }
  void push(std::string text) {
    if (gone_ || text.empty()) return;
    unsent_bytes_ = 0;
    for (const std::string& each : unsent) unsent_bytes_ += each.size();
    unsent.push_back(std::move(text));
    if (unsent_bytes_ + unsent.back().size() > max_unsent_) return leave();  // reads too slowly
    signal_.cancel();
  }

  asio::io_context& io_;
  asio::steady_timer signal_;
  size_t max_unsent_, unsent_bytes_ = 0;
  bool gone_ = false;
  std::function<void()> callback_;
};

HttpResponse plain_error(int status, std::string message) {
  HttpResponse out;
  out.status = status;
  out.content_type = "text/plain; charset=utf-8";
  out.body = std::move(message) + "\n";
  return out;
}

}  // namespace

class HttpServer::Impl {
 public:
  Impl(HttpOptions options, HttpHandler handler)
      : options_(std::move(options)), handler_(std::move(handler)), acceptor_(io_), deadline_(io_) {
    error_code error;
    const auto address =
        asio::ip::make_address(options_.host == "localhost" ? "127.0.0.1" : options_.host, error);
    require(!error, "--host is '{}'; an IP address or localhost is wanted", options_.host);
    const tcp::endpoint endpoint(address, options_.port);
    acceptor_.open(endpoint.protocol());
    acceptor_.set_option(tcp::acceptor::reuse_address(true));
    acceptor_.bind(endpoint, error);
    require(!error, Code::kUnavailable, "cannot listen on {} port {}: {}; another port may be free (--port)",
            options_.host, options_.port, error.message());
    acceptor_.listen(tcp::acceptor::max_listen_connections, error);
    require(!error, Code::kUnavailable, "cannot listen on {} port {}: {}", options_.host, options_.port,
            error.message());
    asio::co_spawn(io_, accept(), asio::detached);
  }
  ~Impl() { workers_.join(); }

  uint16_t port() const { return acceptor_.local_endpoint().port(); }
  void run() {
    io_.run();
    workers_.join();  // no handler runs once this has returned
  }

  void stop(std::chrono::milliseconds patience) {
    asio::post(io_, [this, patience] {
      if (stopping_) return;
      stopping_ = true;
      error_code ignored;
      acceptor_.close(ignored);
      for (beast::tcp_stream* each : idle_) each->cancel();
      if (connections_ == 0) return io_.stop();
      deadline_.expires_after(patience);
      deadline_.async_wait([this](error_code error) {
        if (!error) io_.stop();
      });
    });
  }

 private:
  asio::awaitable<void> accept() {
    while (!stopping_) {
      error_code error;
      tcp::socket socket = co_await acceptor_.async_accept(with(error));
      if (stopping_) co_return;
      if (error) {  // too many open files, mostly: others may end
        asio::steady_timer pause(io_, std::chrono::milliseconds(100));
        co_await pause.async_wait(with(error));
        continue;
      }
      if (connections_ >= options_.max_connections) continue;  // closed by its destructor
      ++connections_;
      asio::co_spawn(io_, connection(std::move(socket)), [this](std::exception_ptr) {
        if (--connections_ == 0 && stopping_) io_.stop();
      });
    }
  }

  asio::awaitable<void> connection(tcp::socket socket) {
    error_code error;
    socket.set_option(tcp::no_delay(true), error);
    const tcp::endpoint remote = socket.remote_endpoint(error);
    const std::string peer = error ? "" : remote.address().to_string();
    beast::tcp_stream stream(std::move(socket));
    beast::flat_buffer buffer;
    while (!stopping_ && co_await request(stream, buffer, peer)) {
    }
    stream.socket().shutdown(tcp::socket::shutdown_both, error);
  }

  // One request and its answer; false when the connection is to be closed.
  asio::awaitable<bool> request(beast::tcp_stream& stream, beast::flat_buffer& buffer,
                                const std::string& peer) {
    error_code error;
    if (buffer.size() == 0 && !co_await first_bytes(stream, buffer)) co_return false;
    http::request_parser<http::string_body> parser;
    parser.header_limit(static_cast<uint32_t>(options_.max_header_bytes));
    parser.body_limit(options_.max_body_bytes);
    stream.expires_after(options_.header_timeout);
    co_await http::async_read_header(stream, buffer, parser, with(error));
    if (error) co_return co_await refuse(stream, refusal(error));
    if (auto wrong = wrong_headers(parser.get()); wrong.status != 200)
      co_return co_await refuse(stream, wrong);
    if (beast::iequals(parser.get()[http::field::expect], "100-continue") && !parser.is_done()) {
      stream.expires_after(options_.write_timeout);
      const std::string_view go_on = "HTTP/1.1 100 Continue\r\n\r\n";
      co_await asio::async_write(stream, asio::buffer(go_on.data(), go_on.size()), with(error));
      if (error) co_return false;
    }
    while (!parser.is_done()) {
      stream.expires_after(options_.body_timeout);
      co_await http::async_read_some(stream, buffer, parser, with(error));
      if (error) co_return co_await refuse(stream, refusal(error));
    }
    HttpRequest request;
    bool keep_alive = parser.get().keep_alive();
    const unsigned version = parser.get().version();
    HttpResponse wrong;
    try {
      request = convert(parser.get(), peer);
    } catch (const Error& bad) {
      wrong = plain_error(400, bad.what());
    }
    if (wrong.status != 200) co_return co_await refuse(stream, wrong);
    const bool head_only = request.method == "HEAD";
    const auto reply = std::make_shared<Reply>(io_, options_.max_unsent_bytes);
    asio::post(workers_, [this, request = std::move(request), reply]() mutable {
      try {
        handler_(std::move(request), reply);
      } catch (const std::exception& failure) {
        log_message(LogLevel::kError, failure.what());
        reply->send(plain_error(500, "internal error"));
      }
    });
    const bool complete = co_await answer(stream, buffer, reply, version, head_only, keep_alive);
    co_return complete&& keep_alive;
  }

  // Waits for a new request's first bytes.
  asio::awaitable<bool> first_bytes(beast::tcp_stream& stream, beast::flat_buffer& buffer) {
    error_code error;
    stream.expires_after(options_.idle_timeout);
    idle_.insert(&stream);
    const size_t n = co_await stream.async_read_some(buffer.prepare(kReadBytes), with(error));
    idle_.erase(&stream);
    buffer.commit(n);
    co_return !error && n > 0;
  }

  static HttpResponse refusal(const error_code& error) {
    if (error == http::error::body_limit)
      return plain_error(413, "the request's body is larger than this server takes");
    if (error == http::error::header_limit)
      return plain_error(431, "the request's headers are larger than this server takes");
    if (error.category() == http::make_error_code(http::error::bad_method).category() &&
        error != http::error::end_of_stream && error != http::error::partial_message)
      return plain_error(400, "the request is no HTTP: " + error.message());
    return plain_error(0, "");  // the client is gone
  }

  // Status 200 when nothing is wrong.
  template <class Message>
  HttpResponse wrong_headers(const Message& message) const {
    // Two lengths: what a proxy in front takes for one request could be read as two here.
    if (message.find(http::field::transfer_encoding) != message.end() &&
        (message.find(http::field::content_length) != message.end() || !message.chunked()))
      return plain_error(400, "Transfer-Encoding must be chunked, and not beside Content-Length");
    if (message.count(http::field::content_length) > 1)
      return plain_error(400, "several Content-Length headers");
    if (message.count(http::field::host) != 1 && message.version() >= 11)
      return plain_error(400, "one Host header is wanted");
    const auto text = [&](http::field field) {
      const auto value = message[field];
      return std::string_view(value.data(), value.size());
    };
    if (!options_.allowed_hosts.empty()) {
      if (!names_host(text(http::field::host), options_.allowed_hosts))
        return plain_error(403, "the Host header names a host that is not this server's");
      const std::string_view origin = text(http::field::origin);
      if (!origin.empty() && !names_host(origin, options_.allowed_hosts))
        return plain_error(403, "requests from pages of other hosts are refused");
    }
    return {};
  }

  template <class Message>
  static HttpRequest convert(Message& message, const std::string& peer) {
    HttpRequest out;
    const auto method = message.method_string(), target = message.target();
    out.method.assign(method.data(), method.size());
    parse_target({target.data(), target.size()}, out);
    for (const auto& field : message) {
      std::string name(field.name_string().data(), field.name_string().size());
      std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::tolower(c); });
      std::string& value = out.headers[name];
      if (!value.empty()) value += ", ";
      value.append(field.value().data(), field.value().size());
    }
    out.body = std::move(message.body());
    out.peer = peer;
    return out;
  }

  // An answer after which the connection is closed: what follows in it cannot be told apart.
  asio::awaitable<bool> refuse(beast::tcp_stream& stream, HttpResponse response) {
    if (response.status == 0) co_return false;
    error_code error;
    const std::string text = head_text(response, 11, false, false, response.body.size()) + response.body;
    stream.expires_after(options_.write_timeout);
    co_await asio::async_write(stream, asio::buffer(text), with(error));
    stream.socket().shutdown(tcp::socket::shutdown_send, error);
    // What the client still sends is read for a moment: closing at once would take the answer from it.
    std::string scrap(kReadBytes, '\0');
    stream.expires_after(std::chrono::seconds(1));
    for (size_t total = 0; !error && total < (1 << 20);)
      total += co_await stream.async_read_some(asio::buffer(scrap), with(error));
    co_return false;
  }

  static std::string head_text(const HttpResponse& response, unsigned version, bool keep_alive, bool chunked,
                               size_t length) {
    std::string out = fmt::format("HTTP/1.1 {} {}\r\n", response.status, status_text(response.status));
    if (!response.content_type.empty()) out += fmt::format("Content-Type: {}\r\n", response.content_type);
    for (const auto& [name, value] : response.headers) out += fmt::format("{}: {}\r\n", name, value);
    if (chunked) {
      if (version >= 11) out += "Transfer-Encoding: chunked\r\n";
    } else {
      out += fmt::format("Content-Length: {}\r\n", length);
    }
    out += fmt::format("Date: {}\r\nServer: vertebra\r\nX-Content-Type-Options: nosniff\r\n", http_date());
    if (!keep_alive) out += "Connection: close\r\n";
    return out + "\r\n";
  }

  // Sends what the handler hands over, until all is there or the client has left. True when all was sent.
  asio::awaitable<bool> answer(beast::tcp_stream& stream, beast::flat_buffer& buffer,
                               const std::shared_ptr<Reply>& reply, unsigned version, bool head_only,
                               bool& keep_alive) {
    watch(stream, buffer, reply);
    error_code error;
    bool head_sent = false, chunked = false;
    while (!reply->gone()) {
      std::string text;
      if (reply->started && !head_sent) {
        head_sent = true;
        chunked = reply->streams && version >= 11;
        if (reply->streams && version < 11) keep_alive = false;
        if (stopping_) keep_alive = false;
        text = head_text(reply->head, version, keep_alive, reply->streams, reply->head.body.size());
        if (!reply->streams && !head_only) text += reply->head.body;
      }
      while (head_sent && !reply->unsent.empty()) {
        const std::string piece = std::move(reply->unsent.front());
        reply->unsent.pop_front();
        text += chunked ? fmt::format("{:x}\r\n{}\r\n", piece.size(), piece) : piece;
      }
      const bool last = head_sent && reply->finished;
      if (last && chunked) text += "0\r\n\r\n";
      if (!text.empty()) {
        stream.expires_after(options_.write_timeout);
        co_await asio::async_write(stream, asio::buffer(text), with(error));
        if (error) reply->leave();
      }
      if (last && reply->unsent.empty()) break;
      if (text.empty()) co_await reply->changed();
    }
    stream.expires_never();
    stream.socket().cancel(error);  // the watch
    if (reply->gone()) co_return false;
    co_return true;
  }

  // Notices a client that leaves while its answer is made.
  void watch(beast::tcp_stream& stream, const beast::flat_buffer& buffer,
             const std::shared_ptr<Reply>& reply) {
    if (buffer.size() > 0) return;  // the next request is already here
    stream.socket().async_wait(tcp::socket::wait_read, [&stream, reply](error_code error) {
      // Complete or given up: the stream may be gone.
      if (error == asio::error::operation_aborted || reply->finished || reply->gone()) return;
      char byte;
      if (!error && recv(stream.socket().native_handle(), &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0) return;
      reply->leave();
    });
  }

  HttpOptions options_;
  HttpHandler handler_;
  asio::io_context io_{1};
  tcp::acceptor acceptor_;
  asio::steady_timer deadline_;
  std::set<beast::tcp_stream*> idle_;
  size_t connections_ = 0;
  bool stopping_ = false;
  asio::thread_pool workers_{1};
};

HttpServer::HttpServer(HttpOptions options, HttpHandler handler)
    : impl_(std::make_unique<Impl>(std::move(options), std::move(handler))) {}
HttpServer::~HttpServer() = default;
uint16_t HttpServer::port() const { return impl_->port(); }
void HttpServer::run() { impl_->run(); }
void HttpServer::stop(std::chrono::milliseconds patience) { impl_->stop(patience); }

}  // namespace vertebra::server
