// HTTP GET over libcurl for a client that trusts no server: redirects are followed here, one by one, so that
// the token stays with the host it is meant for; stalled transfers end; nothing is unpacked on the way. Knows
// nothing of hubs and models.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace vertebra {

struct HttpOptions {
  std::string token_origin;  // a URL; a token goes to its scheme, host and port, and nowhere else
  std::string token;
  std::chrono::milliseconds connect_timeout{15'000};
  std::chrono::milliseconds stall_timeout{30'000};
  uint64_t slowest_bytes = 4096;  // in stall_timeout
  // Asked about once a second; true ends the transfer with `cancelled`.
  std::function<bool()> cancelled;
};

struct HttpResponse {
  int status = 0;                              // 0: no answer came
  std::map<std::string, std::string> headers;  // names in lower case
  std::string trouble;  // why the transfer broke off (cut, timeout, stall, no connection); empty: it did not
  bool cancelled = false;
  std::string url;  // of the last answer, without query and user, as it may be shown

  const std::string* header(const std::string& name) const;
  // Seconds of Retry-After, in either of its forms; never negative.
  std::optional<int64_t> retry_after() const;
};

class HttpSession {
 public:
  explicit HttpSession(HttpOptions options);
  ~HttpSession();
  HttpSession(const HttpSession&) = delete;
  HttpSession& operator=(const HttpSession&) = delete;

  // `on_start` is called once before the body of an answer 2xx, `on_body` with its bytes as they came; bodies
  // of other answers are dropped. False ends the transfer; so does what they throw, which reaches the caller.
  // Throws failed_precondition for a redirect that is not followed: in a circle, the eleventh, from https to
  // http, to something other than http. One session serves one thread.
  HttpResponse get(const std::string& url, const std::vector<std::string>& headers,
                   const std::function<bool(const HttpResponse&)>& on_start,
                   const std::function<bool(std::span<const char>)>& on_body);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// A text for a path in a URL: everything but letters, digits and -._~ becomes %XX; '/' too unless
// `keep_slashes`.
std::string url_encoded(std::string_view text, bool keep_slashes);
// Whether the URL's traffic can be read on the way: plain http to another machine than this one.
bool is_readable_on_the_way(const std::string& url);

}  // namespace vertebra
