// Which instruction sets the machine supports, and the tables of kernels compiled for each.
#include "backend/cpu/kernels/isa.h"

#include <atomic>
#include <string>

#include "backend/cpu/kernels/kernels.h"
#include "base/error.h"

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#endif

namespace vertebra {

#if defined(__x86_64__)
namespace baseline {
#define VERTEBRA_KERNEL_FAMILY(field, type) extern const type field##_kernels;
#include "backend/cpu/kernels/kernel_list.def"
#undef VERTEBRA_KERNEL_FAMILY
const KernelTable table = {
    Isa::kBaseline,
#define VERTEBRA_KERNEL_FAMILY(field, type) &field##_kernels,
#include "backend/cpu/kernels/kernel_list.def"
#undef VERTEBRA_KERNEL_FAMILY
};
}  // namespace baseline
namespace avx2 {
#define VERTEBRA_KERNEL_FAMILY(field, type) extern const type field##_kernels;
#include "backend/cpu/kernels/kernel_list.def"
#undef VERTEBRA_KERNEL_FAMILY
const KernelTable table = {
    Isa::kAvx2,
#define VERTEBRA_KERNEL_FAMILY(field, type) &field##_kernels,
#include "backend/cpu/kernels/kernel_list.def"
#undef VERTEBRA_KERNEL_FAMILY
};
}  // namespace avx2
namespace avx512 {
#define VERTEBRA_KERNEL_FAMILY(field, type) extern const type field##_kernels;
#include "backend/cpu/kernels/kernel_list.def"
#undef VERTEBRA_KERNEL_FAMILY
const KernelTable table = {
    Isa::kAvx512,
#define VERTEBRA_KERNEL_FAMILY(field, type) &field##_kernels,
#include "backend/cpu/kernels/kernel_list.def"
#undef VERTEBRA_KERNEL_FAMILY
};
}  // namespace avx512
namespace avx512_bf16 {
#define VERTEBRA_KERNEL_FAMILY(field, type) extern const type field##_kernels;
#include "backend/cpu/kernels/kernel_list.def"
#undef VERTEBRA_KERNEL_FAMILY
const KernelTable table = {
    Isa::kAvx512Bf16,
#define VERTEBRA_KERNEL_FAMILY(field, type) &field##_kernels,
#include "backend/cpu/kernels/kernel_list.def"
#undef VERTEBRA_KERNEL_FAMILY
};
}  // namespace avx512_bf16
#elif defined(__aarch64__)
namespace neon {
#define VERTEBRA_KERNEL_FAMILY(field, type) extern const type field##_kernels;
#include "backend/cpu/kernels/kernel_list.def"
#undef VERTEBRA_KERNEL_FAMILY
const KernelTable table = {
    Isa::kNeon,
#define VERTEBRA_KERNEL_FAMILY(field, type) &field##_kernels,
#include "backend/cpu/kernels/kernel_list.def"
#undef VERTEBRA_KERNEL_FAMILY
};
}  // namespace neon
namespace neon_bf16 {
#define VERTEBRA_KERNEL_FAMILY(field, type) extern const type field##_kernels;
#include "backend/cpu/kernels/kernel_list.def"
#undef VERTEBRA_KERNEL_FAMILY
const KernelTable table = {
    Isa::kNeonBf16,
#define VERTEBRA_KERNEL_FAMILY(field, type) &field##_kernels,
#include "backend/cpu/kernels/kernel_list.def"
#undef VERTEBRA_KERNEL_FAMILY
};
}  // namespace neon_bf16
#endif

namespace {

#if defined(__x86_64__)
constexpr Isa kCompiled[] = {Isa::kBaseline, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Bf16};

const KernelTable* table_of(Isa isa) {
  switch (isa) {
    case Isa::kBaseline:
      return &baseline::table;
    case Isa::kAvx2:
      return &avx2::table;
    case Isa::kAvx512:
      return &avx512::table;
    case Isa::kAvx512Bf16:
      return &avx512_bf16::table;
    default:
      return nullptr;
  }
}

constexpr bool has_bits(uint32_t word, uint32_t bits) { return (word & bits) == bits; }

// The register state the operating system saves (XCR0).
uint32_t saved_state() {
  uint32_t low = 0;
  uint32_t high = 0;
  asm("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

// Exactly what the -m flags of CMakeLists.txt switch on for each instruction set.
Isa detect() {
  uint32_t a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return Isa::kBaseline;
  constexpr uint32_t kPclmul = 1u << 1, kSsse3 = 1u << 9, kFma = 1u << 12, kCx16 = 1u << 13,
                     kSse41 = 1u << 19, kSse42 = 1u << 20, kMovbe = 1u << 22, kPopcnt = 1u << 23,
                     kAes = 1u << 25, kOsxsave = 1u << 27, kAvx = 1u << 28, kF16c = 1u << 29;
  if (!has_bits(c, kPclmul | kSsse3 | kFma | kCx16 | kSse41 | kSse42 | kMovbe | kPopcnt | kAes | kOsxsave |
                       kAvx | kF16c)) {
    return Isa::kBaseline;
  }
  const uint32_t saved = saved_state();
  constexpr uint32_t kYmmState = 0x6, kZmmState = 0xe6;
  if (!has_bits(saved, kYmmState)) return Isa::kBaseline;
  uint32_t ext_c = 0;
  if (!__get_cpuid(0x80000001, &a, &b, &ext_c, &d) || !has_bits(ext_c, (1u << 0) | (1u << 5))) {
    return Isa::kBaseline;  // LAHF, LZCNT
  }
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return Isa::kBaseline;
  constexpr uint32_t kBmi1 = 1u << 3, kAvx2 = 1u << 5, kBmi2 = 1u << 8;
  if (!has_bits(b, kBmi1 | kAvx2 | kBmi2)) return Isa::kBaseline;
  constexpr uint32_t kF = 1u << 16, kDq = 1u << 17, kCd = 1u << 28, kBw = 1u << 30, kVl = 1u << 31;
  if (!has_bits(b, kF | kDq | kCd | kBw | kVl) || !has_bits(saved, kZmmState)) return Isa::kAvx2;
  constexpr uint32_t kVnni = 1u << 11, kBf16 = 1u << 5;
  if (!has_bits(c, kVnni) || !__get_cpuid_count(7, 1, &a, &b, &c, &d) || !has_bits(a, kBf16))
    return Isa::kAvx512;
  return Isa::kAvx512Bf16;
}
#elif defined(__aarch64__)
constexpr Isa kCompiled[] = {Isa::kNeon, Isa::kNeonBf16};

const KernelTable* table_of(Isa isa) {
  switch (isa) {
    case Isa::kNeon:
      return &neon::table;
    case Isa::kNeonBf16:
      return &neon_bf16::table;
    default:
      return nullptr;
  }
}

Isa detect() {
  constexpr unsigned long kDotProduct = 1ul << 20, kBf16 = 1ul << 14;  // HWCAP_ASIMDDP, HWCAP2_BF16
  const bool bf16 = (getauxval(AT_HWCAP) & kDotProduct) != 0 && (getauxval(AT_HWCAP2) & kBf16) != 0;
  return bf16 ? Isa::kNeonBf16 : Isa::kNeon;
}
#endif

std::atomic<const KernelTable*> active_table{nullptr};

}  // namespace

std::string_view isa_name(Isa isa) {
  switch (isa) {
    case Isa::kBaseline:
      return "baseline";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx512Bf16:
      return "avx512_bf16";
    case Isa::kNeon:
      return "neon";
    case Isa::kNeonBf16:
      return "neon_bf16";
  }
  return "unknown";
}

std::optional<Isa> isa_from_name(std::string_view name) {
  for (const Isa isa :
       {Isa::kBaseline, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Bf16, Isa::kNeon, Isa::kNeonBf16}) {
    if (isa_name(isa) == name) return isa;
  }
  return std::nullopt;
}

Isa best_isa() {
  static const Isa best = detect();
  return best;
}

// Each set contains the ones before it.
bool isa_supported(Isa isa) { return table_of(isa) != nullptr && isa <= best_isa(); }

std::vector<Isa> supported_isas() {
  std::vector<Isa> supported;
  for (const Isa isa : kCompiled) {
    if (isa_supported(isa)) supported.push_back(isa);
  }
  return supported;
}

Isa active_isa() { return kernels().isa; }

void set_isa(Isa isa) { active_table.store(&kernels_for(isa), std::memory_order_release); }

const KernelTable& kernels() {
  const KernelTable* table = active_table.load(std::memory_order_acquire);
  if (table == nullptr) [[unlikely]] {
    table = table_of(best_isa());
    active_table.store(table, std::memory_order_release);
  }
  return *table;
}

const KernelTable& kernels_for(Isa isa) {
  if (!isa_supported(isa)) {
    std::string names;
    for (const Isa known : supported_isas())
      names += (names.empty() ? "" : ", ") + std::string(isa_name(known));
    fail(Code::kFailedPrecondition,
         "the instruction set {} is not supported here; this machine and binary support: {}", isa_name(isa),
         names);
  }
  return *table_of(isa);
}

}  // namespace vertebra
