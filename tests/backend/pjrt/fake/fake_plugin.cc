// A library that misbehaves in the ways real plugins do when their chip is missing; what it does is chosen by
// VERTEBRA_FAKE_PLUGIN. Loaded by plugin_test.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>

#include "backend/pjrt/pjrt_structs.h"

namespace {

using vertebra::pjrt::Api;

constexpr int kSlots = 100;
struct Table {
  Api api;
  void* functions[kSlots];
};
Table table;

void* initialize(void*) {
  const char* mode = std::getenv("VERTEBRA_FAKE_PLUGIN");
  const char* wanted = mode == nullptr ? "" : mode;
  if (std::strcmp(wanted, "abort") == 0) {
    std::fprintf(stderr, "Check failed: there is no chip\n");
    std::abort();
  }
  if (std::strcmp(wanted, "hang") == 0) {
    while (true) sleep(1);
  }
  if (std::strcmp(wanted, "exit") == 0) _exit(7);
  return nullptr;
}

// Where plugins look for their devices.
void* create_client(void*) {
  const char* mode = std::getenv("VERTEBRA_FAKE_PLUGIN");
  const char* wanted = mode == nullptr ? "" : mode;
  if (std::strcmp(wanted, "hang later") == 0) {
    while (true) sleep(1);
  }
  if (std::strcmp(wanted, "throw") == 0)
    throw std::runtime_error("no chips:\n  none\nbacktrace:\n --- [0x1]\n");
  return nullptr;
}

void* nothing(void*) { return nullptr; }

}  // namespace

extern "C" const Api* GetPjrtApi() {
  const char* mode = std::getenv("VERTEBRA_FAKE_PLUGIN");
  const char* wanted = mode == nullptr ? "" : mode;
  table.api.header.struct_size = sizeof(Table);
  table.api.version.major_version = std::strcmp(wanted, "major") == 0 ? 1 : 0;
  table.api.version.minor_version = 30;
  for (void*& function : table.functions) function = reinterpret_cast<void*>(&nothing);
  table.functions[10] = reinterpret_cast<void*>(&create_client);
  table.functions[3] = reinterpret_cast<void*>(&initialize);
  if (std::strcmp(wanted, "old") == 0) table.api.header.struct_size = 40 + 8 * 40;  // ends before Execute
  return &table.api;
}
