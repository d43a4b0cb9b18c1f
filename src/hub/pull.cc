#include "hub/pull.h"

#include <algorithm>
#include <atomic>
#include <future>
#include <mutex>
#include <optional>
#include <thread>

#include "base/error.h"
#include "base/file.h"
#include "base/interrupt.h"
#include "base/log.h"
#include "base/progress.h"
#include "hub/http.h"
#include "hub/hub_client.h"
#include "hub/repository.h"

namespace vertebra {
namespace {

namespace fs = std::filesystem;
constexpr const char* kManifest = "manifest.json";

fs::path home_of(const fs::path& cache, const HubModel& model) { return cache / folder_name(model); }
// Revisions may hold slashes.
fs::path ref_of(const fs::path& cache, const HubModel& model) {
  return home_of(cache, model) / "refs" / url_encoded(model.revision, false);
}

// The commit that a revision meant when it was last pulled.
std::optional<std::string> known_commit(const fs::path& cache, const HubModel& model) {
  if (is_commit(model.revision)) return model.revision;
  const fs::path ref = ref_of(cache, model);
  if (!fs::is_regular_file(ref)) return std::nullopt;
  const std::string commit = read_file(ref);
  require(is_commit(commit), Code::kDataLoss, "'{}' holds no commit; pull the model again", ref.string());
  return commit;
}

std::optional<Manifest> manifest_of(const fs::path& folder) {
  if (!fs::is_regular_file(folder / kManifest)) return std::nullopt;
  return read_manifest(folder);
}

// What of a pulled folder a MODEL means; nothing when it is not there.
std::optional<fs::path> model_in(const fs::path& folder, const Manifest& manifest, const HubModel& model) {
  if (model.choice.empty() && manifest.files.contains("config.json")) return folder;
  std::vector<std::string> found;
  for (const auto& [name, file] : manifest.files) {
    if (name.ends_with(".gguf") && !is_later_part(name) &&
        (model.choice.empty() || chooses(model.choice, name)))
      found.push_back(name);
  }
  if (found.size() == 1 && fs::is_regular_file(folder / found[0])) return folder / found[0];
  if (found.empty()) return std::nullopt;
  fail(Code::kInvalidArgument, "{}: several of its files are here: {}. One of them was wanted, as {}:NAME",
       model.to_string(), fmt::join(found, ", "), HubModel{model.repository, model.revision, ""}.to_string());
}

class Pull {
 public:
  Pull(const HubOptions& options, const PullRequest& request, fs::path folder, Repository repository)
      : options_(options),
        request_(request),
        folder_(std::move(folder)),
        repository_(std::move(repository)) {}

  PullResult run() {
    fs::create_directories(folder_);
    const FolderLock lock(folder_);
    if (const auto old = manifest_of(folder_)) manifest_ = *old;
    Selection selection = select_files(repository_, request_.files, request_.model.choice, name());
    check_room(selection.files);
    if (request_.files.empty() && selection.files[0].path == "config.json") check_folder(selection);
    if (selection.has_index) {
      add_shards(selection);
      check_room(selection.files);
    }
    fetch(selection.files);
    write();
    return result(selection.files);
  }

 private:
  std::string name() const { return request_.model.to_string(); }

  // A file that an earlier pull brought.
  bool is_here(const RemoteFile& file) const {
    const auto it = manifest_.files.find(file.path);
    std::error_code none;
    return it != manifest_.files.end() && it->second.size_bytes == file.size_bytes &&
           (file.sha256.empty() || it->second.sha256 == file.sha256) &&
           fs::file_size(folder_ / file.path, none) == file.size_bytes && !none;
  }

