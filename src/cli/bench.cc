// vertebra bench NAME [MODEL]: speed as a share of what this machine can do at most. One line a figure, with
// --json {name, value, unit, ceiling, share, threads, isa, device, model}. Values and ceilings are the best
// of several tries: what other programs take away is not the figure's business.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>

#include "backend/buffer_set.h"
#include "backend/cpu/ceiling.h"
#include "backend/cpu/kernels/isa.h"
#include "base/error.h"
#include "base/file.h"
#include "base/interrupt.h"
#include "base/rng.h"
#include "base/thread_team.h"
#include "cli/command.h"
#include "cli/model_argument.h"
#include "data/loader.h"
#include "engine/assistant.h"
#include "models/model_folder.h"
#include "ops/ops.h"
#include "text/bpe_trainer.h"
#include "train/evaluate.h"
#include "train/train_graph.h"

namespace vertebra::cli {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

struct BenchFlags {
  std::string name, model, text, precision = "auto";
  double seconds = 3;
  int64_t rows = 16, length = 256;
  int64_t streams = 0, prompt = 0, answer = 0;
  int64_t depth = 6, embedding = 384, vocabulary = 4096;
};

class Bench {
 public:
  Bench(const BenchFlags& flags, const GlobalOptions& global)
      : flags_(flags), global_(global), backend_(open_backend(global)) {
    compute_ = flags.precision == "auto" ? (backend_.native_bf16() ? DType::kBF16 : DType::kF32)
                                         : *dtype_from_name(flags.precision);
  }

  void gemm();
  void train();
  void prefill();
  void decode();
  void tokenizer();

 private:
  // A model with its parameters on the device: of the folder given, or a standard one with random weights.
  struct Subject {
    std::unique_ptr<Model> model;
    BufferSet parameters;
    std::string name;
    double parameter_bytes(bool with_embedding_table) const;
    // What is multiplied: the block-quantized type that most weights have, else `compute`.
    DType product_type(DType compute) const;
  };
  std::unique_ptr<Model> make_standard_model() const;
  Subject open_subject(WeightForm form);
  void put(const std::string& name, double value, const std::string& unit, double ceiling,
           const std::string& model = "");
  // As chat and generate load a model.
  WeightForm serving_form() const { return backend_.host_memory() ? WeightForm::kStored : WeightForm::kF32; }
  double peak(DType dtype);
  void product(int64_t m, int64_t n, int64_t k, DType compute);
  std::vector<int32_t> random_tokens(int64_t count, int64_t vocabulary, std::string_view stream) const;
  double decode_ceiling(const Subject& subject, int64_t requests, double mean_length);
  void decode_requests(Subject& subject, int64_t requests, int64_t prompt, int64_t tokens);
  void check_interrupt() const {
    if (interrupt_requested()) throw Interrupted("the benchmark was stopped");
  }

