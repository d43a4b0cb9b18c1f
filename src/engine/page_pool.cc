#include "engine/page_pool.h"

#include "base/error.h"
#include "base/sha256.h"

namespace vertebra {

PageKey next_page_key(const PageKey& before, std::span<const int32_t> tokens) {
  Sha256 hash;
  hash.update(before);
  hash.update(tokens.data(), tokens.size_bytes());
  return hash.hex();
}

PageKey first_page_key(std::string_view scope, std::span<const int32_t> tokens) {
  return next_page_key(sha256_hex(scope), tokens);
}

PagePool::PagePool(int64_t places) : places_(static_cast<size_t>(places)) {
  for (int64_t i = 0; i < places; ++i)
    at(static_cast<int32_t>(i)).idle = idle_.insert(idle_.end(), static_cast<int32_t>(i));
}

int32_t PagePool::take() {
  if (idle_.empty()) return -1;
  const int32_t place = idle_.front();
  Place& taken = at(place);
  if (!taken.key.empty()) found_.erase(taken.key);
  taken.key.clear();
  hold(place);
  return place;
}

void PagePool::hold(int32_t place) {
  if (at(place).holders++ == 0) idle_.erase(at(place).idle);
}

void PagePool::release(int32_t place) {
  VERTEBRA_CHECK(at(place).holders > 0, "a page is given back more often than it was taken");
  if (--at(place).holders > 0) return;
  // What nothing can find goes first.
  at(place).idle = idle_.insert(at(place).key.empty() ? idle_.begin() : idle_.end(), place);
}

int32_t PagePool::find(const PageKey& key) const {
  const auto it = found_.find(key);
  return it == found_.end() ? -1 : it->second;
}

void PagePool::publish(int32_t place, const PageKey& key) {
  if (at(place).key.empty() && found_.emplace(key, place).second) at(place).key = key;
}

void PagePool::forget_all() {
  found_.clear();
  for (Place& place : places_) place.key.clear();
}

}  // namespace vertebra
