// The instruction sets the kernels are compiled for, and which of them this process uses. One binary carries
// all of its architecture's; the best the machine (and its operating system) supports is chosen at first use,
// or the one named by --isa.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace vertebra {

enum class Isa : uint8_t {
  kBaseline,    // x86-64: SSE2
  kAvx2,        // AVX2, FMA, F16C
  kAvx512,      // AVX-512 F, BW, CD, DQ, VL
  kAvx512Bf16,  // and BF16, VNNI
  kNeon,        // Armv8-A
  kNeonBf16,    // and BF16, dot products
};

// "baseline", "avx2", "avx512", "avx512_bf16", "neon", "neon_bf16".
std::string_view isa_name(Isa isa);
std::optional<Isa> isa_from_name(std::string_view name);

// Compiled into this binary, and supported by the processor and the operating system.
bool isa_supported(Isa isa);
// In ascending order; never empty.
std::vector<Isa> supported_isas();
Isa best_isa();

// The one in use: best_isa() unless set_isa named another. set_isa is called once at start, before any kernel
// runs; throws failed_precondition when the machine does not support it.
Isa active_isa();
void set_isa(Isa isa);

}  // namespace vertebra
