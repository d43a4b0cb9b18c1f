// Where the hub is, who asks, where its files are kept, and how patient the client is.
#pragma once

#include <chrono>
#include <filesystem>
#include <string>

namespace vertebra {

struct HubOptions {
  std::string endpoint = "https://huggingface.co";  // without a slash at the end
  std::string token;                                // empty: ask as nobody. Never printed.
  bool offline = false;                             // no network: what the cache holds, or an error
  std::filesystem::path cache;                      // MODELS/ORG--NAME/COMMIT/
  std::filesystem::path other_cache;                // of the hub's own Python client; files are taken from it

  int connections = 4;  // files at a time
  int attempts = 6;     // in a row without progress
  std::chrono::milliseconds connect_timeout{15'000};
  std::chrono::milliseconds stall_timeout{30'000};  // less than slowest_bytes in this time: begun anew
  uint64_t slowest_bytes = 4096;
  std::chrono::milliseconds retry_delay{1'000};  // doubles with every attempt, to 30 times
  std::chrono::milliseconds longest_wait{
      300'000};  // a server that asks for more patience is believed: an error

  // HF_ENDPOINT; HF_TOKEN, else the file that HF_TOKEN_PATH or HF_HOME/token names (where the hub's own
  // client logs in); HF_HUB_OFFLINE; VERTEBRA_CACHE or XDG_CACHE_HOME/vertebra. Throws invalid_argument for
  // an endpoint that is no http or https URL.
  static HubOptions from_environment();
};

// The cache folder's models/.
std::filesystem::path model_cache();

}  // namespace vertebra
