#include "engine/kv_cache.h"

#include <algorithm>

#include "base/error.h"

namespace vertebra {
namespace {

int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

KvCache::KvCache(const ServingShape& shape, std::vector<int64_t> windows, bool share, CopyState copy_state)
    : shape_(shape),
      share_(share),
      copy_state_(std::move(copy_state)),
      snapshots_(copy_state_ == nullptr ? 0 : shape.state_snapshots) {
  for (const int64_t window : windows)
    tables_.push_back(
        {window, PagePool(shape.pages_for(window)),
         std::vector<int32_t>(static_cast<size_t>(shape.requests * shape.pages_per_request), -1)});
  for (int64_t i = shape.requests; i-- > 0;) free_slots_.push_back(static_cast<int>(i));
}

int64_t KvCache::longest() const {
  int64_t pages = shape_.pages_per_request;
  for (const Table& table : tables_)
    if (table.window == 0) pages = std::min(pages, table.pool.size());
  return std::min(pages * shape_.page_size, shape_.context_length);
}

bool KvCache::admit(CachedText& text, int64_t tokens) {
  if (free_slots_.empty()) return false;
  // Pages that others hold and that could be taken over count as missing: a text waits rather than make
  // others give theirs back. When there is no other, everything is available.
  for (const Table& table : tables_) {
    const int64_t needed = std::min(ceil_divide(tokens, shape_.page_size), shape_.most_pages(table.window));
    if (std::min(needed, table.pool.size()) > table.pool.available()) return false;
  }
  text.slot = free_slots_.back();
  free_slots_.pop_back();
  text.pages.assign(tables_.size(), {});
  text.cached = text.published = 0;
  return true;
}

void KvCache::put_page(CachedText& text, size_t table, int64_t index, int32_t page) {
  auto& pages = text.pages[table];
  if (static_cast<int64_t>(pages.size()) <= index) pages.resize(static_cast<size_t>(index) + 1, -1);
  pages[static_cast<size_t>(index)] = page;
  tables_[table].entries[static_cast<size_t>(text.slot * shape_.pages_per_request + index)] = page;
}

bool KvCache::reserve(CachedText& text, int64_t tokens) {
  const int64_t wanted = ceil_divide(tokens, shape_.page_size);
  for (size_t t = 0; t < tables_.size(); ++t) {
    if (wanted - static_cast<int64_t>(text.pages[t].size()) > tables_[t].pool.available()) return false;
  }
  for (size_t t = 0; t < tables_.size(); ++t) {
    for (auto i = static_cast<int64_t>(text.pages[t].size()); i < wanted; ++i)
      put_page(text, t, i, tables_[t].pool.take());
  }
  return true;
}

void KvCache::extend_keys(CachedText& text, std::span<const int32_t> tokens, int64_t pages) const {
  const auto size = static_cast<size_t>(shape_.page_size);
  while (static_cast<int64_t>(text.keys.size()) < pages) {
    const auto page = tokens.subspan(text.keys.size() * size, size);
    text.keys.push_back(text.keys.empty() ? first_page_key(text.scope, page)
                                          : next_page_key(text.keys.back(), page));
  }
}

// Whether everything that a token after the first `pages` pages sees, and the text does not hold, is found.
bool KvCache::can_adopt(const CachedText& text, int64_t pages) const {
  const int64_t size = shape_.page_size, held = text.cached / size;
  if (copy_state_ != nullptr && snapshots_.find(text.keys[static_cast<size_t>(pages) - 1]) < 0) return false;
  for (const Table& table : tables_) {
    for (int64_t i = std::max(held, table.first_page(pages * size, size)); i < pages; ++i)
      if (table.pool.find(text.keys[static_cast<size_t>(i)]) < 0) return false;
  }
  return true;
}

void KvCache::adopt(CachedText& text, std::span<const int32_t> tokens) {
  const int64_t size = shape_.page_size, held = text.cached / size;
  // A page that was begun, or more pages than these, are the text's own.
  if (!share_ || text.cached % size != 0) return;
  for (const auto& pages : text.pages)
    if (static_cast<int64_t>(pages.size()) > held) return;
  int64_t most = (static_cast<int64_t>(tokens.size()) - 1) / size;
  if (most <= held) return;
  extend_keys(text, tokens, most);
  // A table without a window ends the search at its first gap.
  for (const Table& table : tables_) {
    if (table.window != 0) continue;
    int64_t found = held;
    while (found < most && table.pool.find(text.keys[static_cast<size_t>(found)]) >= 0) ++found;
    most = found;
  }
  while (most > held && !can_adopt(text, most)) --most;
  if (most <= held) return;
  for (size_t t = 0; t < tables_.size(); ++t) {
    Table& table = tables_[t];
    const int64_t first = std::max(held, table.first_page(most * size, size));
    drop_before(text, t, std::min(held, table.first_page(most * size, size)));
    for (int64_t i = held; i < first; ++i) put_page(text, t, i, -1);
    for (int64_t i = first; i < most; ++i) {
      const int32_t page = table.pool.find(text.keys[static_cast<size_t>(i)]);
      table.pool.hold(page);
      put_page(text, t, i, page);
    }
  }
  if (copy_state_ != nullptr) {
    const int32_t snapshot = snapshots_.find(text.keys[static_cast<size_t>(most) - 1]);
    snapshots_.hold(snapshot);  // and given back: used last
    snapshots_.release(snapshot);
    copy_state_(shape_.requests + snapshot, text.slot);
  }
  text.cached = most * size;
  text.published = most;
}

void KvCache::advance(CachedText& text, std::span<const int32_t> tokens, int64_t cached) {
  const int64_t size = shape_.page_size, full = cached / size;
  text.cached = cached;
  if (share_ && full > text.published) {
    extend_keys(text, tokens, full);
    for (; text.published < full; ++text.published) {
      const auto i = static_cast<size_t>(text.published);
      for (size_t t = 0; t < tables_.size(); ++t) tables_[t].pool.publish(text.pages[t][i], text.keys[i]);
    }
    if (copy_state_ != nullptr && cached % size == 0)
      keep_state(text, text.keys[static_cast<size_t>(full) - 1]);
  }
  for (size_t t = 0; t < tables_.size(); ++t) drop_before(text, t, tables_[t].first_page(cached, size));
}

void KvCache::keep_state(const CachedText& text, const PageKey& key) {
  if (snapshots_.find(key) >= 0) return;
  const int32_t snapshot = snapshots_.take();
  if (snapshot < 0) return;
  copy_state_(text.slot, shape_.requests + snapshot);
  snapshots_.publish(snapshot, key);
  snapshots_.release(snapshot);
}

void KvCache::drop_before(CachedText& text, size_t table, int64_t first) {
  for (int64_t i = first; i-- > 0 && text.pages[table][static_cast<size_t>(i)] >= 0;) {
    tables_[table].pool.release(text.pages[table][static_cast<size_t>(i)]);
    put_page(text, table, i, -1);
  }
}

void KvCache::release(CachedText& text) {
  // The end of a text first: it will be taken first, as without its beginning nobody finds it.
  for (size_t t = 0; t < tables_.size(); ++t) {
    for (auto i = static_cast<int64_t>(text.pages[t].size()); i-- > 0;) {
      if (const int32_t page = text.pages[t][static_cast<size_t>(i)]; page >= 0)
        tables_[t].pool.release(page);
      put_page(text, t, i, -1);
    }
  }
  text.pages.clear();
  free_slots_.push_back(text.slot);
  text.slot = -1;
  text.cached = text.published = 0;
}

void KvCache::forget() {
  for (Table& table : tables_) table.pool.forget_all();
  snapshots_.forget_all();
}

}  // namespace vertebra
