// What those who are served notice of each other: the first token of a request whose beginning is cached
// against that of one whose is not, the gaps between the tokens of running answers while a long prompt comes
// in, and the speed of an answer behind a long context by the type of the cache.
//   bench_serving MODEL [--json] [--threads N] [--rounds N] [--only SUBSTRING] [--cache-type
//   f32|bf16|f16|q8_0]
#include <fmt/format.h>
#include <time.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "base/error.h"
#include "base/rng.h"
#include "bench/options.h"
#include "engine/engine.h"
#include "models/model_folder.h"

namespace vertebra::bench {
namespace {

struct Options : CommonOptions {
  std::string model, cache = "f32";
  double stretch = EngineOptions().prefill_stretch;
};

// The value below which that share of all lies.
double quantile(std::vector<double> values, double share) {
  require(!values.empty(), "nothing was measured");
  std::sort(values.begin(), values.end());
  return values[std::min(values.size() - 1, static_cast<size_t>(share * static_cast<double>(values.size())))];
}

class Serving {
 public:
  explicit Serving(const Options& options)
      : options_(options), team_(options.threads), backend_(make_cpu_backend({&team_, {}})) {
    LoadedModel loaded = read_model(options.model, WeightForm::kStored);
    model_ = std::move(loaded.model);
    for (auto& [name, tensor] : loaded.parameters) {
      parameters_.set(name, backend_->upload(tensor));
      tensor = Tensor();  // one copy of the weights at a time
    }
  }

  void run() {
    if (wanted("prefix")) prefix();
    if (wanted("gaps")) gaps();
    if (wanted("depth")) depth();
  }

 private:
  // With one thread the processor time of the process, which other programs disturb less than the wall clock.
  double now_s() const {
    timespec now{};
    clock_gettime(options_.threads == 1 ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &now);
    return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
  }
  bool wanted(const std::string& name) const { return name.find(options_.only) != std::string::npos; }

  Engine engine(int64_t requests, int64_t context) const {
    return Engine(*backend_, *model_, parameters_,
                  {.max_requests = requests,
                   .context_length = std::min(context, model_->shape().context_length),
                   .cache = *dtype_from_name(options_.cache),
                   .prefill_stretch = options_.stretch});
  }

  GenerationRequest request(int64_t length, int64_t answer, std::string_view stream) const {
    GenerationRequest out;
    const Philox random(1, stream);
    const auto vocabulary = static_cast<uint64_t>(model_->shape().vocabulary);
    for (int64_t i = 0; i < length; ++i)
      out.prompt.push_back(static_cast<int32_t>(random.below(static_cast<uint64_t>(i), vocabulary)));
    out.max_tokens = answer;
    return out;
  }

  void put(const std::string& name, double value, const std::string& unit) const {
    if (options_.json) {
      fmt::print(
          R"({{"name": "{}", "value": {:.5g}, "unit": "{}", "cache": "{}", "threads": {}, "isa": "{}"}})"
          "\n",
          name, value, unit, options_.cache, options_.threads, isa_name(active_isa()));
    } else {
      fmt::print("{:<56} {:>9.4g} {}\n", name, value, unit);
    }
    std::fflush(stdout);
  }

  // A beginning of 1,500 tokens, then 20 of the request's own.
  void prefix() const {
    Engine serving = engine(1, 2048);
    std::vector<double> first, second, shares;
    for (int round = 0; round < options_.rounds; ++round) {
      double seconds[2] = {};
      for (int i = 0; i < 2; ++i) {
        GenerationRequest one = request(1500, 1, fmt::format("beginning/{}", round));
        for (const int32_t id : request(20, 1, fmt::format("own/{}/{}", round, i)).prompt)
          one.prompt.push_back(id);
        const double start = now_s();
        const GenerationResult result = serving.generate({one})[0];
        seconds[i] = (now_s() - start);
        require(i == 0 || result.cached_prompt_tokens > 1400, "only {} tokens were found in the cache",
                result.cached_prompt_tokens);
      }
      first.push_back(seconds[0] * 1e3);
      second.push_back(seconds[1] * 1e3);
      shares.push_back(100 * seconds[1] / seconds[0]);
    }
    put("prefix 1500: first token of the first request", quantile(first, 0.5), "ms");
    put("prefix 1500: first token of the second", quantile(second, 0.5), "ms");
    put("prefix 1500: second in % of the first", quantile(shares, 0.5), "%");
  }

