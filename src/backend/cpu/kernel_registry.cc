// The table of kernel factories by op name, from kernel_list.def.
#include <algorithm>
#include <array>

#include "backend/cpu/kernel.h"

namespace vertebra::cpu {

#define VERTEBRA_CPU_KERNEL(op, factory) std::unique_ptr<Kernel> factory(const Node& node);
#include "backend/cpu/kernel_list.def"
#undef VERTEBRA_CPU_KERNEL

KernelFactory find_kernel_factory(std::string_view op) {
  struct Entry {
    std::string_view op;
    KernelFactory factory;
  };
  static constexpr Entry kEntries[] = {
#define VERTEBRA_CPU_KERNEL(op, factory) {#op, factory},
#include "backend/cpu/kernel_list.def"
#undef VERTEBRA_CPU_KERNEL
  };
  const auto* found =
      std::find_if(std::begin(kEntries), std::end(kEntries), [&](const Entry& e) { return e.op == op; });
  return found == std::end(kEntries) ? nullptr : found->factory;
}

}  // namespace vertebra::cpu
