// Elementwise primitives of the reference evaluation.
#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "backend/reference/primitives.h"

namespace vertebra::reference {
namespace {

// The primitive that applies a function to every element.
template <class F>
Primitive unary(F) {
  return [](const Call& call) {
    for (size_t i = 0; i < call.result.floats.size(); ++i)
      call.result.floats[i] = F{}(call.operand(0).floats[i]);
  };
}

using IntegerFunction = int64_t (*)(int64_t, int64_t);

template <IntegerFunction kInteger, class F>
Primitive binary(F) {
  return [](const Call& call) {
    const Array &a = call.operand(0), &b = call.operand(1);
    for (size_t i = 0; i < call.result.floats.size(); ++i)
      call.result.floats[i] = F{}(a.floats[i], b.floats[i]);
    for (size_t i = 0; i < call.result.integers.size(); ++i)
      call.result.integers[i] = wrap(call.result.dtype, kInteger(a.integers[i], b.integers[i]));
  };
}

// Unsigned inside: wrapping is defined.
int64_t add_integers(int64_t a, int64_t b) {
  return static_cast<int64_t>(static_cast<uint64_t>(a) + static_cast<uint64_t>(b));
}
int64_t subtract_integers(int64_t a, int64_t b) {
  return static_cast<int64_t>(static_cast<uint64_t>(a) - static_cast<uint64_t>(b));
}
int64_t multiply_integers(int64_t a, int64_t b) {
  return static_cast<int64_t>(static_cast<uint64_t>(a) * static_cast<uint64_t>(b));
}
int64_t divide_integers(int64_t a, int64_t b) {
  if (b == 0) return -1;
  return b == -1 ? subtract_integers(0, a) : a / b;
}
int64_t larger(int64_t a, int64_t b) { return std::max(a, b); }
int64_t smaller(int64_t a, int64_t b) { return std::min(a, b); }
int64_t both(int64_t a, int64_t b) { return a & b; }
int64_t either(int64_t a, int64_t b) { return a | b; }

void negate(const Call& call) {
  unary([](double x) { return -x; })(call);
  for (size_t i = 0; i < call.result.integers.size(); ++i)
    call.result.integers[i] = wrap(call.result.dtype, subtract_integers(0, call.operand(0).integers[i]));
}

void absolute(const Call& call) {
  unary([](double x) { return std::fabs(x); })(call);
  for (size_t i = 0; i < call.result.integers.size(); ++i) {
    const int64_t x = call.operand(0).integers[i];
    call.result.integers[i] = wrap(call.result.dtype, x < 0 ? subtract_integers(0, x) : x);
  }
}

void logical_not(const Call& call) {
  for (size_t i = 0; i < call.result.integers.size(); ++i)
    call.result.integers[i] = call.operand(0).integers[i] == 0 ? 1 : 0;
}

template <class T>
bool holds(const std::string& direction, T a, T b) {
  if (direction == "eq") return a == b;
  if (direction == "ne") return a != b;
  if (direction == "lt") return a < b;
  if (direction == "le") return a <= b;
  if (direction == "gt") return a > b;
  return a >= b;
}

void compare(const Call& call) {
  const Array &a = call.operand(0), &b = call.operand(1);
  const auto& direction = call.node.attrs.get<std::string>("direction");
  for (size_t i = 0; i < call.result.integers.size(); ++i) {
    call.result.integers[i] = a.floating() ? holds(direction, a.floats[i], b.floats[i])
                                           : holds(direction, a.integers[i], b.integers[i]);
  }
}

void select(const Call& call) {
  for (int64_t i = 0; i < call.result.elements(); ++i) {
    const bool first = call.operand(0).integers[static_cast<size_t>(i)] != 0;
    call.result.copy_element(i, call.operand(first ? 1 : 2), i);
  }
}

// Truncates; saturates; NaN gives 0.
int64_t integer_from(DType dtype, double value) {
  if (dtype == DType::kBool) return value != 0;
  if (std::isnan(value)) return 0;
  const bool is_unsigned = dtype == DType::kU8 || dtype == DType::kU32;
  const int bits = static_cast<int>(dtype_size(dtype)) * 8;
  const double limit = std::ldexp(1.0, is_unsigned ? bits : bits - 1);  // the first value too large
  if (value >= limit)
    return is_unsigned ? static_cast<int64_t>(limit) - 1
                       : static_cast<int64_t>((uint64_t{1} << (bits - 1)) - 1);
  const double least = is_unsigned ? 0 : -limit;
  return static_cast<int64_t>(std::max(value, least));
}

void convert(const Call& call) {
  const Array& a = call.operand(0);
  for (int64_t i = 0; i < call.result.elements(); ++i) {
    const auto at = static_cast<size_t>(i);
    if (call.result.floating()) {
      call.result.floats[at] = a.floating() ? a.floats[at] : static_cast<double>(a.integers[at]);
    } else {
      call.result.integers[at] = a.floating() ? integer_from(call.result.dtype, a.floats[at])
                                              : wrap(call.result.dtype, a.integers[at]);
    }
  }
}

void copy(const Call& call) {
  call.result.floats = call.operand(0).floats;
  call.result.integers = call.operand(0).integers;
}

}  // namespace

Primitive find_elementwise(std::string_view name) {
  static const std::map<std::string_view, Primitive> kTable = {
      {"add", binary<add_integers>([](double a, double b) { return a + b; })},
      {"subtract", binary<subtract_integers>([](double a, double b) { return a - b; })},
      {"multiply", binary<multiply_integers>([](double a, double b) { return a * b; })},
      {"divide", binary<divide_integers>([](double a, double b) { return a / b; })},
      // A NaN on either side gives NaN.
      {"maximum", binary<larger>([](double a, double b) { return a != a || a > b ? a : b; })},
      {"minimum", binary<smaller>([](double a, double b) { return a != a || a < b ? a : b; })},
      {"power", binary<both>([](double a, double b) { return std::pow(a, b); })},
      {"logical_and", binary<both>([](double a, double) { return a; })},
      {"logical_or", binary<either>([](double a, double) { return a; })},
      {"logical_not", logical_not},
      {"negate", negate},
      {"absolute", absolute},
      {"exponential", unary([](double x) { return std::exp(x); })},
      {"logarithm", unary([](double x) { return std::log(x); })},
      {"square_root", unary([](double x) { return std::sqrt(x); })},
      {"reciprocal_square_root", unary([](double x) { return 1 / std::sqrt(x); })},
      {"tanh", unary([](double x) { return std::tanh(x); })},
      {"logistic", unary([](double x) { return 1 / (1 + std::exp(-x)); })},
      {"erf", unary([](double x) { return std::erf(x); })},
      {"sine", unary([](double x) { return std::sin(x); })},
      {"cosine", unary([](double x) { return std::cos(x); })},
      {"floor", unary([](double x) { return std::floor(x); })},
      {"compare", compare},
      {"select", select},
      {"convert", convert},
      {"stop_gradient", copy},
      {"reshape", copy},
  };
  const auto it = kTable.find(name);
  return it == kTable.end() ? nullptr : it->second;
}

}  // namespace vertebra::reference
