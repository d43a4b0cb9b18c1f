#include "backend/pjrt/probe.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cctype>
#include <chrono>
#include <csignal>
#include <cstring>

#include "backend/pjrt/executable_cache.h"
#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/sha256.h"

namespace vertebra::pjrt {
namespace {

Json to_json(const PluginReport& report) {
  Json devices = Json::array();
  for (const DeviceDescription& device : report.devices)
    devices.push_back({{"id", device.id}, {"kind", device.kind}, {"memory_bytes", device.memory_bytes}});
  return {{"finished", report.finished},
          {"failure", report.failure},
          {"code", static_cast<int>(report.code)},
          {"api_version", report.api_version},
          {"stablehlo_version", report.stablehlo_version},
          {"platform", report.platform},
          {"devices", devices}};
}

PluginReport from_json(const Json& value) {
  const std::string source = "the report of a plugin's trial";
  PluginReport out;
  out.finished = json_get<bool>(value, "finished", source);
  out.failure = json_get<std::string>(value, "failure", source);
  out.code = static_cast<Code>(json_get<int>(value, "code", source));
  out.api_version = json_get<std::string>(value, "api_version", source);
  out.stablehlo_version = json_get<std::string>(value, "stablehlo_version", source);
  out.platform = json_get<std::string>(value, "platform", source);
  for (const Json& device : json_get<Json>(value, "devices", source)) {
    out.devices.push_back({json_get<int>(device, "id", source), json_get<std::string>(device, "kind", source),
                           json_get<uint64_t>(device, "memory_bytes", source)});
  }
  return out;
}

// Some plugins put a page of their stack into an error: the first lines say what is wrong.
std::string without_backtrace(std::string text) {
  if (const size_t at = text.find("backtrace:"); at != std::string::npos) text.resize(at);
  std::string out;
  for (const char c : text) {
    const bool space = std::isspace(static_cast<unsigned char>(c)) != 0;
    if (!space || (!out.empty() && out.back() != ' ')) out += space ? ' ' : c;
  }
  while (!out.empty() && out.back() == ' ') out.pop_back();
  return out.size() > 600 ? out.substr(0, 600) + "..." : out;
}

// `loaded` is told the versions before the plugin looks for its devices, where most that hang do.
template <class Loaded>
PluginReport start_here(const std::filesystem::path& file, const Vendor& vendor, Loaded&& loaded) {
  PluginReport out;
  try {
    const std::shared_ptr<Plugin> plugin = Plugin::load(file, vendor);
    out.api_version = plugin->api_version();
    out.stablehlo_version = plugin->stablehlo_version();
    loaded(out);
    const Client client(plugin);
    out.platform = client.platform_name();
    out.devices = client.devices();
    if (out.devices.empty()) {
      out.failure = "it has no devices";
      out.code = Code::kNotFound;
    }
  } catch (const Error& error) {  // the answer to the question asked
    out.failure = without_backtrace(error.what());
    out.code = error.code();
  } catch (const std::exception& error) {  // some let their own escape
    out.failure = without_backtrace(error.what());
  }
  return out;
}

// The child: reports on `report_fd`, what the plugin prints goes to `log_fd`. Never returns.
[[noreturn]] void run_child(const std::filesystem::path& file, const Vendor& vendor, int report_fd,
                            int log_fd) {
  dup2(log_fd, STDOUT_FILENO);
  dup2(log_fd, STDERR_FILENO);
  for (const int signal : {SIGINT, SIGTERM, SIGABRT, SIGSEGV, SIGBUS}) std::signal(signal, SIG_DFL);
  const auto send = [&](const PluginReport& report) {
    const std::string text = json_line(to_json(report)) + "\n";
    for (size_t sent = 0; sent < text.size();) {
      const ssize_t n = write(report_fd, text.data() + sent, text.size() - sent);
      if (n <= 0) break;
      sent += static_cast<size_t>(n);
    }
  };
  PluginReport report = start_here(file, vendor, send);
  report.finished = true;
  send(report);
  _exit(0);  // the plugin's own exit handlers have no business here
}

// Reads both pipes until they end or the time is up; false then.
bool read_until(std::chrono::steady_clock::time_point end, int (&pipes)[2], std::string (&texts)[2]) {
  constexpr size_t kMostKept = 1 << 20;
  while (pipes[0] >= 0 || pipes[1] >= 0) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(end - std::chrono::steady_clock::now());
    if (left.count() <= 0) return false;
    pollfd polled[2] = {{pipes[0], POLLIN, 0}, {pipes[1], POLLIN, 0}};
    if (poll(polled, 2, static_cast<int>(left.count())) < 0 && errno != EINTR) return false;
    for (int i = 0; i < 2; ++i) {
      if (pipes[i] < 0 || polled[i].revents == 0) continue;
      char buffer[4096];
      const ssize_t n = read(pipes[i], buffer, sizeof(buffer));
      if (n <= 0) {
        close(pipes[i]);
        pipes[i] = -1;
      } else if (texts[i].size() < kMostKept) {
        texts[i].append(buffer, static_cast<size_t>(n));
      }
    }
    if (pipes[0] < 0)
      break;  // the report is whole; what the plugin's own children still hold open does not matter
  }
  return true;
}

std::string last_line(std::string text) {
  while (!text.empty() && text.back() == '\n') text.pop_back();
  const size_t start = text.rfind('\n');
  return start == std::string::npos ? text : text.substr(start + 1);
}

// The last whole line of what the child has reported; nothing when there is none.
PluginReport parse_report(std::string text) {
  text.resize(text.rfind('\n') == std::string::npos ? 0 : text.rfind('\n'));
  return text.empty() ? PluginReport()
                      : from_json(parse_json(last_line(text), "the report of a plugin's trial"));
}

PluginReport failed(Code code, std::string failure, PluginReport out = {}) {
  if (!out.api_version.empty())
    failure += fmt::format(" (it was loaded, PJRT {}, StableHLO {}, and looked for its devices)",
                           out.api_version, out.stablehlo_version);
  out.code = code;
  out.failure = std::move(failure);
  return out;
}

}  // namespace

