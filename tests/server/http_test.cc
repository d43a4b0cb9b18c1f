// The HTTP layer: what a request's line says, and what happens to clients that do not keep to the rules.
#include <gtest/gtest.h>

#include <future>

#include "tests/server/running_server.h"

namespace vertebra::server {
namespace {

TEST(Http, ATargetIsSplitBeforeItIsDecoded) {
  HttpRequest request;
  parse_target("/v1/models/org%2Fmodel?ids%5B%5D=a&x=1+2&empty", request);
  EXPECT_EQ(request.segments, (std::vector<std::string>{"v1", "models", "org/model"}));
  ASSERT_EQ(request.query.size(), 3u);
  EXPECT_EQ(request.query[0], (std::pair<std::string, std::string>("ids[]", "a")));
  EXPECT_EQ(request.query[1].second, "1 2");
  EXPECT_EQ(request.query[2], (std::pair<std::string, std::string>("empty", "")));
  EXPECT_THROW(parse_target("v1", request), Error);
  EXPECT_THROW(parse_target("/a%2", request), Error);
  EXPECT_THROW(parse_target("/a?b=%zz", request), Error);
}

TEST(Http, HostsAreComparedWithoutTheirPort) {
  const std::vector<std::string> allowed = {"localhost", "[::1]"};
  EXPECT_TRUE(names_host("LocalHost:8080", allowed));
  EXPECT_TRUE(names_host("http://[::1]:80", allowed));
  EXPECT_FALSE(names_host("localhost.evil.example", allowed));
  EXPECT_FALSE(names_host("http://evil.example/localhost", allowed));
  EXPECT_FALSE(names_host("[::1", allowed));
  EXPECT_FALSE(names_host("", allowed));
}

// Answers with the body it got.
class Echo {
 public:
  explicit Echo(HttpOptions options = {})
      : server_(std::move(options), [](HttpRequest request, const std::shared_ptr<HttpReply>& reply) {
          HttpResponse out;
          out.content_type = "text/plain";
          out.body = request.method + " " + request.path + " [" + request.body + "]";
          reply->send(std::move(out));
        }) {
    thread_ = std::thread([this] { server_.run(); });
  }
  ~Echo() {
    server_.stop(std::chrono::seconds(1));
    thread_.join();
  }
  uint16_t port() const { return server_.port(); }

