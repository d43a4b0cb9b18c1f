// How often each distinct piece occurs in a text: the input of the BPE trainer. One table per worker,
// added up at the end; what comes out does not depend on who counted what.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/function_ref.h"
#include "base/thread_team.h"
#include "text/normalizer.h"
#include "text/pretokenizer.h"

namespace vertebra {

class WordCounts {
 public:
  struct Word {
    std::string_view bytes;
    int64_t count;
  };

  WordCounts();
  void add(std::string_view word, int64_t count);
  void add_all(const WordCounts& other);
  // Sorted by bytes; views into this table.
  std::vector<Word> sorted() const;

 private:
  struct Slot {
    uint64_t hash = 0;
    uint64_t offset = 0;
    uint32_t size = 0;  // 0: free (no word is empty)
    int64_t count = 0;
  };
  void insert(uint64_t hash, std::string_view word, int64_t count);
  void grow();
  std::vector<Slot> slots_;
  size_t used_ = 0;
  std::string arena_;
};

// Counts the pieces of all documents.
WordCounts count_words(FunctionRef<std::optional<std::string_view>()> next, const Normalizer& normalizer,
                       const Pretokenizer& pretokenizer, ThreadTeam& threads);

}  // namespace vertebra
