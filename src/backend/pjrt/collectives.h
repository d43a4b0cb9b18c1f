// What devices of a mesh say to each other in a compiled graph: collective operations by kind, with bytes,
// read from the program that the vendor's compiler hands back. For plans that are to be checked, and for
// people who wonder where a step's time goes.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "backend/backend.h"

namespace vertebra::pjrt {

struct Collective {
  std::string kind;     // "all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute"
  int64_t devices = 0;  // that talk in one group; 0: the program does not say (a permutation has no groups)
  int64_t count = 0;    // operations of this kind and group size in the program; each stands there once, also
                        // when it is inside a loop
  int64_t bytes = 0;  // on one device, in all of them: the larger of what goes in and what comes out, so of a
                      // reduce-scatter the whole sum, of an all-gather the whole result

  bool operator==(const Collective&) const = default;
};

// By kind and group size, in that order. `executable` comes from a PJRT backend; a graph with bounded
// dimensions counts all combinations of sizes that have run. Throws invalid_argument for another backend's,
// unimplemented when the plugin does not tell, or not in a format that is known.
std::vector<Collective> collectives_of(const Executable& executable);

// The same from a program as plugins give it: XLA's HloModuleProto ("hlo") or HloModuleProtoWithConfig
// ("hlo_with_config"). Fields that are not known are passed over. Throws data_loss when it is cut off.
std::vector<Collective> read_collectives(std::string_view program, std::string_view format);

}  // namespace vertebra::pjrt
