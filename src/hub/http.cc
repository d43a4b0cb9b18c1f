#include "hub/http.h"

#include <curl/curl.h>

#include <algorithm>
#include <cstdlib>
#include <exception>
#include <set>

#include "base/error.h"
#include "base/manifest.h"

namespace vertebra {
namespace {

constexpr int kMostRedirects = 10;
constexpr size_t kMostHeaderBytes = 256 << 10, kMostDroppedBytes = 1 << 20;

// A URL taken apart by libcurl's own parser, so that what is checked is what is asked.
class Url {
 public:
  explicit Url(const std::string& text) : handle_(curl_url()) {
    require(handle_ != nullptr && curl_url_set(handle_, CURLUPART_URL, text.c_str(), 0) == CURLUE_OK,
            "an address is no URL");
  }
  ~Url() { curl_url_cleanup(handle_); }
  Url(const Url&) = delete;
  Url& operator=(const Url&) = delete;

  // Relative to what it was; false for what is no URL or has a user in it.
  bool redirect(const std::string& location) {
    return curl_url_set(handle_, CURLUPART_URL, location.c_str(), CURLU_DISALLOW_USER) == CURLUE_OK;
  }
  std::string part(CURLUPart which) const {
    char* text = nullptr;
    if (curl_url_get(handle_, which, &text, CURLU_DEFAULT_PORT) != CURLUE_OK) return "";
    std::string out = text;
    curl_free(text);
    return out;
  }
  std::string text() const { return part(CURLUPART_URL); }
  std::string scheme() const { return part(CURLUPART_SCHEME); }
  std::string host() const {
    std::string out = part(CURLUPART_HOST);
    for (char& c : out) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    return out;
  }
  std::string origin() const { return scheme() + "://" + host() + ":" + part(CURLUPART_PORT); }
  // Queries of signed addresses are secrets too.
  std::string shown() const {
    const bool usual = part(CURLUPART_PORT) == (scheme() == "https" ? "443" : "80");
    return (usual ? scheme() + "://" + host() : origin()) + part(CURLUPART_PATH);
  }
  bool is_loopback() const {
    const std::string name = host();
    return name == "localhost" || name.ends_with(".localhost") || name == "[::1]" || name.starts_with("127.");
  }

 private:
  CURLU* handle_;
};

void start_library() {
  static const CURLcode started = curl_global_init(CURL_GLOBAL_DEFAULT);
  require(started == CURLE_OK, Code::kInternal, "libcurl does not start: {}", curl_easy_strerror(started));
}

// Certificates of a company's own, where the usual variables name a file.
std::string certificate_file() {
  for (const char* name : {"SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE"}) {
    if (const char* value = std::getenv(name); value != nullptr && *value != 0) return value;
  }
  return "";
}

class HeaderList {
 public:
  ~HeaderList() { curl_slist_free_all(list_); }
  void add(const std::string& line) { list_ = curl_slist_append(list_, line.c_str()); }
  curl_slist* get() const { return list_; }

 private:
  curl_slist* list_ = nullptr;
};

}  // namespace

struct HttpSession::Impl {
  using Clock = std::chrono::steady_clock;

  HttpOptions options;
  CURL* curl = nullptr;
  std::string token_origin;
  char trouble[CURL_ERROR_SIZE] = {};

  // Of the transfer under way.
  HttpResponse response;
  const std::function<bool(const HttpResponse&)>* on_start = nullptr;
  const std::function<bool(std::span<const char>)>* on_body = nullptr;
  bool started = false, stalled = false, too_long = false;
  size_t header_bytes = 0, dropped = 0;
  std::exception_ptr thrown;
  Clock::time_point window_start;
  curl_off_t window_bytes = 0;

  bool succeeded() const { return response.status >= 200 && response.status < 300; }

  // libcurl is C: what the callbacks throw is kept here and thrown on when its function has returned.
  template <class Function>
  bool guarded(Function function) {
    try {
      return function();
    } catch (...) {
      thrown = std::current_exception();
      return false;
    }
  }

  bool start_body() {
    if (started) return true;
    started = true;
    return (*on_start)(response);
  }

