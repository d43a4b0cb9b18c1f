// What the hub says a repository holds at a commit, and which of its files a model needs. What comes from the
// server is hostile: names, sizes and hashes are checked before anything is done with them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"

namespace vertebra {

struct RemoteFile {
  std::string path;
  uint64_t size_bytes = 0;
  std::string sha256;    // of files in large file storage
  std::string git_sha1;  // of the others: the hash of git's blob
};

struct Repository {
  std::string commit;
  std::vector<RemoteFile> files;

  const RemoteFile* find(std::string_view path) const;
};

// The answer to GET /api/models/ORG/NAME/revision/REVISION?blobs=true. Throws data_loss for what contradicts
// itself, naming the field.
Repository parse_repository(const Json& answer, const std::string& source);

// Whether a file name from a server may become one below a folder of ours: relative, without "..", drive
// letters, backslashes or control characters, and none of the names that we give.
bool is_safe_path(std::string_view path);

// Files of a model folder that are of use here, without its weights; weights are `model.safetensors`, or what
// the index lists.
struct Selection {
  std::vector<RemoteFile> files;
  bool has_index = false;  // model.safetensors.index.json is among them; its shards come on top
};
// `wanted`: names of files (--file), or empty; `choice`: HubModel::choice. A repository of GGUF files without
// safetensors needs one of the two when it holds several. Throws not_found / invalid_argument with what there
// is.
Selection select_files(const Repository& repository, const std::vector<std::string>& wanted,
                       const std::string& choice, const std::string& name);
// The shards that an index lists; throws data_loss for one that the repository does not have.
std::vector<RemoteFile> select_shards(const Repository& repository, const Json& index,
                                      const std::string& source);

// Whether a GGUF file is the second or a later of several that make one model, which is named by the first.
bool is_later_part(std::string_view path);
// Whether `choice` means this GGUF file: its name, or the quantization at the end of it, in any case.
bool chooses(std::string_view choice, std::string_view path);

}  // namespace vertebra