  const BenchFlags& flags_;
  const GlobalOptions& global_;
  Backend& backend_;
  DType compute_;
  std::map<DType, double> peaks_;
};

// `ceiling` 0: none is known.
void Bench::put(const std::string& name, double value, const std::string& unit, double ceiling,
                const std::string& model) {
  const bool on_cpu = global_.device == "cpu";
  if (global_.json) {
    Json out = {{"name", name}, {"value", value}, {"unit", unit}};
    out["ceiling"] = ceiling > 0 ? Json(ceiling) : Json();
    out["share"] = ceiling > 0 ? Json(value / ceiling) : Json();
    out["threads"] = global_thread_team().size();
    out["isa"] = on_cpu ? Json(isa_name(active_isa())) : Json();
    out["device"] = backend_.device().name;
    out["model"] = model.empty() ? Json() : Json(model);
    return print_json(out);
  }
  const std::string share =
      ceiling > 0 ? fmt::format("{:5.1f} % of {:.5g}", 100 * value / ceiling, ceiling) : std::string();
  fmt::print("{:<28} {:>12.5g} {:<12} {}{}\n", name, value, unit, share,
             model.empty() ? "" : "   (" + model + ")");
  std::fflush(stdout);
}

// On the CPU measured anew for every figure, the best so far: one short measurement on a busy machine is low.
double Bench::peak(DType dtype) {
  if (is_block_quantized(dtype)) return 2 * measure_int8_ceiling();  // a multiply-add is two
  double& best = peaks_[dtype];
  best = std::max(best, backend_.peak_flops(dtype));
  for (int i = 0; i < 5 && global_.device == "cpu"; ++i) best = std::max(best, measure_fma_ceiling(dtype));
  return best;
}

std::vector<int32_t> Bench::random_tokens(int64_t count, int64_t vocabulary, std::string_view stream) const {
  const Philox random(1, stream);
  std::vector<int32_t> out(static_cast<size_t>(count));
  for (size_t i = 0; i < out.size(); ++i)
    out[i] = static_cast<int32_t>(random.below(i, static_cast<uint64_t>(vocabulary)));
  return out;
}

// ---- gemm ----------------------------------------------------------------------------------------

// x [m, k] times w [n, k]^T, the layout of a model's layers, through a graph.
void Bench::product(int64_t m, int64_t n, int64_t k, DType compute) {
  Graph graph;
  const Value x = graph.parameter("x", {DType::kF32, {m, k}});
  const Value w = graph.parameter("w", {DType::kF32, {n, k}});
  graph.add_output("y", linear(x, w, {}, compute));
  BufferSet buffers;
  for (const auto& [name, rows] : {std::pair{"x", m}, std::pair{"w", n}}) {
    std::vector<float> values(static_cast<size_t>(rows * k));
    const Philox random(1, name);
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(random.uniform(i) - 0.5);
    buffers.set(name, backend_.upload(Tensor::view({DType::kF32, {rows, k}}, values.data(), nullptr)));
  }
  BoundExecutable executable(backend_, graph, buffers);
  executable.run();
  const double flops = 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
  double best = 1e300;
  const auto begin = Clock::now();
  for (int round = 0; round < 5 || seconds_since(begin) < flags_.seconds / 5; ++round) {
    check_interrupt();
    const auto start = Clock::now();
    executable.run();
    // Where a device works on after run() returns, reading the result waits for it.
    if (global_.device != "cpu") buffers.at("y").to_host();
    best = std::min(best, seconds_since(start));
  }
  put(fmt::format("gemm_{}_{}x{}x{}", dtype_name(compute), m, n, k), flops / best * 1e-9, "GFLOP/s",
      peak(compute) * 1e-9);
}

void Bench::gemm() {
  std::vector<DType> types = {DType::kF32};
  if (backend_.native_bf16()) types.push_back(DType::kBF16);
  for (const DType type : types) {
    // A square one; a layer of a small model on a training batch; a chunk of a prompt; a few rows of
    // decoding.
    for (const auto& [m, n, k] : {std::tuple<int64_t, int64_t, int64_t>{1024, 1024, 1024},
                                  {4096, 1024, 384},
                                  {256, 4096, 1024},
                                  {8, 4096, 1024}}) {
      product(m, n, k, type);
    }
  }
}

// ---- train ---------------------------------------------------------------------------------------

std::unique_ptr<Model> Bench::make_standard_model() const {
  const Json sizes = {{"depth", flags_.depth}, {"embedding", flags_.embedding}};
  const int64_t context = std::max<int64_t>(1024, flags_.length);
  return make_model(default_config("llama", sizes, flags_.vocabulary, context), "bench");
}

Bench::Subject Bench::open_subject(WeightForm form) {
  Subject out;
  if (flags_.model.empty()) {
    out.model = make_standard_model();
    for (const ParameterSpec& spec : out.model->parameters())
      out.parameters.set(spec.name, backend_.upload(initial_value(spec, 1)));
    out.name = fmt::format("llama {}x{}, random weights", flags_.depth, flags_.embedding);
    return out;
  }
  LoadedModel loaded = read_model(find_model(model_argument(flags_.model)), form);
  out.model = std::move(loaded.model);
  for (auto& [name, tensor] : loaded.parameters) {
    out.parameters.set(name, backend_.upload(tensor));
    tensor = Tensor();  // one copy of the weights at a time
  }
  out.name = flags_.model;
  return out;
}

void Bench::train() {
  Subject subject = open_subject(WeightForm::kF32);
  const ModelShape& shape = subject.model->shape();
  TrainGraphOptions options;
  options.rows = flags_.rows;
  options.length = std::min(flags_.length, shape.context_length);
  options.compute = compute_;
  BufferSet& buffers = subject.parameters;
  for (const StateSpec& state : optimizer_state(*subject.model, options.optimizer))
    buffers.set(state.name, backend_.upload(Tensor::zeros({DType::kF32, state.shape})));
  BoundExecutable step(backend_, build_training_step(*subject.model, options), buffers);

  Batch batch;
  batch.rows = static_cast<int>(options.rows);
  batch.length = static_cast<int>(options.length);
  const int64_t tokens = options.rows * options.length;
  batch.tokens = random_tokens(tokens, shape.vocabulary, "tokens");
  batch.labels = random_tokens(tokens, shape.vocabulary, "labels");
  batch.segments.assign(static_cast<size_t>(tokens), 0);
  for (int64_t i = 0; i < tokens; ++i) batch.positions.push_back(static_cast<int32_t>(i % options.length));
  batch.loss_tokens = tokens;
  upload_batch(batch, buffers);
  const auto set = [&](const char* name, double value) {
    const auto as_float = static_cast<float>(value);
    if (Buffer* buffer = buffers.find(name))
      buffer->copy_from(Tensor::view({DType::kF32, {}}, &as_float, nullptr));
  };
  set(inputs::kLossScale, 1.0 / static_cast<double>(tokens));
  set(inputs::kLearningRate, 1e-4);
  set(inputs::kMatrixLearningRate, 1e-3);
  set(inputs::kNormLimit, 1e30);

  std::vector<double> times;
  const auto begin = Clock::now();
  for (int i = 0; i < 4 || seconds_since(begin) < flags_.seconds; ++i) {
    check_interrupt();
    set(inputs::kStep, i + 1);
    const auto start = Clock::now();
    step.run();
    const double loss = buffers.at(outputs::kLoss).to_host().at(0);
    if (i > 0) times.push_back(seconds_since(start));  // the first step warms up
    require(std::isfinite(loss), Code::kInternal, "the loss of step {} is {}", i + 1, loss);
  }
  const double flops = subject.model->training_flops_per_token(options.length);
  put(fmt::format("train_{}", dtype_name(compute_)),
      static_cast<double>(tokens) / *std::min_element(times.begin(), times.end()), "tokens/s",
      peak(compute_) / flops, subject.name);
}

// ---- prefill and decode --------------------------------------------------------------------------

// Of what one step reads: an embedding table beside an untied head is read at a few rows only.
double Bench::Subject::parameter_bytes(bool with_embedding_table) const {
  double sum = 0;
  for (const ParameterSpec& spec : model->parameters()) {
    const bool table = spec.role == Role::kEmbedding && spec.name != model->head();
    if (with_embedding_table || !table)
      sum += static_cast<double>(parameters.at(spec.name).type().size_bytes());
  }
  return sum;
}

DType Bench::Subject::product_type(DType compute) const {
  std::map<DType, int64_t> elements;
  for (const auto& [name, buffer] : parameters.all())
    elements[buffer->type().dtype] += buffer->type().shape.elements();
  const auto most = std::max_element(elements.begin(), elements.end(),
                                     [](const auto& a, const auto& b) { return a.second < b.second; });
  return is_block_quantized(most->first) ? most->first : compute;
}

void Bench::prefill() {
  const Subject subject = open_subject(serving_form());
  const Model& model = *subject.model;
  EngineOptions options;
  options.compute = compute_;
  options.share_prefixes = false;  // every round computes its prompts
  options.max_requests = 1;
  options.context_length = std::min<int64_t>(model.shape().context_length, 1024);
  const int64_t length = options.context_length / 2;
  Engine engine(backend_, model, subject.parameters, options);
  GenerationRequest request;
  request.prompt = random_tokens(length, model.shape().vocabulary, "prompt");
  request.max_tokens = 1;
  std::vector<double> times;
  const auto begin = Clock::now();
  for (int i = 0; i < 4 || seconds_since(begin) < flags_.seconds; ++i) {
    check_interrupt();
    const auto start = Clock::now();
    engine.generate({request});
    if (i > 0) times.push_back(seconds_since(start));
  }
  // The forward third of a training step, without the head, which only the last token needs.
  double flops = model.training_flops_per_token(length) / 3;
  for (const ParameterSpec& spec : model.parameters()) {
    if (spec.name == model.head()) flops -= 2 * static_cast<double>(spec.shape.elements());
  }
  const DType type = subject.product_type(compute_);
  put(fmt::format("prefill_{}_{}", dtype_name(type), length),
      static_cast<double>(length) / *std::min_element(times.begin(), times.end()), "tokens/s",
      peak(type) / flops, subject.name);
}

// Tokens per second if a step did nothing but read the weights once and every request's cache.
double Bench::decode_ceiling(const Subject& subject, int64_t requests, double mean_length) {
  if (global_.device != "cpu") return 0;  // read bandwidth is measured for the CPU only
  static const double bandwidth = measure_read_bandwidth();
  const ModelShape& s = subject.model->shape();
  const double cache =
      2.0 * 4 * static_cast<double>(s.layers * s.key_value_heads * s.head_dim) * mean_length;  // K and V, f32
  const auto n = static_cast<double>(requests);
  return n * bandwidth / (subject.parameter_bytes(false) + n * cache);
}

void Bench::decode_requests(Subject& subject, int64_t requests, int64_t prompt, int64_t tokens) {
  EngineOptions options;
  options.compute = compute_;
  options.share_prefixes = false;  // every round computes its prompts
  options.max_requests = requests;
  options.context_length = prompt + tokens;
  options.tokens_per_step = std::max(options.tokens_per_step, requests * prompt);  // all prompts in one
  Engine engine(backend_, *subject.model, subject.parameters, options);
  std::vector<double> rates;
  const auto begin = Clock::now();
  for (int i = 0; i < 2 || seconds_since(begin) < flags_.seconds / 2; ++i) {
    check_interrupt();
    std::vector<int64_t> numbers;
    for (int64_t r = 0; r < requests; ++r) {
      GenerationRequest request;
      request.prompt = random_tokens(prompt, subject.model->shape().vocabulary, fmt::format("prompt/{}", r));
      request.max_tokens = tokens;
      numbers.push_back(engine.submit(std::move(request)));
    }
    engine.step();  // the prompts, and the first token of each
    const auto start = Clock::now();
    while (engine.step()) check_interrupt();
    const double seconds = seconds_since(start);
    int64_t generated = 0;
    for (const int64_t number : numbers) generated += static_cast<int64_t>(engine.take(number).tokens.size());
    if (i > 0) rates.push_back(static_cast<double>(generated - requests) / seconds);
  }
  const double mean_length = static_cast<double>(prompt) + static_cast<double>(tokens) / 2;
  put(fmt::format("decode_{}_{}_request{}", dtype_name(subject.product_type(compute_)), requests,
                  requests > 1 ? "s" : ""),
      *std::max_element(rates.begin(), rates.end()), "tokens/s",
      decode_ceiling(subject, requests, mean_length), subject.name);
}

void Bench::decode() {
  Subject subject = open_subject(serving_form());
  const int64_t wanted = (flags_.prompt > 0 ? flags_.prompt : 16) + (flags_.answer > 0 ? flags_.answer : 128);
  const int64_t context = std::min<int64_t>(subject.model->shape().context_length, wanted);
  const int64_t prompt = flags_.prompt > 0 ? flags_.prompt : std::max<int64_t>(1, context / 9);
  require(context - prompt >= 2, "the model's context of {} tokens is too short for this benchmark", context);
  for (const int64_t requests : {1, 8}) {
    if (flags_.streams == 0 || flags_.streams == requests)
      decode_requests(subject, requests, prompt, context - prompt);
  }
  if (flags_.streams > 1 && flags_.streams != 8)
    decode_requests(subject, flags_.streams, prompt, context - prompt);
}

// ---- tokenizer -----------------------------------------------------------------------------------

// Words of a made-up language with the frequencies of a real one (Zipf): 2 MB that every machine has.
std::string make_text() {
  constexpr std::string_view kSyllables[] = {"ka", "re", "ti",  "mon", "al", "es", "vo", "pri", "un",  "sta",
                                             "de", "lo", "ing", "er",  "na", "qu", "so", "thi", "bel", "ou"};
  constexpr int kWords = 100'000;
  PhiloxSequence random(Philox(1, "words"));
  std::vector<std::string> words;
  for (int i = 0; i < kWords; ++i) {
    std::string word;
    for (uint64_t n = 1 + random.below(5); n > 0; --n)
      word += kSyllables[random.below(std::size(kSyllables))];
    words.push_back(word);
  }
  std::string text;
  while (text.size() < 2'000'000) {
    // kWords^u is distributed as 1 / rank.
    text += words[static_cast<size_t>(std::pow(kWords, random.uniform())) - 1];
    text += random.chance(0.1) ? (random.chance(0.5) ? ".\n" : ", ") : " ";
    if (random.chance(0.02)) text += fmt::format("{} ", random.below(10000));
  }
  return text;
}

void Bench::tokenizer() {
  const std::string text = flags_.text.empty() ? make_text() : read_file(flags_.text);
  require(!text.empty(), "{}: the text is empty", flags_.text);
  std::optional<Tokenizer> tokenizer;
  std::string name = flags_.model;
  const double megabytes = static_cast<double>(text.size()) * 1e-6;
  if (!flags_.model.empty()) {
    const std::filesystem::path path = model_argument(flags_.model);
    const bool direct =
        std::filesystem::is_regular_file(path) || std::filesystem::exists(path / "tokenizer.json");
    tokenizer = read_tokenizer(direct ? path : find_model(path));
  } else {
    BpeTrainerOptions options;
    options.vocab_size = static_cast<int>(flags_.vocabulary);
    const auto start = Clock::now();
    tokenizer = train_bpe_documents({text}, options);
    name = fmt::format("{} tokens, trained on the text", tokenizer->vocab_size());
    put("tokenizer_train", megabytes / seconds_since(start), "MB/s", 0, name);
  }
  // Pieces of about 64 KiB, cut at line ends where there are any: the documents of a corpus.
  std::vector<std::string_view> pieces;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', std::min(text.size(), at + 65'536)), text.size() - 1) + 1;
    pieces.push_back(std::string_view(text).substr(at, end - at));
    at = end;
  }
  const auto measure = [&](const std::string& what, FunctionRef<void()> work) {
    double best = 1e300;
    const auto begin = Clock::now();
    for (int i = 0; i < 3 || seconds_since(begin) < flags_.seconds / 2; ++i) {
      check_interrupt();
      const auto start = Clock::now();
      work();
      best = std::min(best, seconds_since(start));
    }
    put(what, megabytes / best, "MB/s", 0, name);
  };
  measure("tokenizer_encode_1_thread", [&] {
    for (const std::string_view piece : pieces) tokenizer->encode(piece);
  });
  measure("tokenizer_encode", [&] {
    global_thread_team().parallel_for(static_cast<int64_t>(pieces.size()), [&](int64_t i, int) {
      tokenizer->encode(pieces[static_cast<size_t>(i)]);
    });
  });
}