  static size_t on_header(char* data, size_t, size_t size, void* self_pointer) {
    auto& self = *static_cast<Impl*>(self_pointer);
    self.header_bytes += size;
    if (self.header_bytes > kMostHeaderBytes) {
      self.too_long = true;
      return 0;
    }
    std::string line(data, size);
    while (!line.empty() && (line.back() == '\r' || line.back() == '\n')) line.pop_back();
    if (line.starts_with("HTTP/")) {  // an answer; those of 1xx come before the one that counts
      self.response.headers.clear();
      const size_t space = line.find(' ');
      self.response.status = space == std::string::npos ? 0 : std::atoi(line.c_str() + space + 1);
      return size;
    }
    const size_t colon = line.find(':');
    if (colon == std::string::npos) return size;
    std::string name = line.substr(0, colon);
    for (char& c : name) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    const size_t first = line.find_first_not_of(" \t", colon + 1);
    self.response.headers[name] =
        first == std::string::npos ? "" : line.substr(first, line.find_last_not_of(" \t") + 1 - first);
    return size;
  }

  static size_t on_data(char* data, size_t, size_t size, void* self_pointer) {
    auto& self = *static_cast<Impl*>(self_pointer);
    if (!self.succeeded()) {
      self.dropped += size;
      return self.dropped > kMostDroppedBytes ? 0 : size;
    }
    return self.guarded([&] { return self.start_body() && (*self.on_body)({data, size}); }) ? size : 0;
  }

  // Ends what was cancelled and what does not move. `got` counts the bytes of the body.
  static int on_progress(void* self_pointer, curl_off_t, curl_off_t got, curl_off_t, curl_off_t) {
    auto& self = *static_cast<Impl*>(self_pointer);
    if (self.options.cancelled && self.options.cancelled()) {
      self.response.cancelled = true;
      return 1;
    }
    const auto now = Clock::now();
    if (got - self.window_bytes >= static_cast<curl_off_t>(self.options.slowest_bytes) ||
        got < self.window_bytes) {
      self.window_start = now;
      self.window_bytes = got;
    }
    self.stalled = now - self.window_start > self.options.stall_timeout;
    return self.stalled ? 1 : 0;
  }

  template <class Value>
  void set(CURLoption option, Value value) {
    const CURLcode code = curl_easy_setopt(curl, option, value);
    require(code == CURLE_OK, Code::kInternal, "libcurl refuses option {}: {}", static_cast<int>(option),
            curl_easy_strerror(code));
  }

