// Buffers and executables on the CPU plugins: donation, bounded dimensions, mistakes, the cache on disk.
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <fstream>
#include <list>

#include "backend/cpu/cpu_backend.h"
#include "backend/pjrt/executable_cache.h"
#include "backend/pjrt/memory_use.h"
#include "backend/pjrt/probe.h"
#include "base/error.h"
#include "base/file.h"
#include "models/model.h"
#include "ops/ops.h"
#include "tests/backend/pjrt/with_plugin.h"
#include "tests/tensor/random_blocks.h"
#include "train/train_graph.h"

namespace vertebra {
namespace {

namespace fs = std::filesystem;

class PjrtRun : public WithPlugin {
 protected:
  std::unique_ptr<Buffer> upload(const Tensor& tensor) { return backend().upload(tensor); }
};

void run(Executable& executable, std::vector<Buffer*> in, std::vector<Buffer*> out) {
  executable.run(in, out);
}

Tensor row(std::initializer_list<float> values) {
  return Tensor::from<float>(Shape{static_cast<int64_t>(values.size())}, values);
}

Graph doubling(bool donated) {
  Graph graph;
  const Value x = graph.parameter("x", {DType::kF32, {4}});
  graph.add_output("y", multiply(x, 2.0), donated ? x : Value{});
  return graph;
}

std::string message_of(const std::function<void()>& body, Code code) {
  try {
    body();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "no error";
  return "";
}

TEST_P(PjrtRun, EveryTypeMakesTheRoundTrip) {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16, DType::kF64, DType::kI64, DType::kI32,
                            DType::kU32, DType::kI8, DType::kU8, DType::kBool}) {
    for (const Shape& shape : {Shape{}, Shape{3, 5}, Shape{0, 2}}) {
      Tensor tensor(dtype, shape);
      for (int64_t i = 0; i < tensor.elements(); ++i) tensor.set(i, dtype == DType::kBool ? i % 2 : i);
      const Tensor back = upload(tensor)->to_host();
      EXPECT_EQ(back.type(), tensor.type());
      EXPECT_TRUE(back.same_bits(tensor)) << dtype_name(dtype) << " " << shape.to_string();
    }
  }
  const Tensor blocks = random_blocks({DType::kQ6_K, {3, 512}}, Philox(1, "blocks"));
  const Tensor back = upload(blocks)->to_host();
  EXPECT_EQ(back.type(), blocks.type());
  EXPECT_TRUE(back.same_bits(blocks));
}

TEST_P(PjrtRun, ADonatedBufferIsUpdatedInPlaceAgainAndAgain) {
  const auto executable = backend().compile(doubling(true));
  const auto x = upload(row({1, 2, 3, 4}));
  for (int i = 0; i < 3; ++i) run(*executable, {x.get()}, {x.get()});
  EXPECT_TRUE(x->to_host().same_bits(row({8, 16, 24, 32})));
}

TEST_P(PjrtRun, AReadHoldsWhatWasThereWhenItBegan) {
  const auto executable = backend().compile(doubling(false));
  const auto x = upload(row({1, 2, 3, 4})), y = backend().allocate({DType::kF32, {4}});
  std::vector<std::unique_ptr<PendingTensor>> reads;
  for (int i = 1; i <= 4; ++i) {
    const auto factor = static_cast<float>(i);
    x->copy_from(row({factor, 2 * factor, 3 * factor, 4 * factor}));
    run(*executable, {x.get()}, {y.get()});
    reads.push_back(y->read());
  }
  reads.pop_back();  // a read that nobody waits for
  for (size_t i = 0; i < reads.size(); ++i) {
    const auto factor = static_cast<float>(2 * (i + 1));
    EXPECT_TRUE(reads[i]->wait().same_bits(row({factor, 2 * factor, 3 * factor, 4 * factor})));
  }
}

TEST_P(PjrtRun, AGivenUpBufferIsAnErrorUntilItIsWrittenAgain) {
  const auto executable = backend().compile(doubling(true));
  const auto x = upload(row({1, 2, 3, 4})), y = backend().allocate({DType::kF32, {4}});
  run(*executable, {x.get()}, {y.get()});
  EXPECT_TRUE(y->to_host().same_bits(row({2, 4, 6, 8})));
  message_of([&] { x->to_host(); }, Code::kFailedPrecondition);
  message_of([&] { run(*executable, {x.get()}, {y.get()}); }, Code::kFailedPrecondition);
  x->copy_from(row({5, 5, 5, 5}));
  run(*executable, {x.get()}, {y.get()});
  EXPECT_TRUE(y->to_host().same_bits(row({10, 10, 10, 10})));
}

TEST_P(PjrtRun, BuffersOutliveExecutables) {
  const auto y = backend().allocate({DType::kF32, {4}});
  {
    const auto executable = backend().compile(doubling(false));
    const auto x = upload(row({1, 2, 3, 4}));
    run(*executable, {x.get()}, {y.get()});
  }
  EXPECT_TRUE(y->to_host().same_bits(row({2, 4, 6, 8})));
}

TEST_P(PjrtRun, MistakesAreErrorsThatNameTheInput) {
  const auto executable = backend().compile(doubling(true));
  const auto x = upload(row({1, 2, 3, 4})), y = backend().allocate({DType::kF32, {4}});
  const auto shorter = upload(row({1, 2}));
  const auto integers = upload(Tensor::from<int32_t>({4}, {1, 2, 3, 4}));
  const auto cpu = make_cpu_backend();
  const auto elsewhere = cpu->upload(row({1, 2, 3, 4}));
  const auto fails = [&](std::vector<Buffer*> in, std::vector<Buffer*> out, const char* part) {
    const std::string message = message_of([&] { run(*executable, in, out); }, Code::kInvalidArgument);
    EXPECT_NE(message.find(part), std::string::npos) << message;
  };
  fails({}, {y.get()}, "0 inputs given");
  fails({x.get()}, {}, "0 outputs given");
  fails({nullptr}, {y.get()}, "input 'x' is missing");
  fails({x.get()}, {nullptr}, "output 'y' is missing");
  fails({shorter.get()}, {y.get()}, "input 'x' has type f32[2]");
  fails({integers.get()}, {y.get()}, "input 'x' has type i32[4]");
  fails({elsewhere.get()}, {y.get()}, "no buffer of this device");
  fails({x.get()}, {shorter.get()}, "does not fit");
  EXPECT_THROW(x->copy_from(row({1, 2})), Error);
  EXPECT_TRUE(x->to_host().same_bits(row({1, 2, 3, 4})));  // untouched by what was refused

  Graph two;
  const Value a = two.parameter("a", {DType::kF32, {4}}), b = two.parameter("b", {DType::kF32, {4}});
  two.add_output("sum", add(a, b), a);
  const auto adding = backend().compile(two);
  message_of([&] { run(*adding, {x.get(), x.get()}, {x.get()}); }, Code::kInvalidArgument);
}

TEST_P(PjrtRun, TooLittleMemorySaysWhatWouldFit) {
  const Json sizes = {{"depth", 2}, {"embedding", 64}, {"heads", 2}, {"feed_forward", 128}};
  const auto model = make_model(default_config("llama", sizes, 256, 64), "test");
  TrainGraphOptions options;
  options.rows = 8;
  options.length = 64;
  const auto compile_with = [&](double memory_bytes) {
    static std::list<pjrt::Vendor> vendors;  // backends refer to them
    vendors.push_back(*pjrt::find_vendor("cpu"));
    vendors.back().chips = {{.kind = "", .f32_flops = 1e12, .memory_bytes = memory_bytes}};
    const auto small = make_pjrt_backend({.plugin = file(), .vendor = &vendors.back(), .cache = fs::path()});
    small->compile(build_training_step(*model, options));
  };
  compile_with(1e9);
  // Parameters and two states of 115 thousand floats take 1.4 MB, activations several times that.
  std::string message = message_of([&] { compile_with(3e6); }, Code::kResourceExhausted);
  EXPECT_NE(message.find("which has 0.003 GB"), std::string::npos) << message;
  EXPECT_NE(message.find("% of the batch's rows"), std::string::npos) << message;
  message = message_of([&] { compile_with(1e6); }, Code::kResourceExhausted);
  EXPECT_NE(message.find("a smaller model"), std::string::npos) << message;
}

TEST_P(PjrtRun, ADeviceThatIsNotThereIsAnError) {
  message_of([] { make_pjrt_backend({.plugin = file(), .device_index = 99}); }, Code::kOutOfRange);
}

TEST_P(PjrtRun, ATrialThatWentWellIsRemembered) {
  const fs::path folder = fs::path(testing::TempDir()) / fmt::format("started-{}", getpid());
  const char* before = std::getenv("VERTEBRA_CACHE");
  const std::string saved = before == nullptr ? "" : before;
  setenv("VERTEBRA_CACHE", folder.c_str(), 1);
  const pjrt::PluginReport report = pjrt::probe_plugin(file(), *pjrt::find_vendor("cpu"));
  EXPECT_EQ(report.failure, "");
  EXPECT_EQ(report.devices.size(), 1u);
  EXPECT_NO_THROW(pjrt::require_startable(file(), *pjrt::find_vendor("cpu")));
  EXPECT_EQ(std::distance(fs::directory_iterator(folder / "started"), fs::directory_iterator()), 1);
  EXPECT_THROW(pjrt::require_startable(folder / "gone.so", *pjrt::find_vendor("cpu")), Error);
  before == nullptr ? unsetenv("VERTEBRA_CACHE") : setenv("VERTEBRA_CACHE", saved.c_str(), 1);
  fs::remove_all(folder);
}

// What mixes rows, over a bounded number of them: the padding never reaches a result.
TEST_P(PjrtRun, BoundedDimensionsComputeWhatIsThere) {
  Graph graph;
  const Dim n(40, 1);
  const Value x = graph.parameter("x", {DType::kF32, {n, 3}});
  const Value index = graph.parameter("index", {DType::kI32, {n}});
  const Value table = graph.parameter("table", {DType::kF32, {6, 3}});
  const Value logs = logarithm(x);  // padding: minus infinity
  graph.add_output("sum", reduce_sum(logs, {0}));
  graph.add_output("largest", reduce_max(negate(x), {0}));
  graph.add_output("best", argmax(negate(x), 0));
  graph.add_output("gram", dot_general(logs, logs, {{}, {}, {0}, {0}}));
  graph.add_output("scattered", scatter_add_rows(index, x, 6));
  graph.add_output("written", write_rows(table, index, x));
  graph.add_output("gathered", gather_rows(x, index));
  graph.add_output("rows", softmax(x));
  const auto cpu = make_cpu_backend();
  Backend* const backends[] = {cpu.get(), &backend()};
  for (const int64_t rows : {1, 3, 10, 11, 40}) {
    SCOPED_TRACE(rows);
    Tensor values(DType::kF32, {rows, 3}), indices(DType::kI32, {rows});
    for (int64_t i = 0; i < values.elements(); ++i) values.set(i, 0.25 + static_cast<double>((i * 7) % 11));
    for (int64_t i = 0; i < rows; ++i) indices.set(i, i < 6 ? 5 - i : i + 50);  // each row once, then outside
    const Tensor start = Tensor::zeros({DType::kF32, {6, 3}});
    std::vector<std::vector<Tensor>> results(2);
    for (size_t side = 0; side < 2; ++side) {
      Backend& each = *backends[side];
      const auto executable = each.compile(graph);
      const auto a = each.allocate({DType::kF32, {n, 3}}), b = each.allocate({DType::kI32, {n}}),
                 c = each.upload(start);
      a->copy_from(values);
      b->copy_from(indices);
      std::vector<std::unique_ptr<Buffer>> out;
      std::vector<Buffer*> places;
      for (const auto& output : graph.outputs())
        places.push_back(out.emplace_back(each.allocate(output.value.type())).get());
      for (int again = 0; again < 2; ++again)
        executable->run(std::vector<Buffer*>{a.get(), b.get(), c.get()}, places);
      for (Buffer* place : places) results[side].push_back(place->to_host());
    }
    for (size_t j = 0; j < graph.outputs().size(); ++j) {
      SCOPED_TRACE(graph.outputs()[j].name);
      ASSERT_EQ(results[1][j].type(), results[0][j].type());
      for (int64_t i = 0; i < results[0][j].elements(); ++i)
        EXPECT_NEAR(results[1][j].at(i), results[0][j].at(i), 1e-4 * (1 + std::fabs(results[0][j].at(i))))
            << i;
    }
  }
}

// ---- The cache on disk ------------------------------------------------------------------------------

class PjrtCache : public PjrtRun {
 protected:
  void SetUp() override {
    PjrtRun::SetUp();
    folder_ = fs::path(testing::TempDir()) / fmt::format("pjrt-cache-{}-{}", getpid(), GetParam());
  }
  void TearDown() override { fs::remove_all(folder_); }