 private:
  HttpServer server_;
  std::thread thread_;
};

std::string post(const std::string& headers, const std::string& body) {
  return "POST /x HTTP/1.1\r\nHost: localhost\r\n" + headers + "\r\n" + body;
}

TEST(Http, RequestsFollowEachOtherOnOneConnection) {
  const Echo echo;
  const std::string answers = talk(
      echo.port(), "GET /one HTTP/1.1\r\nHost: localhost\r\n\r\n" + post("Content-Length: 3\r\n", "two") +
                       "HEAD /three HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
  EXPECT_NE(answers.find("GET /one []"), std::string::npos) << answers;
  EXPECT_NE(answers.find("POST /x [two]"), std::string::npos) << answers;
  EXPECT_EQ(answers.find("HEAD /three"), std::string::npos) << answers;  // its answer has a head alone
  EXPECT_NE(answers.find("Connection: close"), std::string::npos) << answers;
}

TEST(Http, ABodyComesInChunksAndAfterContinue) {
  const Echo echo;
  EXPECT_EQ(parse_answer(talk(echo.port(), post("Transfer-Encoding: chunked\r\nConnection: close\r\n",
                                                "3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")))
                .body,
            "POST /x [abcde]");
  const Socket socket(echo.port());
  socket.send(post("Content-Length: 2\r\nExpect: 100-continue\r\nConnection: close\r\n", ""));
  EXPECT_EQ(socket.receive("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
  socket.send("ok");
  EXPECT_EQ(parse_answer(socket.receive()).body, "POST /x [ok]");
}

TEST(Http, WhatBreaksTheRulesIsRefusedAndTheConnectionClosed) {
  HttpOptions options;
  options.max_header_bytes = 1000;
  options.max_body_bytes = 100;
  options.allowed_hosts = {"localhost"};
  const Echo echo(options);
  const auto status = [&](const std::string& text) { return parse_answer(talk(echo.port(), text)).status; };
  EXPECT_EQ(status(post("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n")), 400);
  EXPECT_EQ(status(post("Content-Length: 3\r\nContent-Length: 4\r\n", "abcd")), 400);
  EXPECT_EQ(status(post("Transfer-Encoding: gzip, chunked\r\nContent-Length: 3\r\n", "abc")), 400);
  EXPECT_EQ(status(post("Transfer-Encoding: chunked\r\n", "zz\r\nabc\r\n")), 400);
  EXPECT_EQ(status(post("Content-Length: -1\r\n", "")), 400);
  EXPECT_EQ(status("GET / HTTP/1.1\r\n\r\n"), 400);  // no host
  EXPECT_EQ(status("nonsense\r\n\r\n"), 400);
  EXPECT_EQ(status("GET /%z HTTP/1.1\r\nHost: localhost\r\n\r\n"), 400);
  EXPECT_EQ(status(post("X: " + std::string(2000, 'x') + "\r\n", "")), 431);
  EXPECT_EQ(status(post("Content-Length: 101\r\n", std::string(101, 'x'))), 413);
  EXPECT_EQ(status("GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n"), 403);
  EXPECT_EQ(status(post("Origin: http://evil.example\r\nContent-Length: 0\r\n", "")), 403);
  EXPECT_EQ(request(echo.port(), "GET", "/fine").status, 200);
}

TEST(Http, SlowAndIdleClientsAreLeft) {
  HttpOptions options;
  options.header_timeout = options.body_timeout = std::chrono::milliseconds(150);
  options.idle_timeout = std::chrono::milliseconds(150);
  const Echo echo(options);
  EXPECT_EQ(talk(echo.port(), "GET / HTTP/1.1\r\nHost: lo"), "");
  EXPECT_EQ(talk(echo.port(), post("Content-Length: 9\r\n", "slow")), "");
  EXPECT_EQ(talk(echo.port(), ""), "");
}

TEST(Http, AClientThatLeavesIsNoticedWhileItsAnswerIsMade) {
  std::promise<void> asked, gone;
  std::shared_ptr<HttpReply> kept;
  HttpServer server({}, [&](const HttpRequest&, const std::shared_ptr<HttpReply>& reply) {
    kept = reply;
    reply->on_gone([&gone] { gone.set_value(); });
    reply->start_stream({});
    reply->write("first");
    asked.set_value();
  });
  std::thread thread([&] { server.run(); });
  {
    const Socket socket(server.port());
    socket.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    EXPECT_NE(socket.receive("first").find("first"), std::string::npos);
    asked.get_future().wait();
  }
  EXPECT_EQ(gone.get_future().wait_for(std::chrono::seconds(10)), std::future_status::ready);
  kept->write("nobody reads this");
  kept->finish();
  server.stop(std::chrono::seconds(1));
  thread.join();
}

TEST(Http, AStreamThatIsNotReadIsGivenUpInsteadOfHeld) {
  HttpOptions options;
  options.max_unsent_bytes = 1 << 20;
  std::promise<void> gone;
  HttpServer server(options, [&](const HttpRequest&, const std::shared_ptr<HttpReply>& reply) {
    reply->on_gone([&gone] { gone.set_value(); });
    reply->start_stream({});
    for (int i = 0; i < 200; ++i) reply->write(std::string(1 << 18, 'x'));  // 50 MB
  });
  std::thread thread([&] { server.run(); });
  const Socket socket(server.port());
  socket.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
  EXPECT_EQ(gone.get_future().wait_for(std::chrono::seconds(10)), std::future_status::ready);
  server.stop(std::chrono::seconds(1));
  thread.join();
}

TEST(Http, ATakenPortIsAnErrorThatSaysSo) {
  const Echo echo;
  HttpOptions options;
  options.port = echo.port();
  try {
    HttpServer second(options, {});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::kUnavailable);
  }
}

}  // namespace
}  // namespace vertebra::server
