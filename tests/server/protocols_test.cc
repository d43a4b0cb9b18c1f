// Both protocols on a running server with a tiny model: answers, streams, errors, company.
#include <gtest/gtest.h>

#include <cstdlib>
#include <future>

#include "tests/server/running_server.h"

namespace vertebra::server {
namespace {

const char* const kVersion = "anthropic-version: 2023-06-01\r\n";

class Protocols : public testing::Test {
 protected:
  static void SetUpTestSuite() { server_ = new RunningServer; }
  static void TearDownTestSuite() {
    delete server_;
    server_ = nullptr;
  }
  static uint16_t port() { return server_->port(); }
  static Answer messages(const Json& body, const std::string& headers = kVersion) {
    return request(port(), "POST", "/v1/messages", json_line(body), headers);
  }
  static Answer completions(const Json& body) {
    return request(port(), "POST", "/v1/chat/completions", json_line(body));
  }
  static Json question(const std::string& text, int max_tokens = 12) {
    return {{"model", "tiny"},
            {"max_tokens", max_tokens},
            {"temperature", 0},
            {"messages", {{{"role", "user"}, {"content", text}}}}};
  }
  static RunningServer* server_;
};
RunningServer* Protocols::server_ = nullptr;

// The events of a stream: (event, data).
std::vector<std::pair<std::string, std::string>> events_of(const std::string& body) {
  std::vector<std::pair<std::string, std::string>> out;
  std::string name;
  for (size_t at = 0; at < body.size();) {
    const size_t end = body.find('\n', at);
    const std::string line = body.substr(at, end - at);
    if (line.starts_with("event: ")) name = line.substr(7);
    if (line.starts_with("data: ")) {
      out.emplace_back(name, line.substr(6));
      name.clear();
    }
    at = end + 1;
  }
  return out;
}

TEST_F(Protocols, AMessageStreamedIsTheMessageWhole) {
  const Json whole = messages(question("one two")).json();
  EXPECT_EQ(whole["type"], "message");
  EXPECT_EQ(whole["usage"]["output_tokens"], 12);
  EXPECT_EQ(whole["stop_reason"], "max_tokens");
  Json asked = question("one two");
  asked["stream"] = true;
  const Answer streamed = messages(asked);
  EXPECT_NE(streamed.head.find("text/event-stream"), std::string::npos);
  EXPECT_NE(streamed.head.find("request-id: req_"), std::string::npos);
  std::string text, order;
  for (const auto& [event, data] : events_of(streamed.body)) {
    const Json json = parse_json(data, "an event");
    EXPECT_EQ(json["type"], Json(event));
    if (event == "content_block_delta") text += json["delta"]["text"].get<std::string>();
    if (event != "content_block_delta") order += event + " ";
    if (event == "message_delta") {
      EXPECT_EQ(json["usage"]["output_tokens"], 12);
    }
  }
  EXPECT_EQ(order, "message_start ping content_block_start content_block_stop message_delta message_stop ");
  EXPECT_EQ(Json(text), whole["content"][0]["text"]);
  EXPECT_FALSE(text.empty());
}

TEST_F(Protocols, BothSpeakOfTheSameAnswer) {
  const Json message = messages(question("three")).json(), completion = completions(question("three")).json();
  EXPECT_EQ(completion["choices"][0]["message"]["content"], message["content"][0]["text"]);
  EXPECT_EQ(completion["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(completion["usage"]["completion_tokens"], 12);
  Json asked = question("three");
  asked["stream"] = true;
  asked["stream_options"] = {{"include_usage", true}};
  std::string text;
  const auto events = events_of(completions(asked).body);
  ASSERT_GE(events.size(), 3u);
  EXPECT_EQ(events.back().second, "[DONE]");
  for (size_t i = 0; i + 1 < events.size(); ++i) {
    const Json chunk = parse_json(events[i].second, "a chunk");
    if (!chunk["choices"].empty()) text += chunk["choices"][0]["delta"].value("content", "");
  }
  EXPECT_EQ(parse_json(events[events.size() - 2].second, "usage")["usage"]["completion_tokens"], 12);
  EXPECT_EQ(Json(text), message["content"][0]["text"]);
}

TEST_F(Protocols, AnAnswerIsTheSameInCompany) {
  const auto ask = [](int i) {
    return messages(question(fmt::format("one {} two", i), 10 + i % 5))
        .json()["content"][0]["text"]
        .get<std::string>();
  };
  std::vector<std::string> alone;
  for (int i = 0; i < 12; ++i) alone.push_back(ask(i));
  std::vector<std::future<std::string>> together;
  for (int i = 0; i < 12; ++i) together.push_back(std::async(std::launch::async, ask, i));
  for (size_t i = 0; i < together.size(); ++i) EXPECT_EQ(together[i].get(), alone[i]) << i;
}

TEST_F(Protocols, SeveralChoicesAndTheirProbabilities) {
  Json asked = question("one", 6);
  asked["n"] = 3;
  asked["temperature"] = 1;
  asked["seed"] = 5;
  asked["logprobs"] = true;
  asked["top_logprobs"] = 2;
  const Json answer = completions(asked).json();
  ASSERT_EQ(answer["choices"].size(), 3u);
  EXPECT_NE(answer["choices"][0]["message"], answer["choices"][1]["message"]);
  int64_t tokens = 0;
  for (int i = 0; i < 3; ++i) {
    const Json& choice = answer["choices"][static_cast<size_t>(i)];
    EXPECT_EQ(choice["index"], i);
    tokens += static_cast<int64_t>(choice["logprobs"]["content"].size());
    for (const Json& token : choice["logprobs"]["content"]) EXPECT_EQ(token["top_logprobs"].size(), 2u);
  }
  EXPECT_EQ(answer["usage"]["completion_tokens"], tokens);
  EXPECT_EQ(completions(asked).json()["choices"], answer["choices"]);  // the seed decides
}

TEST_F(Protocols, APrefillIsContinuedAndAStopStringEnds) {
  Json asked = question("one");
  const std::string whole = messages(asked).json()["content"][0]["text"];
  asked["messages"].push_back({{"role", "assistant"}, {"content", "one two"}});
  EXPECT_EQ(messages(asked).status, 200);
  asked["messages"].back()["content"] = "ends in space ";
  EXPECT_EQ(messages(asked).status, 400);
  asked = question("one");
  asked["stop_sequences"] = {whole.substr(whole.size() / 2)};
  const Json stopped = messages(asked).json();
  EXPECT_EQ(stopped["stop_reason"], "stop_sequence");
  EXPECT_EQ(stopped["stop_sequence"], asked["stop_sequences"][0]);
  const std::string stop = asked["stop_sequences"][0];
  EXPECT_EQ(stopped["content"][0]["text"], Json(whole.substr(0, whole.find(stop))));
}

TEST_F(Protocols, TokensAreCountedAsTheyAreBilled) {
  Json asked = question("one two three");
  const Json usage = messages(asked).json()["usage"];
  asked.erase("max_tokens");
  asked.erase("temperature");
  const Json counted =
      request(port(), "POST", "/v1/messages/count_tokens", json_line(asked), kVersion).json();
  EXPECT_EQ(counted["input_tokens"].get<int64_t>(),
            usage["input_tokens"].get<int64_t>() + usage["cache_read_input_tokens"].get<int64_t>());
}

TEST_F(Protocols, ModelsAreListedInTheWordsOfEach) {
  const Json ours = request(port(), "GET", "/v1/models?limit=1", "", kVersion).json();
  EXPECT_EQ(ours["data"][0]["created_at"], "2023-11-14T22:13:20Z");
  EXPECT_EQ(ours["has_more"], false);
  EXPECT_EQ(request(port(), "GET", "/v1/models").json()["data"][0]["owned_by"], "vertebra");
  EXPECT_EQ(request(port(), "GET", "/v1/models/tiny").json()["id"], "tiny");
  EXPECT_EQ(request(port(), "GET", "/v1/models/other").status, 404);
  EXPECT_EQ(request(port(), "GET", "/v1/models?limit=0", "", kVersion).status, 400);
}

TEST_F(Protocols, AWishThatCannotBeGrantedIsAnErrorThatNamesIt) {
  const auto expect_message = [&](const Json& changes, const std::string& wanted, int status = 400) {
    Json body = question("one");
    body.update(changes);
    const Answer answer = messages(body);
    EXPECT_EQ(answer.status, status) << json_line(body);
    EXPECT_EQ(answer.json()["type"], "error");
    EXPECT_NE(answer.json()["error"]["message"].get<std::string>().find(wanted), std::string::npos)
        << answer.body;
  };
  expect_message({{"model", "other"}}, "tiny", 404);
  expect_message({{"colour", "red"}}, "colour");
  expect_message({{"max_tokens", "many"}}, "max_tokens");
  expect_message({{"max_tokens", -1}}, "max_tokens");
  expect_message({{"temperature", 1.5}}, "temperature");
  expect_message({{"messages", Json::array()}}, "messages");
  expect_message({{"messages", {{{"role", "robot"}, {"content", "x"}}}}}, "messages.0.role");
  expect_message({{"messages", {{{"role", "user"}, {"content", {{{"type", "image"}}}}}}}},
                 "messages.0.content.0");
  expect_message({{"tools", {{{"name", "x"}}}}}, "tools");
  expect_message({{"messages", {{{"role", "user"}, {"content", std::string(4000, 'x')}}}}}, "too long");
  EXPECT_EQ(messages(question("one"), "").status, 400);  // no version
  EXPECT_EQ(messages(question("one"), "anthropic-version: 2020-01-01\r\n").status, 400);
  const Answer newer = messages(question("one"), "anthropic-version: 2026-10-21\r\n");
  EXPECT_EQ(newer.status, 400);  // no temperature there
  for (const char* body : {"", "[]", "{", "{\"a\": 1e999}", "\"\\ud800\""})
    EXPECT_EQ(request(port(), "POST", "/v1/messages", body, kVersion).status, 400) << body;

  const auto expect_completion = [&](const Json& changes, const std::string& wanted, int status = 400) {
    Json body = question("one");
    body.update(changes);
    const Answer answer = completions(body);
    EXPECT_EQ(answer.status, status) << json_line(body);
    EXPECT_NE(answer.json()["error"]["message"].get<std::string>().find(wanted), std::string::npos)
        << answer.body;
  };
  expect_completion({{"n", 0}}, "n:");
  expect_completion({{"logit_bias", {{"5", 1}}}}, "logit_bias");
  expect_completion({{"response_format", {{"type", "json_object"}}}}, "json_object");
  expect_completion({{"stop", {"a", "b", "c", "d", "e"}}}, "stop");
  expect_completion({{"presence_penalty", 1}}, "presence_penalty");
  expect_completion({{"top_logprobs", 3}}, "logprobs");
  expect_completion({{"model", "other"}}, "other", 404);
  EXPECT_EQ(request(port(), "GET", "/v1/chat/completions").status, 400);
  EXPECT_EQ(request(port(), "GET", "/nothing").status, 404);
}

TEST_F(Protocols, NothingIsAnsweredToOtherMachines) {
  std::vector<std::unique_ptr<ModelService>> none;
  HttpOptions options;
  options.host = "0.0.0.0";
  EXPECT_THROW(Server(std::move(none), options), Error);
}

// The vendors' own libraries, where Python has them.
TEST_F(Protocols, OfficialClients) {
  const std::string command =
      fmt::format("python3 {}/tests/server/official_clients.py {}", VERTEBRA_SOURCE_DIR, port());
  const int status = std::system(command.c_str());
  if (WIFEXITED(status) && (WEXITSTATUS(status) == 77 || WEXITSTATUS(status) == 127))
    GTEST_SKIP() << "Python has no anthropic or openai package: pip install -r tests/server/requirements.txt";
  EXPECT_EQ(status, 0);
}

}  // namespace
}  // namespace vertebra::server
