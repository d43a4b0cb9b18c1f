#include "hub/hub_client.h"

#include <algorithm>
#include <charconv>
#include <thread>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/part_file.h"
#include "base/progress.h"
#include "hub/file_hash.h"

namespace vertebra {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;

constexpr size_t kLongestAnswer = 32 << 20;   // of the list of files
constexpr uint64_t kProgressBytes = 1 << 20;  // that an attempt must bring not to count as failed
constexpr milliseconds kLongWait{4'000};      // that is told
constexpr milliseconds kNap{50};              // how long an interrupt waits for us

HttpOptions http_options(const HubOptions& options, const std::function<bool()>& cancelled) {
  HttpOptions out;
  out.token_origin = options.endpoint;
  out.token = options.token;
  out.connect_timeout = options.connect_timeout;
  out.stall_timeout = options.stall_timeout;
  out.slowest_bytes = options.slowest_bytes;
  out.cancelled = cancelled;
  return out;
}

bool may_pass(int status) {
  return status == 408 || status == 425 || status == 429 || status == 500 || status == 502 || status == 503 ||
         status == 504;
}

void refuse_encoding(const HttpResponse& response) {
  const std::string* encoding = response.header("content-encoding");
  require(encoding == nullptr || encoding->empty() || *encoding == "identity", Code::kDataLoss,
          "{}: the answer is packed (Content-Encoding), which was not asked for and is not unpacked",
          response.url);
}

std::optional<uint64_t> number(std::string_view text) {
  uint64_t out = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
  return error == std::errc() && end == text.data() + text.size() ? std::optional(out) : std::nullopt;
}

// "bytes FIRST-LAST/TOTAL".
struct ContentRange {
  uint64_t first = 0;
  std::optional<uint64_t> total;
};
std::optional<ContentRange> content_range(const HttpResponse& response) {
  const std::string* text = response.header("content-range");
  if (text == nullptr || !text->starts_with("bytes ")) return std::nullopt;
  const std::string_view rest = std::string_view(*text).substr(6);
  const size_t dash = rest.find('-'), slash = rest.find('/');
  if (dash == std::string_view::npos || slash == std::string_view::npos || dash > slash) return std::nullopt;
  const auto first = number(rest.substr(0, dash));
  if (!first.has_value()) return std::nullopt;
  return ContentRange{*first, number(rest.substr(slash + 1))};
}

// A validator that If-Range may name: a strong one.
std::string strong_etag(const HttpResponse& response) {
  const std::string* etag = response.header("etag");
  return etag != nullptr && etag->starts_with('"') && etag->size() < 1024 ? *etag : "";
}

// The bytes of one file on their way to the disk.
class Arrival {
 public:
  Arrival(const RemoteFile& file, const fs::path& path, std::atomic<int64_t>& received)
      : file_(file), part_(path), etag_path_(path.string() + ".part.etag"), received_(received) {
    if (part_.size_bytes() > file.size_bytes) part_.truncate(0);
    older_bytes_ = part_.size_bytes();
    hash_.emplace(file.size_bytes);
    part_.read([&](std::span<const char> bytes) { hash_->update(bytes); });
    received_ += static_cast<int64_t>(older_bytes_);
    if (older_bytes_ > 0 && fs::is_regular_file(fs::symlink_status(etag_path_)))
      etag_ = read_file(etag_path_);
    if (etag_.size() > 1024 || etag_.find_first_of("\r\n") != std::string::npos) etag_.clear();
  }

  uint64_t size_bytes() const { return part_.size_bytes(); }
  bool whole() const { return size_bytes() == file_.size_bytes; }
  bool has_older_bytes() const { return older_bytes_ > 0; }

  std::vector<std::string> headers() const {
    if (size_bytes() == 0) return {};
    std::vector<std::string> out = {fmt::format("Range: bytes={}-", size_bytes())};
    if (!etag_.empty()) out.push_back("If-Range: " + etag_);
    return out;
  }

  void start_again() {
    received_ -= static_cast<int64_t>(size_bytes());
    part_.truncate(0);
    hash_.emplace(file_.size_bytes);
    older_bytes_ = 0;
    etag_.clear();
  }

  // False: the answer is of no use, and the next request asks for everything.
  bool begin(const HttpResponse& response) {
    refuse_encoding(response);
    const std::string etag = strong_etag(response);
    const auto range = content_range(response);
    if (response.status == 206) {
      if (range.has_value() && range->total.has_value()) check_total(*range->total, response);
      if (!range.has_value() || range->first != size_bytes() ||
          (!etag_.empty() && !etag.empty() && etag != etag_)) {
        start_again();
        return false;
      }
    } else {
      start_again();  // the server knows no ranges, or the content is another
    }
    const std::string* length = response.header("content-length");
    if (length != nullptr) {
      if (const auto announced = number(*length)) check_total(size_bytes() + *announced, response);
    }
    if (etag_.empty() && !etag.empty()) write_file_atomic(etag_path_, etag);
    etag_ = etag;
    return true;
  }

  bool add(std::span<const char> bytes, const HttpResponse& response) {
    if (bytes.size() > file_.size_bytes - size_bytes()) check_total(size_bytes() + bytes.size(), response);
    part_.append(bytes);
    hash_->update(bytes);
    received_ += static_cast<int64_t>(bytes.size());
    return true;
  }

  // The hashes, and whether they are those listed.
  std::pair<FileHash::Digests, bool> finish() {
    FileHash::Digests digests = hash_->finish();
    const bool right =
        file_.sha256.empty() ? digests.git_sha1 == file_.git_sha1 : digests.sha256 == file_.sha256;
    return {std::move(digests), right};
  }
  void commit() {
    part_.commit();
    forget_etag();
  }
  void remove() {
    part_.remove();
    forget_etag();
  }

 private:
  void check_total(uint64_t total, const HttpResponse& response) const {
    require(total == file_.size_bytes, Code::kDataLoss,
            "'{}': the list of files says {} bytes, the server sends {} ({}); nothing of it was kept as the "
            "file. If "
            "the network has a log-in page of its own, log in first",
            file_.path, file_.size_bytes, total, response.url);
  }
  void forget_etag() const {
    std::error_code ignored;
    fs::remove(etag_path_, ignored);
  }

  const RemoteFile& file_;
  PartFile part_;
  fs::path etag_path_;
  std::atomic<int64_t>& received_;
  std::optional<FileHash> hash_;
  std::string etag_;          // of the content that is there
  uint64_t older_bytes_ = 0;  // that another process wrote
};

// A copy of a file that the hub's Python client has fetched; nothing where it has none or another.
std::optional<FileHash::Digests> copy_from(const fs::path& source, const RemoteFile& file,
                                           const fs::path& path, std::atomic<int64_t>& received) {
  std::error_code none;
  if (!fs::is_regular_file(source, none) || fs::file_size(source, none) != file.size_bytes)
    return std::nullopt;
  Arrival arrival(file, path, received);
  arrival.start_again();
  const MappedFile mapped(source);
  const std::span<const char> bytes(mapped.text().data(), mapped.text().size());
  for (size_t at = 0; at < bytes.size(); at += kProgressBytes)
    arrival.add(bytes.subspan(at, std::min<size_t>(kProgressBytes, bytes.size() - at)), {});
  auto [digests, right] = arrival.finish();
  if (!right) {
    arrival.start_again();
    return std::nullopt;
  }
  arrival.commit();
  return digests;
}

}  // namespace

Patience::Patience(const HubOptions& options, std::function<bool()> cancelled, std::string what)
    : options_(options), cancelled_(std::move(cancelled)), what_(std::move(what)) {}

bool Patience::wait(const HttpResponse& response) {
  const std::string trouble = !response.trouble.empty() ? response.trouble
                              : response.status > 0 ? fmt::format("the server answers {}", response.status)
                                                    : "no answer";
  ++failures_;
  require(failures_ < options_.attempts, Code::kUnavailable,
          "{}: {} ({} attempts). What has come is kept: the same command goes on from there", what_, trouble,
          failures_);
  milliseconds delay = options_.retry_delay * std::min(30, 1 << std::min(failures_ - 1, 5));
  // A little of chance, so that many clients do not come back all at once.
  const auto chance = std::chrono::steady_clock::now().time_since_epoch().count() / 1000 % 256;
  delay += delay * chance / 1024;
  if (const auto asked = response.retry_after()) {
    const milliseconds wanted = std::chrono::seconds(*asked);
    require(wanted <= options_.longest_wait, Code::kUnavailable,
            "{}: {}, and it asks to be left alone for {}; the same command goes on then", what_, trouble,
            format_duration(static_cast<double>(*asked)));
    delay = std::max(delay, wanted);
  }
  if (delay >= kLongWait) {
    log_info("{}: {}; again in {}", what_, trouble,
             format_duration(static_cast<double>(delay.count()) / 1000));
  } else {
    log_debug("{}: {}; again in {} ms", what_, trouble, delay.count());
  }
  const auto until = std::chrono::steady_clock::now() + delay;
  while (std::chrono::steady_clock::now() < until) {
    if (cancelled_()) return false;
    std::this_thread::sleep_for(
        std::min<std::chrono::nanoseconds>(kNap, until - std::chrono::steady_clock::now()));
  }
  return !cancelled_();
}

HubClient::HubClient(HubOptions options, std::function<bool()> cancelled)
    : options_(std::move(options)),
      cancelled_(std::move(cancelled)),
      session_(http_options(options_, cancelled_)) {}

void HubClient::fail_status(const HttpResponse& response, const std::string& what) const {
  const std::string* code = response.header("x-error-code");
  const bool gated = code != nullptr && *code == "GatedRepo";
  const char* whose =
      options_.token.empty() ? "no token was sent" : "the token that was sent does not open it";
  if (gated || response.status == 403)
    fail(Code::kPermissionDenied,
         "{}: the hub gives it only to those whom its owner has let in (status {}; {}). Ask for access on "
         "its page "
         "and set HF_TOKEN",
         what, response.status, whose);
  if (response.status == 401)
    fail(Code::kUnauthenticated,
         "{}: it does not exist, or the hub wants to know who asks (status 401; {}). Check the name, and set "
         "HF_TOKEN for a private or gated model",
         what, whose);
  if (response.status == 404 || response.status == 410)
    fail(Code::kNotFound, "{}: the hub has none of this name and revision (status {})", what,
         response.status);
  fail(Code::kUnavailable, "{}: {} answers {}; 200 was wanted", what, response.url, response.status);
}

std::optional<Repository> HubClient::read_repository(const HubModel& model) {
  const std::string url =
      fmt::format("{}/api/models/{}/revision/{}?blobs=true", options_.endpoint,
                  url_encoded(model.repository, true), url_encoded(model.revision, false));
  Patience patience(options_, cancelled_, model.to_string());
  for (;;) {
    std::string body;
    const HttpResponse response = session_.get(
        url, {},
        [&](const HttpResponse& started) {
          refuse_encoding(started);
          return true;
        },
        [&](std::span<const char> bytes) {
          require(body.size() + bytes.size() <= kLongestAnswer, Code::kDataLoss,
                  "{}: the list of files is longer than {}", model.to_string(), format_bytes(kLongestAnswer));
          body.append(bytes.data(), bytes.size());
          return true;
        });
    if (response.cancelled) return std::nullopt;
    if (response.trouble.empty() && response.status >= 200 && response.status < 300) {
      Repository out = parse_repository(parse_json(body, response.url), response.url);
      require(!is_commit(model.revision) || out.commit == model.revision, Code::kDataLoss,
              "{}: the hub answers with another commit, {}", model.to_string(), out.commit);
      return out;
    }
    if (response.trouble.empty() && !may_pass(response.status)) fail_status(response, model.to_string());
    if (!patience.wait(response)) return std::nullopt;
  }
}

std::optional<ManifestFile> HubClient::download(const HubModel& model, const std::string& commit,
                                                const RemoteFile& file, const fs::path& folder,
                                                std::atomic<int64_t>& received) {
  const fs::path path = folder / file.path;
  fs::create_directories(path.parent_path());
  const fs::path snapshot = options_.other_cache / ("models--" + folder_name(model)) / "snapshots" / commit;
  if (const auto digests = copy_from(snapshot / file.path, file, path, received))
    return ManifestFile{digests->sha256, file.size_bytes};
  const std::string url =
      fmt::format("{}/{}/resolve/{}/{}", options_.endpoint, url_encoded(model.repository, true), commit,
                  url_encoded(file.path, true));
  const std::string what = fmt::format("{} of {}", file.path, model.repository);
  Patience patience(options_, cancelled_, what);
  Arrival arrival(file, path, received);
  for (;;) {
    if (cancelled_()) return std::nullopt;
    if (arrival.whole()) {
      const bool older = arrival.has_older_bytes();
      auto [digests, right] = arrival.finish();
      if (right) {
        arrival.commit();
        return ManifestFile{digests.sha256, file.size_bytes};
      }
      if (!older) arrival.remove();
      require(
          older, Code::kDataLoss,
          "{}: what came has the hash {}, {} was listed; it was removed. A second try may get a better copy",
          what, file.sha256.empty() ? digests.git_sha1 : digests.sha256,
          file.sha256.empty() ? file.git_sha1 : file.sha256);
      arrival.start_again();  // what an earlier try had left was not of this file
    }
    const uint64_t before = arrival.size_bytes();
    const HttpResponse* current = nullptr;
    const HttpResponse response = session_.get(
        url, arrival.headers(),
        [&](const HttpResponse& started) {
          current = &started;
          return arrival.begin(started);
        },
        [&](std::span<const char> bytes) { return arrival.add(bytes, *current); });
    if (response.cancelled) return std::nullopt;
    if (arrival.whole()) continue;
    if (response.trouble.empty() && response.status == 416) {
      arrival.start_again();
    } else if (response.trouble.empty() && response.status >= 300 && !may_pass(response.status)) {
      fail_status(response, what);
    }
    if (arrival.size_bytes() >= before + kProgressBytes) patience.progressed();
    if (!patience.wait(response)) return std::nullopt;
  }
}

}  // namespace vertebra
