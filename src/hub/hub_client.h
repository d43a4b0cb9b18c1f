// Asks the hub: what a repository holds, and its files, each gone on with after a cut and checked against its
// hash. One client serves one thread.
#pragma once

#include <atomic>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>

#include "base/manifest.h"
#include "hub/http.h"
#include "hub/hub_model.h"
#include "hub/hub_options.h"
#include "hub/repository.h"

namespace vertebra {

// Waiting between attempts: twice as long each time, or as the server asks (Retry-After).
class Patience {
 public:
  Patience(const HubOptions& options, std::function<bool()> cancelled, std::string what);
  void progressed() { failures_ = 0; }
  // After an attempt that failed in a way that may pass. False: cancelled while waiting. Throws unavailable
  // when this was the last one.
  bool wait(const HttpResponse& response);

 private:
  const HubOptions& options_;
  std::function<bool()> cancelled_;
  std::string what_;
  int failures_ = 0;
};

class HubClient {
 public:
  // `cancelled` is asked about once a second and ends what is under way; what is asked then answers nothing.
  HubClient(HubOptions options, std::function<bool()> cancelled);

  // The repository at the model's revision.
  std::optional<Repository> read_repository(const HubModel& model);
  // Writes folder/file.path, going on with a .part file that is there. `received` counts bytes as they come,
  // and is taken back when they have to come again. Throws data_loss when the content is not what was listed.
  std::optional<ManifestFile> download(const HubModel& model, const std::string& commit,
                                       const RemoteFile& file, const std::filesystem::path& folder,
                                       std::atomic<int64_t>& received);

 private:
  [[noreturn]] void fail_status(const HttpResponse& response, const std::string& what) const;

  HubOptions options_;
  std::function<bool()> cancelled_;
  HttpSession session_;
};

}  // namespace vertebra
