#include "backend/pjrt/executable_cache.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/sha256.h"

namespace vertebra::pjrt {
namespace {

namespace fs = std::filesystem;

// First line of an entry; the hash of what follows is the second.
constexpr std::string_view kMagic = "vertebra executable 1\n";
constexpr size_t kHashDigits = 64;

// The payload of an entry's file; nullopt when the file is cut off, changed, or of another key.
std::optional<std::string> payload_of(const std::string& file, const std::string& key) {
  const size_t start = kMagic.size() + kHashDigits + 1;
  if (file.size() < start || !file.starts_with(kMagic)) return std::nullopt;
  const std::string payload = file.substr(start);
  if (file.compare(kMagic.size(), kHashDigits, sha256_hex(key + payload)) != 0) return std::nullopt;
  return payload;
}

}  // namespace

ExecutableCache::ExecutableCache(fs::path folder, uint64_t most_bytes)
    : folder_(std::move(folder)), most_bytes_(most_bytes) {}

std::optional<std::string> ExecutableCache::load(const std::string& key) const {
  if (folder_.empty()) return std::nullopt;
  std::error_code ignored;
  const fs::path path = entry(key);
  if (!fs::exists(path, ignored)) return std::nullopt;
  try {
    if (std::optional<std::string> payload = payload_of(read_file(path), key)) {
      fs::last_write_time(path, fs::file_time_type::clock::now(), ignored);  // used just now
      return payload;
    }
    log_warning("the cached executable {} is damaged; compiling again", path.string());
  } catch (const Error& error) {  // an answer: there is no usable entry
    log_warning("the cached executable cannot be read: {}; compiling again", error.what());
  }
  remove(key);
  return std::nullopt;
}

void ExecutableCache::store(const std::string& key, std::string_view bytes) const noexcept {
  if (folder_.empty()) return;
  try {
    fs::create_directories(folder_);
    AtomicFileWriter writer(entry(key));
    writer.write(kMagic);
    writer.write(sha256_hex(key + std::string(bytes)) + "\n");
    writer.write(bytes);
    writer.commit();
    make_room();
  } catch (const std::exception& error) {
    log_warning("the executable is not cached: {}", error.what());
  }
}

void ExecutableCache::remove(const std::string& key) const noexcept {
  std::error_code ignored;
  fs::remove(entry(key), ignored);
}

void ExecutableCache::make_room() const {
  struct Entry {
    fs::path path;
    fs::file_time_type used;
    uint64_t bytes;
  };
  std::vector<Entry> entries;
  uint64_t total = 0;
  std::error_code failed;
  for (const auto& file : fs::directory_iterator(folder_)) {
    if (file.path().extension() != ".pjrt") continue;
    const auto used = file.last_write_time(failed);
    const uint64_t bytes = failed ? 0 : file.file_size(failed);
    if (failed) continue;  // another process removed it
    entries.push_back({file.path(), used, bytes});
    total += bytes;
  }
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) { return a.used < b.used; });
  for (const Entry& oldest : entries) {
    if (total <= most_bytes_) break;
    fs::remove(oldest.path, failed);
    total -= oldest.bytes;
  }
}

fs::path cache_folder() {
  const auto variable = [](const char* name) -> std::string {
    const char* value = std::getenv(name);
    return value == nullptr ? "" : value;
  };
  if (const std::string own = variable("VERTEBRA_CACHE"); !own.empty()) return own;
  if (const std::string shared = variable("XDG_CACHE_HOME"); !shared.empty())
    return fs::path(shared) / "vertebra";
  if (const std::string home = variable("HOME"); !home.empty()) return fs::path(home) / ".cache" / "vertebra";
  return {};
}

std::string host_features() {
  std::string out;
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.empty()) break;  // the first processor says it all
    for (const char* field : {"model name", "flags", "Features", "CPU implementer", "CPU part"}) {
      if (line.starts_with(field)) out += line + "\n";
    }
  }
  return out;
}

}  // namespace vertebra::pjrt
