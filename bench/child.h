// A program that is run to its end: what it printed, how long it took, how much memory it had at most.
#pragma once

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <string>
#include <vector>

#include "base/error.h"
#include "bench/figure.h"

namespace vertebra::bench {

struct ChildResult {
  std::string output;  // of stdout
  double seconds = 0, peak_bytes = 0;
};

// argv of a child, whose strings live as long as `arguments`.
inline std::vector<char*> argv_of(std::vector<std::string>& arguments) {
  std::vector<char*> out;
  for (std::string& each : arguments) out.push_back(each.data());
  out.push_back(nullptr);
  return out;
}

// Throws failed_precondition when the program is not there or fails. Its stderr goes nowhere.
inline ChildResult run_child(std::vector<std::string> arguments) {
  int from[2];
  require(pipe2(from, O_CLOEXEC) == 0, Code::kResourceExhausted, "no pipe to a child process");
  std::vector<char*> argv = argv_of(arguments);
  ChildResult out;
  const double start = now_s();
  const pid_t child = fork();
  require(child >= 0, Code::kResourceExhausted, "no child process");
  if (child == 0) {
    dup2(from[1], 1);
    const int nowhere = open("/dev/null", O_WRONLY);
    dup2(nowhere, 2);
    execvp(argv[0], argv.data());
    _exit(127);
  }
  close(from[1]);
  char buffer[4096];
  for (ssize_t n; (n = read(from[0], buffer, sizeof buffer)) > 0;)
    out.output.append(buffer, static_cast<size_t>(n));
  close(from[0]);
  int status = 0;
  rusage usage = {};
  wait4(child, &status, 0, &usage);
  out.seconds = now_s() - start;
  out.peak_bytes = static_cast<double>(usage.ru_maxrss) * 1024;
  require(WIFEXITED(status) && WEXITSTATUS(status) == 0, Code::kFailedPrecondition, "{} failed ({} {})",
          arguments[0], WIFEXITED(status) ? "exit code" : "signal",
          WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
  return out;
}

// Keeps one core busy while it lives.
class BusyProcess {
 public:
  BusyProcess() : child_(fork()) {
    require(child_ >= 0, Code::kResourceExhausted, "no child process");
    if (child_ == 0) {
      std::atomic<uint64_t> count = 0;
      for (;;) count.fetch_add(1, std::memory_order_relaxed);
    }
  }
  ~BusyProcess() {
    kill(child_, SIGKILL);
    waitpid(child_, nullptr, 0);
  }
  BusyProcess(const BusyProcess&) = delete;
  BusyProcess& operator=(const BusyProcess&) = delete;

 private:
  pid_t child_;
};

}  // namespace vertebra::bench
