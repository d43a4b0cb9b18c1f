// Who has which pages of the paged cache, and what later requests may take over of them: full pages are found
// again by the tokens up to their end, so that requests with the same beginning compute and keep it once.
// Layers with a window have page tables and pages of their own, one set for each width: what no later token
// sees is given back at once. Recurrent states cannot be cut, so snapshots of them are kept for some page
// borders. The engine says what is computed; the pages themselves are the device's.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "engine/page_pool.h"
#include "engine/serving_graph.h"

namespace vertebra {

// What the cache has of one request.
struct CachedText {
  std::string scope;                        // of requests that may share pages
  int slot = -1;                            // row of the page tables and of the states
  int64_t cached = 0;                       // tokens whose keys, values and states are there
  int64_t published = 0;                    // full pages that others may find
  std::vector<std::vector<int32_t>> pages;  // of each table; -1: not needed any more
  std::vector<PageKey> keys;                // of the text's full pages, as far as they were asked for
};

class KvCache {
 public:
  // `copy_state(from, to)`: on the device, row `to` of all states becomes what row `from` is. Null for a
  // model whose layers keep no states.
  using CopyState = std::function<void(int64_t from, int64_t to)>;
  KvCache(const ServingShape& shape, std::vector<int64_t> windows, bool share, CopyState copy_state = {});

  // A slot for the text, none of which is cached; false when all are taken or the pages that a text of
  // `tokens` tokens needs are not to be had.
  bool admit(CachedText& text, int64_t tokens);
  // Pages for the first `tokens` tokens; false when there are too few, and nothing has changed.
  bool reserve(CachedText& text, int64_t tokens);
  // Takes over the pages (and state) of as much of `tokens` as others have computed, the last token always
  // left out. Does something only at the end of a page.
  void adopt(CachedText& text, std::span<const int32_t> tokens);
  // After a step: offers what is complete to others, and gives back what no later token sees.
  void advance(CachedText& text, std::span<const int32_t> tokens, int64_t cached);
  void release(CachedText& text);
  // Keeps no key: for parameters that have changed.
  void forget();

  // Whether snapshots are taken, for which a step has to end at a page border.
  bool wants_borders() const { return share_ && snapshots_.size() > 0; }
  int64_t page_size() const { return shape_.page_size; }
  int64_t longest() const;  // tokens of a text that find place when there is no other

  struct Table {
    int64_t window = 0;  // of the layers that read it; 0: all
    PagePool pool;
    std::vector<int32_t> entries;  // [R, pages per request]

    // The first page that a token at `position` or later sees.
    int64_t first_page(int64_t position, int64_t page_size) const {
      return window == 0 || position < window ? 0 : (position - window + 1) / page_size;
    }
  };
  const std::vector<Table>& tables() const { return tables_; }

 private:
  void put_page(CachedText& text, size_t table, int64_t index, int32_t page);
  void extend_keys(CachedText& text, std::span<const int32_t> tokens, int64_t pages) const;
  void keep_state(const CachedText& text, const PageKey& key);
  void drop_before(CachedText& text, size_t table, int64_t first);
  bool can_adopt(const CachedText& text, int64_t pages) const;

  ServingShape shape_;
  bool share_;
  CopyState copy_state_;
  std::vector<Table> tables_;
  PagePool snapshots_;  // rows of the states behind those of slots
  std::vector<int> free_slots_;
};

}  // namespace vertebra