  Tensor compute() {
    const auto cached = make_pjrt_backend({.plugin = file(), .cache = folder_});
    const auto executable = cached->compile(doubling(false));
    const auto x = cached->upload(row({1, 2, 3, 4})), y = cached->allocate({DType::kF32, {4}});
    run(*executable, {x.get()}, {y.get()});
    return y->to_host();
  }
  std::vector<fs::path> entries() const {
    std::vector<fs::path> out;
    for (const auto& entry : fs::directory_iterator(folder_)) out.push_back(entry.path());
    return out;
  }
  fs::path folder_;
};

TEST_P(PjrtCache, ASecondStartLoadsAndADamagedEntryIsCompiledAgain) {
  const Tensor wanted = row({2, 4, 6, 8});
  EXPECT_TRUE(compute().same_bits(wanted));
  ASSERT_EQ(entries().size(), 1u);
  const fs::path entry = entries()[0];
  const std::string whole = read_file(entry);
  EXPECT_TRUE(compute().same_bits(wanted));
  EXPECT_EQ(read_file(entry), whole);
  std::string flipped = whole;
  flipped[whole.size() / 2] = static_cast<char>(flipped[whole.size() / 2] ^ 1);
  for (const std::string& damaged : {whole.substr(0, whole.size() / 2), std::string(), flipped}) {
    write_file_atomic(entry, damaged);
    testing::internal::CaptureStderr();
    EXPECT_TRUE(compute().same_bits(wanted));
    EXPECT_NE(testing::internal::GetCapturedStderr().find("damaged"), std::string::npos);
    EXPECT_NE(read_file(entry), damaged);  // replaced by a sound one
  }
}

TEST(ExecutableCache, KeepsWithinItsLimitAndForgetsTheOldest) {
  const fs::path folder = fs::path(testing::TempDir()) / fmt::format("cache-{}", getpid());
  const pjrt::ExecutableCache cache(folder, 2500);
  const std::string bytes(1000, 'x');
  cache.store("a", bytes);
  fs::last_write_time(cache.entry("a"), fs::file_time_type::clock::now() - std::chrono::hours(2));
  cache.store("b", bytes);
  fs::last_write_time(cache.entry("b"), fs::file_time_type::clock::now() - std::chrono::hours(1));
  EXPECT_EQ(cache.load("a"), bytes);  // used: now the newest
  cache.store("c", bytes);
  EXPECT_EQ(cache.load("b"), std::nullopt);
  EXPECT_EQ(cache.load("a"), bytes);
  EXPECT_EQ(cache.load("c"), bytes);
  // An entry under another's name is no entry.
  fs::copy_file(cache.entry("a"), cache.entry("d"));
  EXPECT_EQ(cache.load("d"), std::nullopt);
  fs::remove_all(folder);
}

TEST(MemoryUse, SaysWhatWouldFitAsFarAsItIsKnown) {
  using pjrt::MemoryUse;
  const auto expect = [](const MemoryUse& use, const char* wanted) {
    EXPECT_NE(use.to_string().find(wanted), std::string::npos) << use.to_string();
  };
  const auto gigabytes = [](uint64_t count) { return count * 1'000'000'000; };
  expect({.inputs = gigabytes(2), .temporary = gigabytes(8), .device = gigabytes(6)},
         "about 50 % of the batch");
  expect({.inputs = gigabytes(7), .temporary = gigabytes(8), .device = gigabytes(6)}, "at most 6 GB");
  // The compiler ran out itself, or other buffers hold the memory: no share can be named.
  expect({.inputs = gigabytes(2), .device = gigabytes(6)}, "fewer rows");
  expect({.inputs = gigabytes(2), .temporary = gigabytes(3), .device = gigabytes(6)}, "fewer rows");
}

// A load in one process while others write and make room: a whole entry or none, never a part.
TEST(ExecutableCache, SeveralProcessesShareAFolder) {
  const fs::path folder = fs::path(testing::TempDir()) / fmt::format("shared-cache-{}", getpid());
  const std::string keys[] = {"a", "b", "c"};
  const auto content = [](const std::string& key) {
    std::string out;
    for (int i = 0; i < 20000; ++i) out += key + std::to_string(i);
    return out;
  };
  constexpr int kProcesses = 4, kRounds = 60;
  std::vector<pid_t> children;
  for (int p = 0; p < kProcesses; ++p) {
    const pid_t child = fork();
    if (child == 0) {
      const pjrt::ExecutableCache cache(folder, 250'000);  // two of the three fit
      int torn = 0;
      for (int i = 0; i < kRounds; ++i) {
        const std::string& key = keys[static_cast<size_t>((i + p) % 3)];
        const std::string wanted = content(key);
        cache.store(key, wanted);
        for (const std::string& each : keys) {
          const auto found = cache.load(each);
          if (found && *found != content(each)) ++torn;
        }
      }
      _exit(torn == 0 ? 0 : 1);
    }
    ASSERT_GT(child, 0);
    children.push_back(child);
  }
  for (const pid_t child : children) {
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  }
  for (const auto& left : fs::directory_iterator(folder))
    EXPECT_EQ(left.path().extension(), ".pjrt") << "a half-written file stays: " << left.path();
  fs::remove_all(folder);
}

VERTEBRA_WITH_CPU_PLUGINS(PjrtRun);
VERTEBRA_WITH_CPU_PLUGINS(PjrtCache);

}  // namespace
}  // namespace vertebra
