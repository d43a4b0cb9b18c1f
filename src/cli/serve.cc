// vertebra serve MODEL...: models over HTTP, in the Anthropic and OpenAI protocols, until it is interrupted.
#include <fmt/format.h>

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <set>
#include <thread>

#include "base/interrupt.h"
#include "base/log.h"
#include "cli/command.h"
#include "cli/generation_options.h"
#include "cli/model_argument.h"
#include "server/server.h"

namespace vertebra::cli {
namespace {

constexpr std::chrono::seconds kPatience(30);  // for answers that are being given when the end is asked for

// Unix time of the model's files.
int64_t changed_at(const std::filesystem::path& path) {
  const auto since =
      std::chrono::file_clock::to_sys(std::filesystem::last_write_time(path)).time_since_epoch();
  return std::chrono::duration_cast<std::chrono::seconds>(since).count();
}

class ServeCommand final : public Command {
 public:
  const char* name() const override { return "serve"; }
  const char* description() const override { return "Serve models over the Anthropic and OpenAI protocols"; }

  void add_options(CLI::App& app) override {
    app.add_option("models", models_,
                   "Model folders, GGUF files or run folders; the API calls each by its name")
        ->required();
    app.add_option("--host", http_.host, "Address to listen on")->capture_default_str();
    app.add_option("--port", port_, "Port to listen on; 0: any free one")
        ->check(CLI::Range(0, 65535))
        ->capture_default_str();
    app.add_option("--parallel", parallel_, "Answers a model gives at once; further ones wait")
        ->check(CLI::Range(int64_t{1}, int64_t{1024}))
        ->capture_default_str();
    app.add_option("--queue", queue_, "Requests that may wait for a model before it refuses more")
        ->check(CLI::Range(int64_t{1}, int64_t{1} << 20))
        ->capture_default_str();
    serving_.add_serving(app);
  }

  int run(const GlobalOptions& global) override {
    Backend& backend = open_backend(global);
    EngineOptions engine = serving_.engine(backend);
    engine.max_requests = parallel_;
    engine.max_waiting = queue_;
    std::vector<std::unique_ptr<server::ModelService>> services;
    std::set<std::string> names;
    for (const std::string& model : models_) {
      services.push_back(open(backend, model, engine));
      const std::string& id = services.back()->info().id;
      require(names.insert(id).second, "two models are called '{}': their names must differ", id);
    }
    http_.port = static_cast<uint16_t>(port_);
    server::Server server(std::move(services), http_);
    announce(global, server.port(), names);
    std::thread watch([&server] {
      while (!interrupt_requested()) std::this_thread::sleep_for(std::chrono::milliseconds(50));
      server.stop(kPatience);
    });
    server.run();
    watch.join();
    throw Interrupted("stopped");
  }

 private:
  std::unique_ptr<server::ModelService> open(Backend& backend, const std::string& model,
                                             const EngineOptions& engine) const {
    const std::filesystem::path path = model_argument(model);
    auto assistant = std::make_unique<Assistant>(backend, path, engine, serving_.weight_form(backend));
    require(
        assistant->has_chat_template(), Code::kFailedPrecondition,
        "'{}' has no chat template, so it cannot be served; chat_template.jinja in its folder would be one",
        model);
    require(assistant->gate_passed() != std::optional<bool>(false), Code::kFailedPrecondition,
            "'{}' has NOT passed its gate, so it is not served; its manifest.json lists the scores that are "
            "too low",
            model);
    std::string id = assistant->name();
    return std::make_unique<server::ModelService>(std::move(assistant), std::move(id), changed_at(path));
  }

  void announce(const GlobalOptions& global, uint16_t port, const std::set<std::string>& names) const {
    const std::string address = fmt::format("http://{}:{}", http_.host, port);
    if (global.json) {
      print_json({{"address", address}, {"models", names}});
    } else {
      for (const std::string& name : names) fmt::print("serving '{}' at {}\n", name, address);
    }
    std::fflush(stdout);
  }

  std::vector<std::string> models_;
  server::HttpOptions http_;
  int port_ = 8080;
  int64_t parallel_ = 8, queue_ = 64;
  ServingFlags serving_;
};

}  // namespace

std::unique_ptr<Command> make_serve_command() { return std::make_unique<ServeCommand>(); }

}  // namespace vertebra::cli
