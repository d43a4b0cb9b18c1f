#include "backend/cpu/ops/elementwise_rows.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "backend/cpu/kernels/convert.h"
#include "backend/cpu/kernels/kernels.h"

namespace vertebra::cpu {
namespace {

constexpr int kTranscendentalCost = 8, kScalarCost = 40;

// ---- Plain loops over any lane type --------------------------------------------------------------------

template <class T, class F>
void map1(const void* const* arguments, void* out, int64_t size, F f) {
  const T* a = static_cast<const T*>(arguments[0]);
  T* y = static_cast<T*>(out);
  for (int64_t i = 0; i < size; ++i) y[i] = f(a[i]);
}
template <class T, class R, class F>
void map2(const void* const* arguments, void* out, int64_t size, F f) {
  const T* a = static_cast<const T*>(arguments[0]);
  const T* b = static_cast<const T*>(arguments[1]);
  R* y = static_cast<R*>(out);
  for (int64_t i = 0; i < size; ++i) y[i] = f(a[i], b[i]);
}

#define VERTEBRA_ROW1(expression)                                         \
  [](const void* const* arguments, void* out, int64_t size) {             \
    map1<T>(arguments, out, size, [](T a) -> T { return (expression); }); \
  }
#define VERTEBRA_ROW2(expression)                                                 \
  [](const void* const* arguments, void* out, int64_t size) {                     \
    map2<T, T>(arguments, out, size, [](T a, T b) -> T { return (expression); }); \
  }
#define VERTEBRA_ROW_COMPARE(expression)                                                      \
  [](const void* const* arguments, void* out, int64_t size) {                                 \
    map2<T, uint8_t>(arguments, out, size, [](T a, T b) -> uint8_t { return (expression); }); \
  }

// Integers wrap around: arithmetic runs on the unsigned type.
template <class T>
T wrap_add(T a, T b) {
  if constexpr (std::is_integral_v<T>) {
    using U = std::make_unsigned_t<T>;
    return static_cast<T>(static_cast<U>(a) + static_cast<U>(b));
  } else {
    return a + b;
  }
}
template <class T>
T wrap_subtract(T a, T b) {
  if constexpr (std::is_integral_v<T>) {
    using U = std::make_unsigned_t<T>;
    return static_cast<T>(static_cast<U>(a) - static_cast<U>(b));
  } else {
    return a - b;
  }
}
template <class T>
T wrap_multiply(T a, T b) {
  if constexpr (std::is_integral_v<T>) {
    using U = std::make_unsigned_t<T>;
    return static_cast<T>(static_cast<U>(a) * static_cast<U>(b));
  } else {
    return a * b;
  }
}
// By zero: all bits set; the smallest by -1: itself. As XLA does.
template <class T>
T defined_divide(T a, T b) {
  if constexpr (std::is_integral_v<T>) {
    if (b == 0) return static_cast<T>(-1);
    if constexpr (std::is_signed_v<T>) {
      if (b == -1) return wrap_subtract<T>(0, a);
    }
  }
  return a / b;
}

template <class T>
RowFunction::Plain find_arithmetic(std::string_view op) {
  if (op == "add") return VERTEBRA_ROW2(wrap_add(a, b));
  if (op == "subtract") return VERTEBRA_ROW2(wrap_subtract(a, b));
  if (op == "multiply") return VERTEBRA_ROW2(wrap_multiply(a, b));
  if (op == "divide") return VERTEBRA_ROW2(defined_divide(a, b));
  if (op == "maximum") return VERTEBRA_ROW2(a != a ? a : b != b ? b : a < b ? b : a);
  if (op == "minimum") return VERTEBRA_ROW2(a != a ? a : b != b ? b : b < a ? b : a);
  if (op == "negate") return VERTEBRA_ROW1(wrap_subtract(T{}, a));
  if (op == "absolute") return VERTEBRA_ROW1(a < T{} ? wrap_subtract(T{}, a) : a);
  return nullptr;
}

// What f32 has no SIMD kernel for, and all of f64.
template <class T>
RowFunction::Plain find_real(std::string_view op) {
  if (op == "negate") return VERTEBRA_ROW1(-a);
  if (op == "absolute") return VERTEBRA_ROW1(std::fabs(a));
  if (op == "exponential") return VERTEBRA_ROW1(std::exp(a));
  if (op == "logarithm") return VERTEBRA_ROW1(std::log(a));
  if (op == "square_root") return VERTEBRA_ROW1(std::sqrt(a));
  if (op == "reciprocal_square_root") return VERTEBRA_ROW1(1 / std::sqrt(a));
  if (op == "tanh") return VERTEBRA_ROW1(std::tanh(a));
  if (op == "logistic") return VERTEBRA_ROW1(1 / (1 + std::exp(-a)));
  if (op == "erf") return VERTEBRA_ROW1(std::erf(a));
  if (op == "sine") return VERTEBRA_ROW1(std::sin(a));
  if (op == "cosine") return VERTEBRA_ROW1(std::cos(a));
  if (op == "floor") return VERTEBRA_ROW1(std::floor(a));
  if (op == "power") return VERTEBRA_ROW2(std::pow(a, b));
  return nullptr;
}

template <class T>
RowFunction::Plain find_compare(std::string_view direction) {
  if (direction == "eq") return VERTEBRA_ROW_COMPARE(a == b);
  if (direction == "ne") return VERTEBRA_ROW_COMPARE(a != b);
  if (direction == "lt") return VERTEBRA_ROW_COMPARE(a < b);
  if (direction == "le") return VERTEBRA_ROW_COMPARE(a <= b);
  if (direction == "gt") return VERTEBRA_ROW_COMPARE(a > b);
  if (direction == "ge") return VERTEBRA_ROW_COMPARE(a >= b);
  return nullptr;
}

template <class T>
void select_row(const void* const* arguments, void* out, int64_t size) {
  const auto* condition = static_cast<const uint8_t*>(arguments[0]);
  const T* a = static_cast<const T*>(arguments[1]);
  const T* b = static_cast<const T*>(arguments[2]);
  T* y = static_cast<T*>(out);
  for (int64_t i = 0; i < size; ++i) y[i] = condition[i] != 0 ? a[i] : b[i];
}

// Truncates and saturates to M, kept in lanes of L; NaN gives 0.
template <class M, class L, class F>
L convert_one(F value) {
  if constexpr (std::is_same_v<M, bool>) {
    return value != F{} ? 1 : 0;
  } else if constexpr (std::is_floating_point_v<F> && std::is_integral_v<M>) {
    if (value != value) return 0;
    constexpr auto low = std::numeric_limits<M>::min(), high = std::numeric_limits<M>::max();
    if (value <= static_cast<F>(low)) return static_cast<L>(low);
    if (value >= static_cast<F>(high)) return static_cast<L>(high);
    return static_cast<L>(static_cast<M>(value));
  } else {
    return static_cast<L>(static_cast<M>(value));
  }
}

template <class F, class M, class L>
void convert_row(const void* const* arguments, void* out, int64_t size) {
  const F* a = static_cast<const F*>(arguments[0]);
  L* y = static_cast<L*>(out);
  for (int64_t i = 0; i < size; ++i) y[i] = convert_one<M, L>(a[i]);
}

// To bf16 and f16, which stay in f32 lanes: rounded to their precision.
template <class F, bool bf16>
void round_row(const void* const* arguments, void* out, int64_t size) {
  const F* a = static_cast<const F*>(arguments[0]);
  float* y = static_cast<float*>(out);
  for (int64_t i = 0; i < size; ++i) {
    const auto value = static_cast<float>(a[i]);
    y[i] = bf16 ? bf16_to_float(float_to_bf16(value)) : f16_to_float(float_to_f16(value));
  }
}

template <class F>
RowFunction::Plain find_convert_from(DType to) {
  switch (to) {
    case DType::kF32:
      return convert_row<F, float, float>;
    case DType::kBF16:
      return round_row<F, true>;
    case DType::kF16:
      return round_row<F, false>;
    case DType::kF64:
      return convert_row<F, double, double>;
    case DType::kI64:
      return convert_row<F, int64_t, int64_t>;
    case DType::kI32:
      return convert_row<F, int32_t, int32_t>;
    case DType::kU32:
      return convert_row<F, uint32_t, uint32_t>;
    case DType::kI8:
      return convert_row<F, int8_t, int32_t>;
    case DType::kU8:
      return convert_row<F, uint8_t, int32_t>;
    case DType::kBool:
      return convert_row<F, bool, uint8_t>;
    default:
      return nullptr;
  }
}

// Calls f with a value of the lane's C++ type.
template <class F>
auto with_lane(Lane lane, F f) {
  switch (lane) {
    case Lane::kF32:
      return f(float{});
    case Lane::kF64:
      return f(double{});
    case Lane::kI32:
      return f(int32_t{});
    case Lane::kU32:
      return f(uint32_t{});
    case Lane::kI64:
      return f(int64_t{});
    case Lane::kBool:
      break;
  }
  return f(uint8_t{});
}

RowFunction find_convert(DType from, DType to) {
  RowFunction found;
  if (from == to || (to == DType::kF32 && lane_of(from) == Lane::kF32)) {
    found.is_identity = true;
  } else {
    found.plain = with_lane(lane_of(from), []<class T>(T) { return &find_convert_from<T>; })(to);
  }
  return found;
}

RowFunction find_logical(std::string_view op) {
  using T = uint8_t;
  RowFunction found;
  if (op == "logical_and") found.plain = VERTEBRA_ROW2(static_cast<T>(a & b));
  if (op == "logical_or") found.plain = VERTEBRA_ROW2(static_cast<T>(a | b));
  if (op == "logical_not") found.plain = VERTEBRA_ROW1(static_cast<T>(a ^ 1));
  return found;
}

RowFunction find_f32(std::string_view op, std::string_view detail) {
  const ElementwiseKernels& simd = *kernels().elementwise;
  struct Unary {
    std::string_view op;
    UnaryF32 function;
    int cost;
  };
  const Unary unaries[] = {{"negate", simd.negate, 1},
                           {"exponential", simd.exponential, kTranscendentalCost},
                           {"logarithm", simd.logarithm, kTranscendentalCost},
                           {"square_root", simd.square_root, 2},
                           {"reciprocal_square_root", simd.reciprocal_square_root, 4},
                           {"tanh", simd.tanh, kTranscendentalCost},
                           {"logistic", simd.logistic, kTranscendentalCost},
                           {"erf", simd.erf, kTranscendentalCost},
                           {"absolute", simd.absolute, 1},
                           {"floor", simd.floor, 1}};
  const std::pair<std::string_view, BinaryF32> binaries[] = {
      {"add", simd.add},       {"subtract", simd.subtract}, {"multiply", simd.multiply},
      {"divide", simd.divide}, {"maximum", simd.maximum},   {"minimum", simd.minimum}};
  const std::pair<std::string_view, CompareF32> comparisons[] = {
      {"eq", simd.equal},      {"ne", simd.not_equal}, {"lt", simd.less},
      {"le", simd.less_equal}, {"gt", simd.greater},   {"ge", simd.greater_equal}};
  RowFunction found;
  for (const Unary& u : unaries) {
    if (u.op == op) found.unary = u.function, found.cost = u.cost;
  }
  for (const auto& [name, function] : binaries) {
    if (name == op) found.binary = function;
  }
  for (const auto& [name, function] : comparisons) {
    if (op == "compare" && name == detail) found.compare = function;
  }
  found.select_f32 = op == "select";
  if (!found.exists()) {
    found.plain = find_real<float>(op);
    found.cost = kScalarCost;
  }
  return found;
}

template <class T>
RowFunction find_plain(std::string_view op, std::string_view detail) {
  RowFunction found;
  if (op == "compare") {
    found.plain = find_compare<T>(detail);
  } else if (op == "select") {
    found.plain = select_row<T>;
  } else if constexpr (!std::is_same_v<T, uint8_t>) {
    if constexpr (std::is_floating_point_v<T>) {
      found.plain = find_real<T>(op);
      found.cost = kScalarCost;
    }
    if (found.plain == nullptr) found.plain = find_arithmetic<T>(op);
  }
  return found;
}

template <class M, class L>
void copy_lanes(const void* from, void* to, int64_t size) {
  const M* a = static_cast<const M*>(from);
  L* y = static_cast<L*>(to);
  for (int64_t i = 0; i < size; ++i) y[i] = static_cast<L>(a[i]);
}

}  // namespace

Lane lane_of(DType dtype) {
  switch (dtype) {
    case DType::kF32:
    case DType::kBF16:
    case DType::kF16:
      return Lane::kF32;
    case DType::kF64:
      return Lane::kF64;
    case DType::kI64:
      return Lane::kI64;
    case DType::kU32:
      return Lane::kU32;
    case DType::kBool:
      return Lane::kBool;
    default:
      return Lane::kI32;
  }
}

size_t lane_size(Lane lane) {
  return lane == Lane::kBool ? 1 : lane == Lane::kF64 || lane == Lane::kI64 ? 8 : 4;
}

bool is_native(DType dtype) { return lane_size(lane_of(dtype)) == dtype_size(dtype); }

void RowFunction::operator()(const void* const* arguments, void* out, int64_t size) const {
  const auto* a = static_cast<const float*>(arguments[0]);
  if (binary != nullptr) {
    binary(a, static_cast<const float*>(arguments[1]), static_cast<float*>(out), size);
  } else if (unary != nullptr) {
    unary(a, static_cast<float*>(out), size);
  } else if (compare != nullptr) {
    compare(a, static_cast<const float*>(arguments[1]), static_cast<uint8_t*>(out), size);
  } else if (select_f32) {
    kernels().elementwise->select(static_cast<const uint8_t*>(arguments[0]),
                                  static_cast<const float*>(arguments[1]),
                                  static_cast<const float*>(arguments[2]), static_cast<float*>(out), size);
  } else {
    plain(arguments, out, size);
  }
}

RowFunction find_row_function(std::string_view op, std::string_view detail, DType from, DType to) {
  if (op == "convert") return find_convert(from, to);
  const Lane lane = lane_of(from);
  if (lane == Lane::kBool && op.starts_with("logical_")) return find_logical(op);
  if (lane == Lane::kF32) return find_f32(op, detail);
  return with_lane(lane, [&]<class T>(T) { return find_plain<T>(op, detail); });
}

void widen_row(DType dtype, const void* from, void* to, int64_t size) {
  switch (dtype) {
    case DType::kBF16:
      return kernels().convert->bf16_to_f32(static_cast<const uint16_t*>(from), static_cast<float*>(to),
                                            size);
    case DType::kF16:
      for (int64_t i = 0; i < size; ++i)
        static_cast<float*>(to)[i] = f16_to_float(static_cast<const uint16_t*>(from)[i]);
      return;
    case DType::kI8:
      return copy_lanes<int8_t, int32_t>(from, to, size);
    case DType::kU8:
      return copy_lanes<uint8_t, int32_t>(from, to, size);
    default:
      std::memcpy(to, from, static_cast<size_t>(size) * dtype_size(dtype));
  }
}

void fill_row(DType dtype, const void* from, void* to, int64_t size) {
  widen_row(dtype, from, to, std::min<int64_t>(size, 1));
  with_lane(lane_of(dtype),
            [&]<class T>(T) { std::fill_n(static_cast<T*>(to), size, *static_cast<const T*>(to)); });
}

void narrow_row(DType dtype, const void* from, void* to, int64_t size) {
  switch (dtype) {
    case DType::kBF16:
      return kernels().convert->f32_to_bf16(static_cast<const float*>(from), static_cast<uint16_t*>(to),
                                            size);
    case DType::kF16:
      for (int64_t i = 0; i < size; ++i)
        static_cast<uint16_t*>(to)[i] = float_to_f16(static_cast<const float*>(from)[i]);
      return;
    case DType::kI8:
    case DType::kU8:
      return copy_lanes<int32_t, uint8_t>(from, to, size);
    default:
      std::memcpy(to, from, static_cast<size_t>(size) * dtype_size(dtype));
  }
}

}  // namespace vertebra::cpu
