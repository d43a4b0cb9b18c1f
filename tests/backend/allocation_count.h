// How often the test program has called operator new, on any thread. For tests of steady states.
#pragma once

#include <cstdint>

namespace vertebra {
int64_t allocation_count();
}  // namespace vertebra