  // What can be known of a model folder before gigabytes of weights come.
  void check_folder(const Selection& selection) {
    const auto has = [&](const char* path) {
      return std::any_of(selection.files.begin(), selection.files.end(),
                         [&](const RemoteFile& each) { return each.path == path; });
    };
    if (!has("tokenizer.json") && !has("tokenizer.model"))
      log_warning(
          "{}: the repository has neither tokenizer.json nor tokenizer.model, so the model will have no text",
          name());
    fetch({selection.files[0]});
    if (request_.check_config) request_.check_config(folder_ / "config.json");
  }

  // The index first: it says which shards there are.
  void add_shards(Selection& selection) {
    const RemoteFile index = *repository_.find("model.safetensors.index.json");
    fetch({index});
    const fs::path path = folder_ / index.path;
    for (RemoteFile& shard : select_shards(repository_, read_json_file(path), name() + ": " + index.path))
      selection.files.push_back(std::move(shard));
  }

  void check_room(const std::vector<RemoteFile>& files) const {
    uint64_t wanted = 0;
    for (const RemoteFile& file : files) {
      if (is_here(file)) continue;
      std::error_code none;
      const uint64_t part = fs::file_size(folder_ / (file.path + ".part"), none);
      wanted += file.size_bytes - (none ? 0 : std::min(part, file.size_bytes));
    }
    const uint64_t room = fs::space(folder_).available;
    require(wanted <= room, Code::kResourceExhausted,
            "{}: {} more are needed in '{}', {} are free there. Free some space, or set VERTEBRA_CACHE to a "
            "folder on "
            "another disk",
            name(), format_bytes(wanted), folder_.string(), format_bytes(room));
  }

  // Several files at a time; the first error ends the others.
  void fetch(const std::vector<RemoteFile>& files) {
    std::vector<const RemoteFile*> missing;
    uint64_t total = 0;
    for (const RemoteFile& file : files) {
      if (is_here(file)) continue;
      missing.push_back(&file);
      total += file.size_bytes;
    }
    if (missing.empty()) return;
    std::atomic<int64_t> received{0};
    std::atomic<size_t> next{0};
    std::atomic<bool> failed{false};
    std::mutex mutex;
    const auto cancelled = [&failed] { return failed.load() || interrupt_requested(); };
    const auto work = [&] {
      struct OnError {
        std::atomic<bool>& flag;
        bool fine = false;
        ~OnError() { flag = flag || !fine; }
      } guard{failed};
      HubClient client(options_, cancelled);
      for (size_t i = next++; i < missing.size(); i = next++) {
        const auto file = client.download(request_.model, repository_.commit, *missing[i], folder_, received);
        if (!file.has_value()) break;
        const std::lock_guard lock(mutex);
        manifest_.files[missing[i]->path] = *file;
      }
      guard.fine = true;
    };
    std::vector<std::future<void>> workers;
    for (size_t i = 0; i < std::min(missing.size(), static_cast<size_t>(options_.connections)); ++i)
      workers.push_back(std::async(std::launch::async, work));
    watch(workers, received, total);
    for (auto& worker : workers) worker.get();
    transferred_ += static_cast<uint64_t>(received.load());
    if (interrupt_requested())
      throw Interrupted(fmt::format(
          "stopped; what has come is kept: the same command goes on from there ('{}')", folder_.string()));
  }

  void watch(const std::vector<std::future<void>>& workers, const std::atomic<int64_t>& received,
             uint64_t total) const {
    constexpr int kShift = 20;  // in MiB
    Progress progress(request_.model.repository, total >> kShift, "MiB");
    for (const auto& worker : workers) {
      while (worker.wait_for(std::chrono::milliseconds(100)) != std::future_status::ready)
        progress.update(static_cast<uint64_t>(std::max<int64_t>(0, received.load())) >> kShift);
    }
  }

