#include "data/input_files.h"

#include <algorithm>
#include <cctype>

#include "base/error.h"
#include "base/log.h"
#include "data/tar_stream.h"

namespace vertebra {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kTextEndings[] = {".txt", ".text", ".md", ".markdown", ".rst"};
constexpr std::string_view kJsonlEndings[] = {".jsonl", ".ndjson"};
constexpr const char* kWanted =
    ".txt .text .md .markdown .rst .jsonl .ndjson or .tar, plain or with .gz .xz .zst";
constexpr size_t kSkippedNames = 8;

std::string base_name(const std::string& name) {
  const size_t slash = name.find_last_of('/');
  return slash == std::string::npos ? name : name.substr(slash + 1);
}

bool is_hidden(const std::string& name) { return base_name(name).starts_with('.'); }

std::string ending_of(const std::string& plain_name) {
  std::string ending = fs::path(base_name(plain_name)).extension().string();
  for (char& c : ending) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return ending;
}

std::vector<fs::path> files_of_folder(const fs::path& folder) {
  std::vector<fs::path> out;
  std::error_code error;
  for (auto it = fs::recursive_directory_iterator(folder, error);
       !error && it != fs::recursive_directory_iterator(); it.increment(error)) {
    if (is_hidden(it->path().string())) {
      if (it->is_directory()) it.disable_recursion_pending();
      continue;
    }
    std::error_code ignored;
    if (it->is_regular_file(ignored)) out.push_back(it->path());
  }
  require(!error, Code::kPermissionDenied, "cannot list the folder '{}': {}", folder.string(),
          error.message());
  std::sort(out.begin(), out.end(),
            [](const fs::path& a, const fs::path& b) { return a.generic_string() < b.generic_string(); });
  return out;
}

}  // namespace

InputFormat input_format_from_name(std::string_view name) {
  if (name == "auto") return InputFormat::kAuto;
  if (name == "text") return InputFormat::kText;
  if (name == "jsonl") return InputFormat::kJsonl;
  fail(Code::kInvalidArgument, "format '{}' is not known; auto, text or jsonl was wanted", name);
}

class InputFiles::Member final : public ByteStream {
 public:
  explicit Member(TarStream& tar) : tar_(&tar) {}
  size_t read(char* out, size_t size) override { return tar_->read(out, size); }

 private:
  TarStream* tar_;
};

InputFiles::~InputFiles() = default;

// kAuto stands for "not data".
InputFormat InputFiles::format_of(const std::string& plain_name) const {
  if (wanted_ != InputFormat::kAuto) return wanted_;
  const std::string ending = ending_of(plain_name);
  const auto is_one_of = [&](const auto& endings) {
    return std::find(std::begin(endings), std::end(endings), ending) != std::end(endings);
  };
  if (is_one_of(kTextEndings)) return InputFormat::kText;
  if (is_one_of(kJsonlEndings)) return InputFormat::kJsonl;
  return InputFormat::kAuto;
}

InputFiles::InputFiles(const std::vector<fs::path>& paths, InputFormat format) : wanted_(format) {
  require(!paths.empty(), "no path was given; a file or folder of text was wanted");
  for (const fs::path& path : paths) add_path(path);
}

void InputFiles::add_path(const fs::path& path) {
  const auto is_tar = [](const std::string& plain_name) { return ending_of(plain_name) == ".tar"; };
  const std::string shown = path.string();
  require(fs::exists(path), Code::kNotFound, "'{}' does not exist; a file or folder of text was wanted",
          shown);
  if (!fs::is_directory(path)) {
    const std::string plain_name = without_compression_suffix(shown);
    require(is_tar(plain_name) || format_of(plain_name) != InputFormat::kAuto,
            "'{}': its ending does not say what it holds; wanted {}. Rename it, or set the format to text or "
            "jsonl",
            shown, kWanted);
    paths_.push_back(path);
    return;
  }
  const size_t paths_before = paths_.size();
  for (fs::path& file : files_of_folder(path)) {
    const std::string plain_name = without_compression_suffix(file.string());
    if (is_tar(plain_name) || format_of(plain_name) != InputFormat::kAuto) {
      paths_.push_back(std::move(file));
    } else {
      skip(file.string());
    }
  }
  require(paths_.size() > paths_before, Code::kNotFound,
          "the folder '{}' has nothing to read ({} files of other endings{}); "
          "wanted {}",
          shown, report_.skipped,
          report_.skipped_names.empty() ? "" : ", such as '" + report_.skipped_names.front() + "'", kWanted);
}

void InputFiles::skip(const std::string& name) {
  ++report_.skipped;
  if (report_.skipped_names.size() < kSkippedNames) report_.skipped_names.push_back(name);
  log_debug("skipped '{}': its ending is not that of text", name);
}

bool InputFiles::next_member() {
  const std::string archive = paths_[next_path_ - 1].string();
  while (tar_->next()) {
    const InputFormat format = format_of(tar_->member());
    if (format == InputFormat::kAuto || is_hidden(tar_->member())) {
      skip(archive + ":" + tar_->member());
      continue;
    }
    name_ = archive + ":" + tar_->member();
    current_format_ = format;
    stream_ = std::make_unique<Member>(*tar_);
    ++report_.files;
    return true;
  }
  return false;
}

bool InputFiles::next() {
  for (;;) {
    if (tar_ != nullptr && next_member()) return true;
    stream_.reset();
    tar_.reset();
    if (next_path_ == paths_.size()) return false;
    const fs::path& path = paths_[next_path_++];
    const std::string plain_name = without_compression_suffix(path.string());
    auto stream = open_byte_stream(path);
    if (ending_of(plain_name) == ".tar") {
      tar_ = std::make_unique<TarStream>(std::move(stream), path.string());
      continue;
    }
    name_ = path.string();
    current_format_ = format_of(plain_name);
    stream_ = std::move(stream);
    ++report_.files;
    return true;
  }
}

}  // namespace vertebra
