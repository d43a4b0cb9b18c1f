// The CPU backend: compiles a graph into kernels and a memory plan. Only cli/, tests and benchmarks
// name it; everybody else holds a Backend.
#pragma once

#include <memory>
#include <optional>

#include "backend/backend.h"
#include "backend/cpu/kernels/isa.h"
#include "base/thread_team.h"

namespace vertebra {

struct CpuBackendOptions {
  ThreadTeam* team = nullptr;  // null: the process's team
  std::optional<Isa> isa =
      {};  // makes it the process's instruction set; absent: the best one, or the one set
};

// An executable runs on the caller's thread and the team; one run at a time for all executables of a team.
// Throws failed_precondition when the machine does not support the instruction set.
//
// A matrix that is an input, that no output takes over and that a linear layer reads is kept a second time, packed
// for that kernel, with its buffer, and packed anew after the buffer has been written: weights in serving are
// packed once.
//
// Beyond the interface: Buffer::copy_from also takes a tensor whose bounded dimensions (of the type the
// buffer was allocated for) are smaller than their bounds; the buffer then has that type.
std::unique_ptr<Backend> make_cpu_backend(const CpuBackendOptions& options = {});

}  // namespace vertebra
