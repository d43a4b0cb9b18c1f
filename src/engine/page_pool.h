// Numbered places that requests share and that remember what they hold: pages of keys and values, and
// snapshots of recurrent states. A place is held by any number of requests; one that nobody holds any more
// still answers to its key until it is needed, the one not used for longest first. Called by KvCache.
#pragma once

#include <cstdint>
#include <list>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace vertebra {

// Names a text from its first token to the end of a page: SHA-256 over scope and tokens, page by page, so
// that no two texts share a place by accident or by intent.
using PageKey = std::string;
PageKey first_page_key(std::string_view scope, std::span<const int32_t> tokens);
PageKey next_page_key(const PageKey& before, std::span<const int32_t> tokens);

class PagePool {
 public:
  explicit PagePool(int64_t places);

  // A place for one holder, its old content forgotten; -1: all are held.
  int32_t take();
  void hold(int32_t place);
  void release(int32_t place);

  // The place found under the key, or -1. It may be held by nobody.
  int32_t find(const PageKey& key) const;
  // What the place holds from now on, until nobody holds it and it is taken anew. A key that another place
  // has already stays there.
  void publish(int32_t place, const PageKey& key);
  void forget_all();  // every key

  int64_t available() const { return static_cast<int64_t>(idle_.size()); }  // places that nobody holds
  int64_t size() const { return static_cast<int64_t>(places_.size()); }

 private:
  struct Place {
    int32_t holders = 0;
    PageKey key;                        // empty: holds nothing known
    std::list<int32_t>::iterator idle;  // where it waits, when nobody holds it
  };
  Place& at(int32_t place) { return places_[static_cast<size_t>(place)]; }

  std::vector<Place> places_;
  std::list<int32_t> idle_;  // in the order they will be taken
  std::unordered_map<PageKey, int32_t> found_;
};

}  // namespace vertebra
