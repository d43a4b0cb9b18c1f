#include "base/memory_limit.h"

#include <algorithm>
#include <fstream>
#include <string>

namespace vertebra {
namespace {

namespace fs = std::filesystem;

// The number behind `name` in a file of lines "NAME NUMBER ...".
std::optional<uint64_t> number_of(const fs::path& path, const std::string& name) {
  std::ifstream file(path);
  uint64_t value = 0;
  for (std::string line; std::getline(file, line);) {
    if (line.size() <= name.size() || !line.starts_with(name) || line[name.size()] != ' ') continue;
    const size_t digit = line.find_first_of("0123456789", name.size());
    if (digit == std::string::npos) return std::nullopt;
    for (size_t i = digit; i < line.size() && line[i] >= '0' && line[i] <= '9'; ++i)
      value = value * 10 + static_cast<uint64_t>(line[i] - '0');
    return value;
  }
  return std::nullopt;
}

std::optional<uint64_t> whole_number(const fs::path& path) {
  std::ifstream file(path);
  uint64_t value = 0;
  if (file >> value) return value;
  return std::nullopt;  // "max", or no such file
}

}  // namespace

std::optional<uint64_t> available_memory_bytes(const fs::path& proc, const fs::path& cgroups) {
  std::optional<uint64_t> least;
  const auto take = [&](uint64_t bytes) { least = std::min(bytes, least.value_or(bytes)); };
  if (const auto kilobytes = number_of(proc / "meminfo", "MemAvailable:")) take(*kilobytes << 10);
  std::ifstream self(proc / "self/cgroup");
  for (std::string line; std::getline(self, line);) {
    if (!line.starts_with("0::")) continue;
    for (fs::path folder = cgroups / fs::path(line.substr(3)).relative_path();;
         folder = folder.parent_path()) {
      const auto most = whole_number(folder / "memory.max"), used = whole_number(folder / "memory.current");
      if (most && used) {
        const fs::path stat = folder / "memory.stat";  // where files of tmpfs count as cached
        const uint64_t file = number_of(stat, "file").value_or(0),
                       shared = number_of(stat, "shmem").value_or(0);
        const uint64_t cached = std::min(*used, file - std::min(file, shared));
        take(*most - std::min(*most, *used - cached));
      }
      if (folder == cgroups || folder == folder.root_path()) break;
    }
  }
  return least;
}

std::optional<uint64_t> available_memory_bytes() { return available_memory_bytes("/proc", "/sys/fs/cgroup"); }

}  // namespace vertebra