  void write() {
    manifest_.kind = "model";
    Json& origin = manifest_.recipe["pull"];
    origin = {{"repository", request_.model.repository},
              {"commit", repository_.commit},
              {"from", options_.endpoint}};
    if (const size_t at = options_.endpoint.find('@'); at != std::string::npos)  // a user and a password, say
      origin["from"] = options_.endpoint.substr(at + 1);
    const auto old = manifest_of(folder_);
    if (!old.has_value() || old->to_json() != manifest_.to_json())
      write_json_file(folder_ / kManifest, manifest_.to_json());
    if (!is_commit(request_.model.revision)) {
      const fs::path ref = ref_of(options_.cache, request_.model);
      fs::create_directories(ref.parent_path());
      write_file_atomic(ref, repository_.commit);
    }
  }

  PullResult result(const std::vector<RemoteFile>& files) const {
    PullResult out;
    out.folder = out.path = folder_;
    out.commit = repository_.commit;
    out.transferred_bytes = transferred_;
    for (const RemoteFile& file : files) {
      out.files.push_back(file.path);
      out.size_bytes += file.size_bytes;
    }
    if (request_.files.size() <= 1 && files[0].path.ends_with(".gguf")) out.path = folder_ / files[0].path;
    return out;
  }

  const HubOptions& options_;
  const PullRequest& request_;
  fs::path folder_;
  Repository repository_;
  Manifest manifest_;
  uint64_t transferred_ = 0;
};

// What is here already, for a pull that needs no network.
std::optional<PullResult> pulled_before(const HubOptions& options, const PullRequest& request) {
  const auto commit = known_commit(options.cache, request.model);
  if (!commit.has_value()) return std::nullopt;
  const fs::path folder = home_of(options.cache, request.model) / *commit;
  const auto manifest = manifest_of(folder);
  if (!manifest.has_value()) return std::nullopt;
  PullResult out;
  out.folder = folder;
  out.commit = *commit;
  for (const std::string& file : request.files) {
    if (!manifest->files.contains(file)) return std::nullopt;
  }
  const auto path = request.files.empty() ? model_in(folder, *manifest, request.model)
                    : request.files.size() == 1 && request.files[0].ends_with(".gguf")
                        ? std::optional(folder / request.files[0])
                        : std::optional(folder);
  if (!path.has_value()) return std::nullopt;
  out.path = *path;
  for (const auto& [name, file] : manifest->files) {
    if (path == folder ? !request.files.empty() && std::find(request.files.begin(), request.files.end(),
                                                             name) == request.files.end()
                       : folder / name != *path)
      continue;
    out.files.push_back(name);
    out.size_bytes += file.size_bytes;
  }
  return out;
}

}  // namespace

PullResult pull(const HubOptions& options, const PullRequest& request) {
  // A commit's files never change; what a branch means may have.
  if (options.offline || is_commit(request.model.revision)) {
    if (auto out = pulled_before(options, request)) return *out;
    require(!options.offline, Code::kUnavailable,
            "{} is not in '{}', and HF_HUB_OFFLINE forbids to look elsewhere; unset it and pull again",
            request.model.to_string(), options.cache.string());
  }
  if (!options.token.empty() && is_readable_on_the_way(options.endpoint))
    log_warning(
        "the token goes over plain http to another machine: anybody on the way can read it. HF_ENDPOINT with "
        "https:// keeps it secret");
  const auto cancelled = [] { return interrupt_requested(); };
  auto repository = HubClient(options, cancelled).read_repository(request.model);
  if (!repository.has_value()) throw Interrupted("stopped before anything was fetched");
  const fs::path folder = home_of(options.cache, request.model) / repository->commit;
  return Pull(options, request, folder, std::move(*repository)).run();
}

fs::path find_pulled(const fs::path& cache, const HubModel& model) {
  if (const auto commit = known_commit(cache, model)) {
    const fs::path folder = home_of(cache, model) / *commit;
    if (const auto manifest = manifest_of(folder)) {
      if (const auto path = model_in(folder, *manifest, model)) return *path;
    }
  }
  fail(Code::kNotFound, "{} has not been pulled, or not whole (looked in '{}'): vertebra pull {}",
       model.to_string(), home_of(cache, model).string(), model.to_string());
}

}  // namespace vertebra
