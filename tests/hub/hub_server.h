// Starts tests/hub/hub_server.py for a test and ends it afterwards.
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <string>

namespace vertebra {

class HubServer {
 public:
  // `folder`: served as real/model.
  explicit HubServer(const std::string& folder = "/nonexistent") {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) return;
    pid_ = fork();
    if (pid_ == 0) {
      dup2(ends[1], STDOUT_FILENO);
      execlp("python3", "python3", VERTEBRA_SOURCE_DIR "/tests/hub/hub_server.py", folder.c_str(), nullptr);
      _exit(127);
    }
    close(ends[1]);
    FILE* output = fdopen(ends[0], "r");
    if (fscanf(output, "%d %d", &port_, &other_port_) != 2) port_ = 0;
    fclose(output);
  }
  ~HubServer() {
    if (pid_ <= 0) return;
    kill(pid_, SIGTERM);
    waitpid(pid_, nullptr, 0);
  }
  HubServer(const HubServer&) = delete;
  HubServer& operator=(const HubServer&) = delete;

  // False where there is no Python to run it.
  bool runs() const { return port_ > 0; }
  int port() const { return port_; }
  int other_port() const { return other_port_; }
  std::string url() const { return "http://127.0.0.1:" + std::to_string(port_); }

 private:
  pid_t pid_ = -1;
  int port_ = 0, other_port_ = 0;
};

}  // namespace vertebra
