#include "base/mapped_pages.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <mutex>

namespace vertebra {
namespace {

// A fault brings in the pages around it, up to this many bytes, also those given back a moment ago.
constexpr uintptr_t kFaultAround = 64 << 10;

std::mutex mutex;
std::map<uintptr_t, uintptr_t>& mappings() {  // begin to end
  static std::map<uintptr_t, uintptr_t> all;
  return all;
}

}  // namespace

void register_mapping(const void* data, size_t size_bytes) {
  const std::lock_guard lock(mutex);
  const auto begin = reinterpret_cast<uintptr_t>(data);
  mappings()[begin] = begin + size_bytes;
}

void forget_mapping(const void* data) {
  const std::lock_guard lock(mutex);
  mappings().erase(reinterpret_cast<uintptr_t>(data));
}

void give_back_pages(const void* data, size_t size_bytes) {
  const std::lock_guard lock(mutex);  // the mapping stays while its pages go
  const auto begin = reinterpret_cast<uintptr_t>(data);
  const auto after = mappings().upper_bound(begin);
  if (after == mappings().begin()) return;
  const auto [first, last] = *std::prev(after);
  if (begin + size_bytes > last) return;
  static const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t from = std::max(first, begin / kFaultAround * kFaultAround);  // `first` is a page's
  // The last page of the file may end in the middle.
  const uintptr_t to = (begin + size_bytes == last ? last + page - 1 : begin + size_bytes) / page * page;
  if (from < to) madvise(reinterpret_cast<void*>(from), to - from, MADV_DONTNEED);
}

}  // namespace vertebra