  // Seven answers; then a prompt of 2,000 tokens comes in.
  void gaps() const {
    Engine serving = engine(8, 4096);
    struct Stream {
      double last_s = 0;
      int64_t tokens = 0;
    };
    std::vector<double> quiet, disturbed, waits;
    for (int round = 0; round < options_.rounds; ++round) {
      bool prompt_waits = false, first_token = false;
      std::vector<Stream> streams(7);
      std::vector<int64_t> numbers;
      for (size_t i = 0; i < streams.size(); ++i) {
        numbers.push_back(serving.submit(
            request(128, 1000, fmt::format("stream/{}/{}", round, i)), [&, i](const GeneratedToken&) {
              Stream& stream = streams[i];
              const double now = now_s();
              if (stream.tokens++ > 20)
                (prompt_waits ? disturbed : quiet).push_back((now - stream.last_s) * 1e3);
              stream.last_s = now;
              return true;
            }));
      }
      const auto all_beyond = [&](int64_t tokens) {
        return std::all_of(streams.begin(), streams.end(),
                           [&](const Stream& stream) { return stream.tokens > tokens; });
      };
      while (!all_beyond(80)) serving.step();
      const double start = now_s();
      numbers.push_back(
          serving.submit(request(2000, 1, fmt::format("long/{}", round)), [&](const GeneratedToken&) {
            first_token = true;
            return true;
          }));
      prompt_waits = true;
      while (!first_token) serving.step();
      waits.push_back((now_s() - start) * 1e3);
      for (const int64_t number : numbers) serving.cancel(number);
      while (serving.step()) {
      }
      for (const int64_t number : numbers) serving.take(number);
    }
    put("gaps of 7 answers: median without prompt", quantile(quiet, 0.5), "ms");
    put("gaps of 7 answers: p99 without prompt", quantile(quiet, 0.99), "ms");
    put("gaps of 7 answers: median beside 2000 tokens", quantile(disturbed, 0.5), "ms");
    put("gaps of 7 answers: p99 beside 2000 tokens", quantile(disturbed, 0.99), "ms");
    put("gaps of 7 answers: that p99 / median without prompt",
        quantile(disturbed, 0.99) / quantile(quiet, 0.5), "");
    put("gaps of 7 answers: first token of the 2000", quantile(waits, 0.5), "ms");
  }

  void depth() const {
    for (const int64_t tokens : {128, 4096}) {
      Engine serving = engine(1, tokens + 64);
      const GenerationRequest one = request(tokens, 33, "depth");
      serving.generate({one});  // its pages stay: what is timed are answers
      std::vector<double> rates;
      for (int round = 0; round < options_.rounds; ++round) {
        double first = 0;
        int64_t count = 0;
        const int64_t number = serving.submit(one, [&](const GeneratedToken&) {
          if (count++ == 0) first = now_s();
          return true;
        });
        while (serving.step()) {
        }
        rates.push_back(static_cast<double>(count - 1) / (now_s() - first));
        serving.take(number);
      }
      put(fmt::format("depth {}, cache {}: best", tokens, options_.cache), quantile(rates, 1), "tokens/s");
      put(fmt::format("depth {}, cache {}: median", tokens, options_.cache), quantile(rates, 0.5),
          "tokens/s");
    }
  }

  const Options& options_;
  ThreadTeam team_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Model> model_;
  BufferSet parameters_;
};

}  // namespace
}  // namespace vertebra::bench

int main(int argc, char** argv) {
  using namespace vertebra::bench;
  CLI::App app("What requests that are served together notice of each other", "bench_serving");
  Options options;
  app.add_option("model", options.model, "A model folder or a GGUF file")->required();
  add_common(app, options);
  app.add_option("--cache-type", options.cache, "f32, bf16, f16 or q8_0")
      ->check(CLI::IsMember({"f32", "bf16", "f16", "q8_0"}))
      ->capture_default_str();
  app.add_option("--prefill-stretch", options.stretch, "As EngineOptions::prefill_stretch")
      ->capture_default_str();
  return bench_main(app, argc, argv, [&] { Serving(options).run(); });
}
