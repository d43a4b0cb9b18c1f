// libFuzzer target for a hub's list of files: any bytes either parse or throw Error, and whatever is then
// chosen has a name that stays below its folder and a hash to check it by.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string_view>

#include "base/error.h"
#include "base/json.h"
#include "hub/hub_model.h"
#include "hub/repository.h"

namespace {

void check(const vertebra::RemoteFile& file) {
  const auto path = std::filesystem::path("/folder") / file.path;
  if (!path.lexically_normal().string().starts_with("/folder/")) std::abort();
  if (file.sha256.size() != 64 && file.git_sha1.size() != 40) std::abort();
}

template <class Function>
void attempt(Function function) {
  try {
    function();
  } catch (const vertebra::Error&) {
    return;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  attempt([&] { vertebra::parse_hub_model(text); });
  attempt([&] {
    const vertebra::Json json = vertebra::parse_json(text, "fuzz");
    const vertebra::Repository repository = vertebra::parse_repository(json, "fuzz");
    for (const char* choice : {"", "Q4_K_M", "model.gguf"})
      attempt([&] {
        for (const auto& file : vertebra::select_files(repository, {}, choice, "fuzz").files) check(file);
      });
    for (const auto& each : repository.files)
      attempt([&] { check(vertebra::select_files(repository, {each.path}, "", "fuzz").files.at(0)); });
    attempt([&] {
      for (const auto& file : vertebra::select_shards(repository, json, "fuzz")) check(file);
    });
  });
  return 0;
}
