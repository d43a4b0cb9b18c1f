#include "server/model_service.h"

#include <algorithm>

#include "base/error.h"
#include "base/log.h"

namespace vertebra::server {

ModelService::ModelService(std::unique_ptr<Assistant> assistant, std::string id, int64_t created_unix_s)
    : assistant_(std::move(assistant)),
      info_{std::move(id), assistant_->engine().context_length(), created_unix_s},
      thread_([this] { run(); }) {}

ModelService::~ModelService() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

uint64_t ModelService::generate(std::vector<int32_t> prompt, const TextOptions& options,
                                GenerationEvents events, const std::string& client) {
  const std::lock_guard lock(mutex_);
  jobs_.push_back({next_, std::move(prompt), options, std::move(events), client});
  changed_.notify_all();
  return next_++;
}

void ModelService::cancel(uint64_t number) {
  const std::lock_guard lock(mutex_);
  cancelled_.push_back(number);
  changed_.notify_all();
}

void ModelService::run() {
  for (;;) {
    std::vector<Job> jobs;
    std::vector<uint64_t> cancelled;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock,
                    [&] { return stopping_ || !jobs_.empty() || !cancelled_.empty() || !active_.empty(); });
      if (stopping_) return;
      jobs.swap(jobs_);
      cancelled.swap(cancelled_);
    }
    for (Job& job : jobs) {
      // A client that left before its turn.
      if (const auto it = std::find(cancelled.begin(), cancelled.end(), job.number); it != cancelled.end())
        continue;
      start(std::move(job));
    }
    for (const uint64_t number : cancelled) {
      if (const auto it = active_.find(number); it != active_.end())
        assistant_->cancel(*it->second.generation);
    }
    if (!active_.empty()) step();
  }
}

void ModelService::start(Job job) {
  try {
    Active active;
    active.events = std::move(job.events);
    active.generation = assistant_->start(
        std::move(job.prompt), job.options,
        [on_text = active.events.on_text](const std::string& piece) {
          if (!piece.empty()) on_text(piece);
          return true;
        },
        job.client);
    active_.emplace(job.number, std::move(active));
  } catch (const Error& error) {
    job.events.on_error(error);
  }
}

void ModelService::step() {
  try {
    assistant_->engine().step();
    for (auto it = active_.begin(); it != active_.end();) {
      if (!assistant_->finished(*it->second.generation)) {
        ++it;
        continue;
      }
      // Out of the map first: the callback may be the last to hold the request.
      Active done = std::move(it->second);
      it = active_.erase(it);
      done.events.on_done(assistant_->collect(*done.generation));
    }
  } catch (const std::exception& failure) {
    // Nobody's fault but ours: what was running cannot go on, what comes next may.
    log_message(LogLevel::kError, failure.what());
    for (auto& [number, active] : active_) {
      assistant_->cancel(*active.generation);
      active.events.on_error(Error(Code::kInternal, "the model failed while it answered"));
    }
    active_.clear();
  }
}

}  // namespace vertebra::server
