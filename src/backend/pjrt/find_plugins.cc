#include "backend/pjrt/find_plugins.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <set>
#include <sstream>

#include "backend/pjrt/executable_cache.h"
#include "base/error.h"

namespace vertebra::pjrt {
namespace {

namespace fs = std::filesystem;

std::string variable(const std::string& name) {
  const char* value = std::getenv(name.c_str());
  return value == nullptr ? "" : value;
}

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> out;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, separator);) {
    if (!part.empty()) out.push_back(part);
  }
  return out;
}

// Files that fit a pattern below a folder, in order of name.
std::vector<fs::path> expand(const fs::path& folder, std::string_view pattern) {
  const size_t slash = pattern.find('/');
  const std::string_view first = pattern.substr(0, slash);
  std::vector<fs::path> candidates;
  std::error_code failed;
  if (first.find('*') == std::string_view::npos) {
    candidates.push_back(folder / first);
  } else {
    for (fs::directory_iterator it(folder, failed), end; !failed && it != end; it.increment(failed)) {
      if (matches(first, it->path().filename().string())) candidates.push_back(it->path());
    }
    std::sort(candidates.begin(), candidates.end());
  }
  std::vector<fs::path> out;
  for (const fs::path& candidate : candidates) {
    if (slash != std::string_view::npos) {
      for (fs::path& deeper : expand(candidate, pattern.substr(slash + 1))) out.push_back(std::move(deeper));
    } else if (fs::is_regular_file(candidate, failed)) {
      out.push_back(candidate);
    }
  }
  return out;
}

std::string own_variable(const Vendor& vendor) {
  std::string out = "VERTEBRA_PJRT_";
  for (const char c : vendor.name) out += static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return out;
}

}  // namespace

std::vector<fs::path> package_folders() {
  std::vector<std::pair<fs::path, std::string_view>> patterns;  // folder, pattern below it
  std::vector<fs::path> out;
  if (const fs::path cache = cache_folder(); !cache.empty()) {
    std::error_code failed;
    for (fs::directory_iterator it(cache / "plugins", failed), end; !failed && it != end;
         it.increment(failed))
      out.push_back(it->path());
    std::sort(out.begin(), out.end());
  }
  for (const std::string& folder : split(variable("PYTHONPATH"), ':')) out.emplace_back(folder);
  const auto add_prefix = [&](const fs::path& prefix) {
    std::error_code failed;
    for (const char* lib : {"lib", "lib64", "local/lib"}) {
      for (fs::directory_iterator it(prefix / lib, failed), end; !failed && it != end; it.increment(failed)) {
        if (!matches("python3*", it->path().filename().string())) continue;
        out.push_back(it->path() / "site-packages");
        out.push_back(it->path() / "dist-packages");
      }
    }
  };
  for (const char* name : {"VIRTUAL_ENV", "CONDA_PREFIX"}) {
    if (const std::string prefix = variable(name); !prefix.empty()) add_prefix(prefix);
  }
  for (const std::string& folder : split(variable("PATH"), ':')) {
    std::error_code failed;
    if (fs::exists(fs::path(folder) / "python3", failed)) add_prefix(fs::path(folder).parent_path());
  }
  if (const std::string home = variable("HOME"); !home.empty()) {
    add_prefix(fs::path(home) / ".local");
    std::error_code failed;
    for (fs::directory_iterator it(fs::path(home) / ".pyenv/versions", failed), end; !failed && it != end;
         it.increment(failed))
      add_prefix(it->path());
  }
  add_prefix("/usr");
  add_prefix("/usr/local");
  return out;
}

std::vector<FoundPlugin> find_plugins(const Vendor& vendor) {
  std::vector<FoundPlugin> out;
  std::set<fs::path> seen;
  const auto add = [&](const fs::path& file, std::string how) {
    std::error_code failed;
    const fs::path same = fs::weakly_canonical(file, failed);
    if (seen.insert(failed ? file : same).second) out.push_back({&vendor, file, std::move(how)});
  };
  std::vector<std::string> names = {own_variable(vendor)};
  for (const std::string_view name : vendor.environment_variables) names.emplace_back(name);
  for (const std::string& name : names) {
    if (const std::string file = variable(name); !file.empty()) add(file, "environment variable " + name);
  }
  const std::vector<fs::path> folders = package_folders();
  for (const std::string_view pattern : vendor.package_files) {
    for (const fs::path& folder : folders) {
      for (const fs::path& file : expand(folder, pattern)) add(file, "Python package");
    }
  }
  for (const std::string_view pattern : vendor.system_files) {
    for (const fs::path& file : expand("/", pattern.substr(1))) add(file, "system folder");
  }
  return out;
}

std::vector<FoundPlugin> find_all_plugins() {
  std::vector<FoundPlugin> out;
  for (const Vendor& vendor : vendors()) {
    for (FoundPlugin& plugin : find_plugins(vendor)) out.push_back(std::move(plugin));
  }
  return out;
}

FoundPlugin require_plugin(std::string_view vendor_name) {
  const Vendor* vendor = find_vendor(vendor_name);
  if (vendor == nullptr) {
    std::vector<std::string_view> names;
    for (const Vendor& each : vendors()) names.push_back(each.name);
    fail(Code::kNotFound, "there is no vendor '{}'; pjrt: takes one of {}, or the path of a plugin",
         vendor_name, fmt::join(names, ", "));
  }
  const std::vector<FoundPlugin> found = find_plugins(*vendor);
  require(!found.empty(), Code::kNotFound,
          "no plugin for 'pjrt:{}' ({}) was found: not in the environment variable {}, not among Python's "
          "packages "
          "({}), not in {}. {}",
          vendor->name, vendor->description, own_variable(*vendor), fmt::join(vendor->package_files, ", "),
          vendor->system_files.empty() ? "a system folder"
                                       : fmt::format("{}", fmt::join(vendor->system_files, ", ")),
          vendor->name == "cpu" ? "'tools/get-plugin cpu' fetches one"
                                : "Install the vendor's, or name its file: --device pjrt:/path/to/plugin.so");
  return found.front();
}

}  // namespace vertebra::pjrt
