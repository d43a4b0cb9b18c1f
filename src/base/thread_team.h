// The one team of threads of the process: fork-join regions for kernels and bulk text work. It
// follows the affinity mask and the cgroup quota, spins briefly and then parks, so that a busy
// machine or a small container does not collapse it. The caller is worker 0.
#pragma once

#include <cstdint>
#include <memory>

#include "base/function_ref.h"

namespace vertebra {

// min(affinity, floor of cgroup cpu.max over all ancestors, physical cores), at least 1.
int default_thread_count();

class ThreadTeam {
 public:
  explicit ThreadTeam(int threads);
  ~ThreadTeam();
  ThreadTeam(const ThreadTeam&) = delete;
  ThreadTeam& operator=(const ThreadTeam&) = delete;

  int size() const;

  // Calls body(worker) once on every worker, 0..size()-1, and returns when all have returned. An
  // exception of any worker is rethrown here (the first by worker number). Not reentrant: a region
  // inside a region is an internal error. Allocates nothing.
  void run(FunctionRef<void(int worker)> body);

  // Calls body(index, worker) for every index in [0, count), handed out one by one. A worker begins with its
  // own share of the range, the same in every region, so that what it wrote is still in its cache; then it
  // helps. What an index computes must not depend on the worker or on the team's size. With count 1 or one
  // thread it runs inline.
  void parallel_for(int64_t count, FunctionRef<void(int64_t index, int worker)> body);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// The process's team, made at first use with `default_thread_count()` threads, or the number given
// to set_global_thread_count before that.
ThreadTeam& global_thread_team();
// Throws failed_precondition once the team exists with another size, invalid_argument outside 1..1024.
void set_global_thread_count(int threads);

}  // namespace vertebra
