#include "hub/repository.h"

#include <algorithm>
#include <array>
#include <set>

#include "base/error.h"
#include "base/progress.h"
#include "hub/hub_model.h"

namespace vertebra {
namespace {

constexpr uint64_t kLargestFile = uint64_t{1} << 44;  // 16 TiB: above it a size is a lie
constexpr size_t kMostFiles = 100'000;
constexpr size_t kShownNames = 12;

// What our loaders read, and the licence, which goes where the weights go.
constexpr std::array kModelFiles = {"config.json",         "generation_config.json",
                                    "tokenizer.json",      "tokenizer_config.json",
                                    "chat_template.jinja", "LICENSE",
                                    "LICENSE.txt",         "LICENSE.md"};
constexpr const char* kIndex = "model.safetensors.index.json";

bool is_hex(std::string_view text, size_t digits) {
  return text.size() == digits && std::all_of(text.begin(), text.end(), [](char c) {
           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
         });
}

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return out;
}

std::string_view base_name(std::string_view path) { return path.substr(path.rfind('/') + 1); }

bool is_gguf_name(std::string_view path) { return lower(path).ends_with(".gguf"); }

// "...-00002-of-00003.gguf": the numbers; nothing for other names.
struct Part {
  int number = 0, count = 0;
};
constexpr size_t kPartName = 20;  // "-00002-of-00003.gguf"
std::optional<Part> part_of(std::string_view path) {
  if (path.size() < kPartName || !is_gguf_name(path)) return std::nullopt;
  const std::string_view end = path.substr(path.size() - kPartName);
  const auto number = [&](size_t at) {
    int out = 0;
    for (const char c : end.substr(at, 5)) {
      if (c < '0' || c > '9') return -1;
      out = 10 * out + (c - '0');
    }
    return out;
  };
  const Part out{number(1), number(10)};
  if (end[0] != '-' || end.substr(6, 4) != "-of-" || out.number < 1 || out.count < out.number)
    return std::nullopt;
  return out;
}

// Vision encoders and importance matrices lie beside the models.
bool is_no_model(std::string_view path) {
  const std::string name = lower(base_name(path));
  return name.find("mmproj") != std::string::npos || name.find("imatrix") != std::string::npos;
}

RemoteFile parse_file(const Json& entry, const std::string& source) {
  RemoteFile out;
  out.path = json_get<std::string>(entry, "rfilename", source);
  if (!entry.contains("size")) return out;  // without hash either: it cannot be taken
  out.size_bytes = json_get<uint64_t>(entry, "size", source);
  require(out.size_bytes <= kLargestFile, Code::kDataLoss,
          "{}: '{}' is said to have {} bytes, which no file has", source, json_line(Json(out.path)),
          out.size_bytes);
  const Json lfs = json_get<Json>(entry, "lfs", source, Json());
  if (lfs.is_object()) {
    out.sha256 = json_get<std::string>(lfs, "sha256", source, "");
    if (out.sha256.empty()) {  // the older form: "oid": "sha256:..."
      out.sha256 = json_get<std::string>(lfs, "oid", source, "");
      if (out.sha256.starts_with("sha256:")) out.sha256.erase(0, 7);
    }
    const auto size = json_get<uint64_t>(lfs, "size", source, out.size_bytes);
    require(size <= kLargestFile, Code::kDataLoss, "{}: a file is said to have {} bytes, which no file has",
            source, size);
    out.size_bytes = size;
  } else {
    out.git_sha1 = json_get<std::string>(entry, "blobId", source, "");
  }
  return out;
}

// Names as they may be shown: a server's may hold anything.
std::string listed(const std::vector<const RemoteFile*>& files) {
  std::string out;
  for (size_t i = 0; i < files.size() && i < kShownNames; ++i)
    out += fmt::format("\n  {}  {}", json_line(Json(files[i]->path)), format_bytes(files[i]->size_bytes));
  if (files.size() > kShownNames) out += fmt::format("\n  and {} more", files.size() - kShownNames);
  return out;
}

// A file that is to be taken: only now does its name have to be one.
const RemoteFile& checked(const RemoteFile& file, const std::string& source) {
  require(is_safe_path(file.path), Code::kDataLoss,
          "{}: the server names a file {}, which may not be written below a folder", source,
          json_line(Json(file.path)));
  require(is_hex(file.sha256, 64) || is_hex(file.git_sha1, 40), Code::kDataLoss,
          "{}: the server gives no size and hash for '{}', so what comes could not be checked", source,
          file.path);
  return file;
}

std::vector<const RemoteFile*> gguf_files(const Repository& repository) {
  std::vector<const RemoteFile*> out;
  for (const RemoteFile& file : repository.files) {
    if (is_gguf_name(file.path) && !is_no_model(file.path) && !is_later_part(file.path)) out.push_back(&file);
  }
  return out;
}

// The file, and the others where it is the first of several that make one model.
std::vector<RemoteFile> all_parts(const Repository& repository, const RemoteFile& first,
                                  const std::string& name) {
  std::vector<RemoteFile> out = {checked(first, name)};
  const auto part = part_of(first.path);
  for (int number = 2; part.has_value() && number <= part->count; ++number) {
    std::string path = first.path;
    path.replace(path.size() - kPartName + 1, 5, fmt::format("{:05}", number));
    const RemoteFile* file = repository.find(path);
    require(file != nullptr, Code::kDataLoss, "{}: '{}' is one of {} files, and the repository has no {}",
            name, first.path, part->count, json_line(Json(path)));
    out.push_back(checked(*file, name));
  }
  return out;
}

std::vector<RemoteFile> choose_gguf(const Repository& repository, const std::string& choice,
                                    const std::string& name) {
  const auto all = gguf_files(repository);
  require(!all.empty(), Code::kNotFound, "{}: the repository holds no GGUF file", name);
  std::vector<const RemoteFile*> chosen;
  for (const RemoteFile* file : all) {
    if (choice.empty() || chooses(choice, file->path)) chosen.push_back(file);
  }
  require(!chosen.empty(), Code::kNotFound, "{}: no GGUF file is '{}'; there are:{}", name, choice,
          listed(all));
  require(chosen.size() == 1, "{}: one of these was wanted, by hf:ORG/NAME:QUANTIZATION or --file NAME:{}",
          name, listed(chosen));
  return all_parts(repository, *chosen[0], name);
}

Selection select_folder(const Repository& repository, const std::string& name) {
  Selection out;
  const auto take = [&](const char* path) {
    const RemoteFile* file = repository.find(path);
    if (file != nullptr) out.files.push_back(checked(*file, name));
    return file != nullptr;
  };
  require(repository.find("config.json") != nullptr, Code::kNotFound,
          "{}: the repository has weights but no config.json; a model in Hugging Face layout was wanted",
          name);
  for (const char* path : kModelFiles) take(path);
  if (repository.find("tokenizer.json") == nullptr) take("tokenizer.model");
  if (!take("model.safetensors")) out.has_index = take(kIndex);
  return out;
}

}  // namespace

