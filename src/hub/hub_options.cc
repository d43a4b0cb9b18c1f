#include "hub/hub_options.h"

#include <cstdlib>

#include "base/error.h"
#include "base/file.h"

namespace vertebra {
namespace {

namespace fs = std::filesystem;

// A variable that is set and not empty.
std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

fs::path cache_home() {
  if (const std::string xdg = variable("XDG_CACHE_HOME"); !xdg.empty()) return xdg;
  const std::string home = variable("HOME");
  require(
      !home.empty(), Code::kFailedPrecondition,
      "there is no place for models: VERTEBRA_CACHE, XDG_CACHE_HOME or HOME was wanted in the environment");
  return fs::path(home) / ".cache";
}

bool is_yes(std::string value) {
  for (char& c : value) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return value == "1" || value == "true" || value == "yes" || value == "on";
}

std::string trimmed(const std::string& text) {
  const size_t first = text.find_first_not_of(" \t\r\n");
  return first == std::string::npos ? "" : text.substr(first, text.find_last_not_of(" \t\r\n") + 1 - first);
}

std::string read_token(const fs::path& hf_home) {
  std::string token = trimmed(variable("HF_TOKEN"));
  fs::path file = variable("HF_TOKEN_PATH");
  if (file.empty()) file = hf_home / "token";
  std::error_code ignored;
  if (token.empty() && fs::is_regular_file(file, ignored)) token = trimmed(read_file(file));
  for (const char c : token)
    require(c > ' ' && c < 127,
            "the hub's token holds a space or a control character; a token as the hub gave it "
            "was wanted (HF_TOKEN, or the file '{}')",
            file.string());
  return token;
}

}  // namespace

fs::path model_cache() {
  const std::string own = variable("VERTEBRA_CACHE");
  return (own.empty() ? cache_home() / "vertebra" : fs::path(own)) / "models";
}

HubOptions HubOptions::from_environment() {
  HubOptions out;
  if (const std::string endpoint = variable("HF_ENDPOINT"); !endpoint.empty()) out.endpoint = endpoint;
  while (out.endpoint.ends_with('/')) out.endpoint.pop_back();
  require(out.endpoint.starts_with("https://") || out.endpoint.starts_with("http://"),
          "HF_ENDPOINT does not begin with https:// or http://, so it is no address of a hub");
  out.cache = model_cache();
  fs::path hf_home = variable("HF_HOME");
  if (hf_home.empty()) hf_home = cache_home() / "huggingface";
  out.token = read_token(hf_home);
  const std::string hub_cache = variable("HF_HUB_CACHE");
  out.other_cache = hub_cache.empty() ? hf_home / "hub" : fs::path(hub_cache);
  out.offline = is_yes(variable("HF_HUB_OFFLINE"));
  return out;
}

}  // namespace vertebra
