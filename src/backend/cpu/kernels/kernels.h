// The table of kernels of each instruction set. Adding a family of kernels:
//  1. kernels/NAME.h: `struct NameKernels { void (*f)(const float* x, float* y, int64_t size); ... };`
//     with what each computes; raw pointers and sizes only, no includes beyond <cstdint>.
//  2. kernels/NAME.cc: includes that header and "backend/cpu/kernels/simd.h", then
//       namespace vertebra::VERTEBRA_ISA {
//       namespace { ...functions, templates... }
//       constinit extern const NameKernels name_kernels = {.f = f};
//       }
//  3. kernel_list.def: VERTEBRA_KERNEL_FAMILY(name, NameKernels). Callers: kernels().name->f(x, y, size).
// A kernel file may export nothing else: a std:: template compiled for AVX-512 could be the copy the linker
// keeps for everybody. So no std containers, algorithms or functions that might not inline (std::min,
// std::exp included; see simd.h), no exceptions, no static variables with constructors; a test reads the
// symbols. The order of a sum must depend on the shape alone, never on the worker or on neighbouring rows.
#pragma once

#include "backend/cpu/kernels/isa.h"

namespace vertebra {

#define VERTEBRA_KERNEL_FAMILY(field, type) struct type;
#include "backend/cpu/kernels/kernel_list.def"
#undef VERTEBRA_KERNEL_FAMILY

struct KernelTable {
  Isa isa;
#define VERTEBRA_KERNEL_FAMILY(field, type) const type* field;
#include "backend/cpu/kernels/kernel_list.def"
#undef VERTEBRA_KERNEL_FAMILY
};

// Of active_isa(). A load and a compare: cheap enough for every call.
const KernelTable& kernels();
// Throws failed_precondition when the machine does not support it.
const KernelTable& kernels_for(Isa isa);

}  // namespace vertebra
