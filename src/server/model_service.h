// A model that answers many clients: the one thread that drives its engine, and the way to it from any other.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "engine/assistant.h"

namespace vertebra::server {

struct ModelInfo {
  std::string id;
  int64_t context_length = 0;
  int64_t created_unix_s = 0;
};

// Called from the engine's thread; must return at once.
struct GenerationEvents {
  std::function<void(const std::string& piece)> on_text;
  std::function<void(TextResult result)> on_done;
  std::function<void(const Error& error)> on_error;  // instead of on_done
};

class ModelService {
 public:
  // `created_unix_s`: when the model was made, as far as known.
  ModelService(std::unique_ptr<Assistant> assistant, std::string id, int64_t created_unix_s);
  // Cancels what is running and joins the thread.
  ~ModelService();

  const ModelInfo& info() const { return info_; }
  // For prompts: everything of it that is const is thread-safe.
  const Assistant& assistant() const { return *assistant_; }

  // Queues an answer; returns its number, for cancel. What the engine refuses comes as on_error.
  uint64_t generate(std::vector<int32_t> prompt, const TextOptions& options, GenerationEvents events,
                    const std::string& client);
  // Ends an answer at the next step; its on_done may come or not. Unknown numbers are ignored.
  void cancel(uint64_t number);

 private:
  struct Job {
    uint64_t number = 0;
    std::vector<int32_t> prompt;
    TextOptions options;
    GenerationEvents events;
    std::string client;
  };
  struct Active {
    std::unique_ptr<TextGeneration> generation;
    GenerationEvents events;
  };
  void run();
  void start(Job job);
  void step();

  std::unique_ptr<Assistant> assistant_;
  ModelInfo info_;
  std::map<uint64_t, Active> active_;  // the thread's own
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Job> jobs_;
  std::vector<uint64_t> cancelled_;
  uint64_t next_ = 1;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace vertebra::server