// ---- the command ---------------------------------------------------------------------------------

class BenchCommand final : public Command {
 public:
  const char* name() const override { return "bench"; }
  const char* description() const override {
    return "Measure speed as a share of the machine's ceiling: gemm, train, prefill, decode, tokenizer";
  }

  void add_options(CLI::App& app) override {
    app.add_option("name", flags_.name, "What to measure")
        ->required()
        ->check(CLI::IsMember({"gemm", "train", "prefill", "decode", "tokenizer"}));
    app.add_option(
        "model", flags_.model,
        "A model or run folder (default: a small llama with random weights); for 'tokenizer' also a "
        "tokenizer.json");
    app.add_option("--seconds", flags_.seconds, "About how long to measure a figure")
        ->capture_default_str()
        ->check(CLI::Range(0.0, 3600.0));
    app.add_option("--precision", flags_.precision, "Of matrix products: auto, f32 or bf16")
        ->capture_default_str()
        ->check(CLI::IsMember({"auto", "f32", "bf16"}));
    app.add_option("--rows", flags_.rows, "Rows of a training batch")
        ->capture_default_str()
        ->check(CLI::Range(1, 1 << 16));
    app.add_option("--length", flags_.length, "Tokens in a row")
        ->capture_default_str()
        ->check(CLI::Range(1, 1 << 20));
    app.add_option("--streams", flags_.streams, "Requests that 'decode' answers at once (default: 1, then 8)")
        ->check(CLI::Range(1, 1 << 10));
    app.add_option("--prompt", flags_.prompt, "Tokens of a prompt of 'decode' (default: 16)")
        ->check(CLI::Range(1, 1 << 20));
    app.add_option("--answer", flags_.answer, "Tokens that 'decode' generates for a prompt (default: 128)")
        ->check(CLI::Range(2, 1 << 20));
    app.add_option("--depth", flags_.depth, "Layers of the default model")
        ->capture_default_str()
        ->check(CLI::Range(1, 1 << 12));
    app.add_option("--embedding", flags_.embedding, "Width of the default model, a multiple of 64")
        ->capture_default_str()
        ->check(CLI::Range(64, 1 << 16));
    app.add_option("--vocabulary", flags_.vocabulary, "Vocabulary of the default model")
        ->capture_default_str()
        ->check(CLI::Range(257, 1 << 20));
    app.add_option("--text", flags_.text, "Text file for 'tokenizer' (default: 2 MB made up)");
  }

  int run(const GlobalOptions& global) override {
    Bench bench(flags_, global);
    if (flags_.name == "gemm") bench.gemm();
    if (flags_.name == "train") bench.train();
    if (flags_.name == "prefill") bench.prefill();
    if (flags_.name == "decode") bench.decode();
    if (flags_.name == "tokenizer") bench.tokenizer();
    return kDone;
  }

 private:
  BenchFlags flags_;
};

}  // namespace

std::unique_ptr<Command> make_bench_command() { return std::make_unique<BenchCommand>(); }

}  // namespace vertebra::cli
