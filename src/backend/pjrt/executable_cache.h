// Compiled executables on disk, so that a second start does not compile. An entry's key is a hash of
// everything that the executable depends on; an entry is checked before use. Safe for several processes at
// once.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

namespace vertebra::pjrt {

class ExecutableCache {
 public:
  // An empty folder name: no cache.
  explicit ExecutableCache(std::filesystem::path folder, uint64_t most_bytes = uint64_t{4} << 30);

  // The bytes stored under the key (a hash in hexadecimal). nullopt when there are none, or when the entry is
  // damaged: then a warning names the file, which is removed.
  std::optional<std::string> load(const std::string& key) const;
  // Never throws: a cache that cannot be written is only slower. Removes the longest unused entries beyond
  // the limit.
  void store(const std::string& key, std::string_view bytes) const noexcept;
  void remove(const std::string& key) const noexcept;
  std::filesystem::path entry(const std::string& key) const { return folder_ / (key + ".pjrt"); }

 private:
  void make_room() const;
  std::filesystem::path folder_;
  uint64_t most_bytes_;
};

// VERTEBRA_CACHE, else XDG_CACHE_HOME/vertebra, else ~/.cache/vertebra; empty when none of the variables is
// set.
std::filesystem::path cache_folder();

// The processor's model and instruction sets: an executable for the host may use all of them.
std::string host_features();

}  // namespace vertebra::pjrt