const RemoteFile* Repository::find(std::string_view path) const {
  const auto it =
      std::find_if(files.begin(), files.end(), [&](const RemoteFile& each) { return each.path == path; });
  return it == files.end() ? nullptr : &*it;
}

Repository parse_repository(const Json& answer, const std::string& source) {
  Repository out;
  out.commit = json_get<std::string>(answer, "sha", source);
  require(is_commit(out.commit), Code::kDataLoss, "{}: field 'sha' is {}, a commit of 40 digits was wanted",
          source, json_line(Json(out.commit)));
  const Json siblings = json_get<Json>(answer, "siblings", source);
  if (!siblings.is_array()) json_field_wrong("siblings", siblings, "a list of files", source);
  require(siblings.size() <= kMostFiles, Code::kDataLoss, "{}: {} files are more than a model has", source,
          siblings.size());
  std::set<std::string> seen;
  for (const Json& entry : siblings) {
    out.files.push_back(parse_file(entry, source));
    require(seen.insert(out.files.back().path).second, Code::kDataLoss, "{}: file {} is listed twice", source,
            json_line(Json(out.files.back().path)));
  }
  return out;
}

bool is_safe_path(std::string_view path) {
  if (path.empty() || path.size() > 1024 || path.front() == '/') return false;
  for (const char c : path) {
    if (static_cast<unsigned char>(c) < 32 || c == 127 || c == '\\' || c == ':') return false;
  }
  int depth = 0;
  for (size_t start = 0; start <= path.size(); ++depth) {
    const size_t end = std::min(path.find('/', start), path.size());
    const std::string part = lower(path.substr(start, end - start));
    if (part.empty() || part == "." || part == ".." || part.size() > 200) return false;
    if (part == "manifest.json" || part.ends_with(".part") || part.ends_with(".part.etag")) return false;
    start = end + 1;
  }
  return depth <= 8;
}

