// SIGINT and SIGTERM as a flag that long work polls between steps: it then saves its state and
// throws Interrupted (exit code 130). A second signal ends the process at once.
#pragma once

#include <string>

#include "base/error.h"

namespace vertebra {

class Interrupted : public Error {
 public:
  explicit Interrupted(const std::string& message) : Error(Code::kCancelled, message) {}
};

void install_interrupt_handler();
bool interrupt_requested();
// For tests and for a chat that cancels one answer.
void set_interrupt_requested(bool requested);

}  // namespace vertebra
