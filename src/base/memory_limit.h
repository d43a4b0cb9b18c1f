// How much memory this process may still take: of the machine and of the control groups it runs in. For
// errors before a load that cannot end well.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

namespace vertebra {

// Bytes; none where the system does not tell. What caches of files hold counts as free. The least of the
// machine's MemAvailable and, for cgroup v2, memory.max less what is used, over all ancestors.
std::optional<uint64_t> available_memory_bytes();

// The same with other roots than /proc and /sys/fs/cgroup, for tests.
std::optional<uint64_t> available_memory_bytes(const std::filesystem::path& proc,
                                               const std::filesystem::path& cgroups);

}  // namespace vertebra