bool is_later_part(std::string_view path) {
  const auto part = part_of(path);
  return part.has_value() && part->number > 1;
}

bool chooses(std::string_view choice, std::string_view path) {
  const std::string wanted = lower(choice), name = lower(path);
  if (wanted == name || wanted == lower(base_name(path))) return true;
  if (!is_gguf_name(path)) return false;
  std::string stem = name.substr(0, name.size() - 5);
  if (part_of(path).has_value()) stem.resize(stem.size() - (kPartName - 5));
  if (!stem.ends_with(wanted)) return false;
  if (stem.size() == wanted.size()) return true;
  const char before = stem[stem.size() - wanted.size() - 1];
  return before == '-' || before == '.' || before == '/' || before == '_';
}

Selection select_files(const Repository& repository, const std::vector<std::string>& wanted,
                       const std::string& choice, const std::string& name) {
  if (!wanted.empty()) {
    Selection out;
    for (const std::string& path : wanted) {
      const RemoteFile* file = repository.find(path);
      if (file == nullptr) {
        std::vector<const RemoteFile*> all;
        for (const RemoteFile& each : repository.files) all.push_back(&each);
        fail(Code::kNotFound, "{}: there is no file '{}'; there are:{}", name, path, listed(all));
      }
      out.files.push_back(checked(*file, name));
    }
    return out;
  }
  if (!choice.empty()) return {choose_gguf(repository, choice, name), false};
  if (repository.find("model.safetensors") != nullptr || repository.find(kIndex) != nullptr)
    return select_folder(repository, name);
  if (!gguf_files(repository).empty()) return {choose_gguf(repository, choice, name), false};
  const bool pickled =
      std::any_of(repository.files.begin(), repository.files.end(), [](const RemoteFile& file) {
        return file.path.ends_with(".bin") || file.path.ends_with(".pt") || file.path.ends_with(".pth");
      });
  fail(
      Code::kNotFound, "{}: the repository holds neither model.safetensors nor a GGUF file{}", name,
      pickled
          ? "; its .bin files are Python pickles, which can run code where they are read, and are not taken: "
            "look for a copy of the model in safetensors"
          : "");
}

std::vector<RemoteFile> select_shards(const Repository& repository, const Json& index,
                                      const std::string& source) {
  const Json map = json_get<Json>(index, "weight_map", source);
  if (!map.is_object()) json_field_wrong("weight_map", map, "an object", source);
  std::set<std::string> names;
  for (const auto& [tensor, file] : map.items())
    names.insert(json_convert<std::string>(file, tensor, source));
  std::vector<RemoteFile> out;
  for (const std::string& each : names) {
    const RemoteFile* file = repository.find(each);
    require(file != nullptr && each.ends_with(".safetensors"), Code::kDataLoss,
            "{}: the index lists a shard {} that the repository does not have", source,
            json_line(Json(each)));
    out.push_back(checked(*file, source));
  }
  return out;
}

}  // namespace vertebra
