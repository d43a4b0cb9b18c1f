// One elementwise op on a row of elements held as lanes (elementwise_program.h), and the ways in and out of
// lanes. f32 goes to the SIMD kernels, everything else to plain loops.
#pragma once

#include <string_view>

#include "backend/cpu/kernels/elementwise.h"
#include "tensor/dtype.h"

namespace vertebra::cpu {

// Registers hold elements of one of these; bf16 and f16 compute as f32, i8 and u8 as i32.
enum class Lane : uint8_t { kF32, kF64, kI32, kU32, kI64, kBool };
Lane lane_of(DType dtype);
size_t lane_size(Lane lane);
// Elements in memory are lanes already.
bool is_native(DType dtype);

struct RowFunction {
  using Plain = void (*)(const void* const* arguments, void* out, int64_t size);
  UnaryF32 unary = nullptr;
  BinaryF32 binary = nullptr;
  CompareF32 compare = nullptr;
  bool select_f32 = false;
  Plain plain = nullptr;
  bool is_identity = false;  // the value is its argument
  int cost = 1;              // in additions

  bool exists() const {
    return unary != nullptr || binary != nullptr || compare != nullptr || select_f32 || plain != nullptr ||
           is_identity;
  }
  // `out` may be the memory of an argument whose lanes are as wide.
  void operator()(const void* const* arguments, void* out, int64_t size) const;
};

// `from`: the element type of the last operand; `detail`: compare's direction. Nothing that exists() if there
// is no such function.
RowFunction find_row_function(std::string_view op, std::string_view detail, DType from, DType to);

void widen_row(DType dtype, const void* from, void* to, int64_t size);   // memory -> lanes
void fill_row(DType dtype, const void* from, void* to, int64_t size);    // one element of memory -> lanes
void narrow_row(DType dtype, const void* from, void* to, int64_t size);  // lanes -> memory

}  // namespace vertebra::cpu