PluginReport probe_plugin(const std::filesystem::path& file, const Vendor& vendor, double seconds) {
  if (const std::string missing = missing_device(vendor); !missing.empty())
    return failed(Code::kUnavailable, missing);
  int report[2], log[2];
  if (pipe2(report, O_CLOEXEC) != 0) return failed(Code::kResourceExhausted, std::strerror(errno));
  if (pipe2(log, O_CLOEXEC) != 0) {
    close(report[0]);
    close(report[1]);
    return failed(Code::kResourceExhausted, std::strerror(errno));
  }
  const pid_t child = fork();
  if (child == 0) run_child(file, vendor, report[1], log[1]);
  close(report[1]);
  close(log[1]);
  int pipes[2] = {report[0], log[0]};
  std::string texts[2];
  const auto end =
      std::chrono::steady_clock::now() +
      std::chrono::duration_cast<std::chrono::steady_clock::duration>(std::chrono::duration<double>(seconds));
  const bool in_time = child > 0 && read_until(end, pipes, texts);
  for (const int fd : pipes) {
    if (fd >= 0) close(fd);
  }
  if (child < 0) return failed(Code::kResourceExhausted, "a process for its trial cannot be started");
  if (!in_time) kill(child, SIGKILL);
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  PluginReport reported;
  try {
    reported = parse_report(texts[0]);
  } catch (const Error& error) {
    return failed(Code::kInternal, error.what());
  }
  if (reported.finished) return reported;
  if (!in_time)
    return failed(Code::kDeadlineExceeded, fmt::format("it did not start within {} s", seconds), reported);
  const std::string said = last_line(texts[1]).substr(0, 300);
  return failed(Code::kInternal,
                fmt::format("it ended the process that started it ({}){}",
                            WIFSIGNALED(status) ? strsignal(WTERMSIG(status))
                                                : fmt::format("exit code {}", WEXITSTATUS(status)),
                            said.empty() ? "" : ": " + said),
                reported);
}

void require_startable(const std::filesystem::path& file, const Vendor& vendor) {
  require(std::filesystem::is_regular_file(file), Code::kNotFound, "there is no plugin file {}",
          file.string());
  const std::filesystem::path cache = cache_folder();
  const std::filesystem::path mark =
      cache.empty() ? cache : cache / "started" / sha256_hex(sha256_file(file) + host_features());
  std::error_code ignored;
  if (!mark.empty() && missing_device(vendor).empty() && std::filesystem::exists(mark, ignored)) return;
  const PluginReport report = probe_plugin(file, vendor);
  if (!report.failure.empty())
    throw Error(report.code, fmt::format("the plugin {} cannot start: {}", file.string(), report.failure));
  if (mark.empty()) return;
  try {
    std::filesystem::create_directories(mark.parent_path());
    write_file_atomic(mark, json_line(to_json(report)));
  } catch (const std::exception& error) {
    log_debug("{}", error.what());  // tried again next time
  }
}

}  // namespace vertebra::pjrt
