// The one exception type of the program, the checks that raise it, and the abort for what no input
// can reach. Codes are the sixteen canonical status codes (they map one to one to PJRT's codes and
// to HTTP statuses). Caught in four places only: main, the HTTP handler, the engine step, the
// thread team's join.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <string_view>

namespace vertebra {

enum class Code {
  kCancelled = 1,
  kUnknown = 2,
  kInvalidArgument = 3,
  kDeadlineExceeded = 4,
  kNotFound = 5,
  kAlreadyExists = 6,
  kPermissionDenied = 7,
  kResourceExhausted = 8,
  kFailedPrecondition = 9,
  kAborted = 10,
  kOutOfRange = 11,
  kUnimplemented = 12,
  kInternal = 13,
  kUnavailable = 14,
  kDataLoss = 15,
  kUnauthenticated = 16,
};

// "invalid_argument", "not_found", ...
std::string_view code_name(Code code);

class Error : public std::runtime_error {
 public:
  Error(Code code, const std::string& message) : std::runtime_error(message), code_(code) {}
  Code code() const { return code_; }

 private:
  Code code_;
};

// Raises Error{code, formatted message}. The message names the thing, the value found, the value
// wanted and the remedy.
template <class... Args>
[[noreturn]] void fail(Code code, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(code, fmt::format(format, std::forward<Args>(args)...));
}

// For anything a user, a file or a client can cause. Formats only when the condition is false.
template <class... Args>
void require(bool condition, Code code, fmt::format_string<Args...> format, Args&&... args) {
  if (!condition) [[unlikely]] {
    throw Error(code, fmt::format(format, std::forward<Args>(args)...));
  }
}

template <class... Args>
void require(bool condition, fmt::format_string<Args...> format, Args&&... args) {
  if (!condition) [[unlikely]] {
    throw Error(Code::kInvalidArgument, fmt::format(format, std::forward<Args>(args)...));
  }
}

[[noreturn]] void check_failed(const char* file, int line, const char* condition, const char* message);

}  // namespace vertebra

// An invariant of the program itself: aborts. Must be unreachable from any input.
#define VERTEBRA_CHECK(condition, message) \
  ((condition) ? void(0) : ::vertebra::check_failed(__FILE__, __LINE__, #condition, message))
