// Buffers by name, and executables bound to them: what trainer and engine keep between steps. A graph's
// inputs and outputs find their buffers by name once; a step is then one call that allocates nothing.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "backend/backend.h"

namespace vertebra {

class BufferSet {
 public:
  // Puts a buffer under a name, replacing what was there (bound executables then hold a dead pointer: bind
  // after).
  Buffer& set(std::string name, std::unique_ptr<Buffer> buffer);
  bool has(std::string_view name) const { return find(name) != nullptr; }
  Buffer* find(std::string_view name) const;  // null when absent
  Buffer& at(std::string_view name) const;    // throws not_found
  const std::map<std::string, std::unique_ptr<Buffer>, std::less<>>& all() const { return buffers_; }

 private:
  std::map<std::string, std::unique_ptr<Buffer>, std::less<>> buffers_;
};

class BoundExecutable {
 public:
  // Compiles the graph and binds it: inputs to the buffers of their names in `buffers`, else in `shared` (a
  // model's parameters, used by several executables); missing ones are allocated in `buffers`, uninitialised.
  // Donated outputs go to the input they take over, other outputs to buffers of their names. The sets and the
  // backend must outlive this.
  BoundExecutable(Backend& backend, const Graph& graph, BufferSet& buffers,
                  const BufferSet* shared = nullptr);
  void run() { executable_->run(inputs_, outputs_); }
  const Executable& executable() const { return *executable_; }

 private:
  std::unique_ptr<Executable> executable_;
  std::vector<Buffer*> inputs_, outputs_;
};

}  // namespace vertebra