  void set_options() {
    set(CURLOPT_NOSIGNAL, 1L);
    set(CURLOPT_FOLLOWLOCATION, 0L);
    set(CURLOPT_PROTOCOLS_STR, "http,https");
    set(CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
    set(CURLOPT_USERAGENT, ("vertebra/" + program_version()).c_str());
    set(CURLOPT_CONNECTTIMEOUT_MS, static_cast<long>(options.connect_timeout.count()));
    set(CURLOPT_ERRORBUFFER, trouble);
    set(CURLOPT_HEADERFUNCTION, &on_header);
    set(CURLOPT_HEADERDATA, this);
    set(CURLOPT_WRITEFUNCTION, &on_data);
    set(CURLOPT_WRITEDATA, this);
    set(CURLOPT_NOPROGRESS, 0L);
    set(CURLOPT_XFERINFOFUNCTION, &on_progress);
    set(CURLOPT_XFERINFODATA, this);
    if (const std::string file = certificate_file(); !file.empty()) set(CURLOPT_CAINFO, file.c_str());
  }

  // One request and its answer, redirects included.
  void perform(const Url& url, const std::vector<std::string>& headers, bool with_token) {
    response = {};
    response.url = url.shown();
    started = stalled = too_long = false;
    header_bytes = dropped = 0;
    window_start = Clock::now();
    window_bytes = 0;
    trouble[0] = 0;
    HeaderList list;
    for (const std::string& line : headers) list.add(line);
    list.add("Accept-Encoding: identity");
    if (with_token) list.add("Authorization: Bearer " + options.token);
    set(CURLOPT_URL, url.text().c_str());
    set(CURLOPT_HTTPHEADER, list.get());
    CURLcode code = curl_easy_perform(curl);
    set(CURLOPT_HTTPHEADER, static_cast<curl_slist*>(nullptr));
    if (thrown) std::rethrow_exception(std::exchange(thrown, nullptr));
    // Of an answer that is not followed by content of use, only the headers count.
    if (response.status >= 300 && code == CURLE_WRITE_ERROR && !too_long) code = CURLE_OK;
    if (code == CURLE_OK) {
      if (succeeded()) start_body();
      return;
    }
    if (too_long) {
      response.trouble = "its headers do not end";
    } else if (stalled) {
      response.trouble =
          fmt::format("no data for {:.0f} s", std::chrono::duration<double>(options.stall_timeout).count());
    } else {
      response.trouble = trouble[0] != 0 ? trouble : curl_easy_strerror(code);
    }
  }
};

HttpSession::HttpSession(HttpOptions options) : impl_(std::make_unique<Impl>()) {
  start_library();
  impl_->options = std::move(options);
  if (!impl_->options.token.empty()) impl_->token_origin = Url(impl_->options.token_origin).origin();
  impl_->curl = curl_easy_init();
  require(impl_->curl != nullptr, Code::kResourceExhausted, "libcurl gives no handle: out of memory");
  impl_->set_options();
}

HttpSession::~HttpSession() { curl_easy_cleanup(impl_->curl); }

HttpResponse HttpSession::get(const std::string& url, const std::vector<std::string>& headers,
                              const std::function<bool(const HttpResponse&)>& on_start,
                              const std::function<bool(std::span<const char>)>& on_body) {
  impl_->on_start = &on_start;
  impl_->on_body = &on_body;
  Url at(url);
  std::set<std::string> seen;
  bool with_token = !impl_->options.token.empty();
  for (int redirects = 0;; ++redirects) {
    require(seen.insert(at.text()).second, Code::kFailedPrecondition, "{}: the server redirects in a circle",
            at.shown());
    // Once a strange host has had its say, the token is not for what it points to either.
    with_token = with_token && at.origin() == impl_->token_origin;
    impl_->perform(at, headers, with_token);
    const int status = impl_->response.status;
    const std::string* location = impl_->response.header("location");
    const bool moves = status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
    if (!moves || location == nullptr || !impl_->response.trouble.empty()) return impl_->response;
    require(redirects < kMostRedirects, Code::kFailedPrecondition, "{}: redirected more than {} times",
            at.shown(), kMostRedirects);
    const std::string from = at.shown();
    const bool was_safe = at.scheme() == "https";
    const bool understood = at.redirect(*location);
    require(understood && (at.scheme() == "https" || at.scheme() == "http"), Code::kFailedPrecondition,
            "{}: redirected to something that is no http address", from);
    require(!was_safe || at.scheme() == "https", Code::kFailedPrecondition,
            "{}: redirected from https to plain http ({}), which is not followed", from, at.shown());
  }
}

const std::string* HttpResponse::header(const std::string& name) const {
  const auto it = headers.find(name);
  return it == headers.end() ? nullptr : &it->second;
}

std::optional<int64_t> HttpResponse::retry_after() const {
  const std::string* text = header("retry-after");
  if (text == nullptr || text->empty()) return std::nullopt;
  if (std::all_of(text->begin(), text->end(), [](char c) { return c >= '0' && c <= '9'; }))
    return text->size() > 9 ? 1'000'000'000 : std::atoll(text->c_str());
  const time_t when = curl_getdate(text->c_str(), nullptr);
  if (when == -1) return std::nullopt;
  return std::max<int64_t>(0, when - std::time(nullptr));
}

std::string url_encoded(std::string_view text, bool keep_slashes) {
  std::string out;
  for (const char c : text) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       c == '-' || c == '.' || c == '_' || c == '~' || (keep_slashes && c == '/');
    out += plain ? std::string(1, c) : fmt::format("%{:02X}", static_cast<unsigned char>(c));
  }
  return out;
}

bool is_readable_on_the_way(const std::string& url) {
  const Url parts(url);
  return parts.scheme() != "https" && !parts.is_loopback();
}

}  // namespace vertebra
