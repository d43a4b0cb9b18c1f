#include "base/thread_team.h"

#include <fmt/format.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"

namespace vertebra {
namespace {

// 8,000 pauses are 200 us on Zen 4: they bridge the serial gaps between the kernels of a small step (waking a
// parked worker costs its caller 6 us and comes 15 us late; a region then costs 0.3 us). Parking after that
// keeps a busy machine usable.
constexpr int kSpinsBeforeParking = 8000;
// The caller's wait for workers that are at their last index: if that lasts, another program has their core.
constexpr int kSpinsBeforeYielding = 2000;
// Ranges of indices that workers begin with.
constexpr int kMostRanges = 8;

inline void spin_pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("isb" ::: "memory");
#endif
}

// The tightest cgroup v2 CPU quota from `folder` up to the mount, in cores; 0 when unlimited.
double cgroup_cores() {
  namespace fs = std::filesystem;
  std::ifstream self("/proc/self/cgroup");
  std::string line;
  double tightest = 0;
  while (std::getline(self, line)) {
    if (!line.starts_with("0::")) continue;
    const fs::path root = "/sys/fs/cgroup";
    for (fs::path folder = root / fs::path(line.substr(3)).relative_path();; folder = folder.parent_path()) {
      std::ifstream file(folder / "cpu.max");
      std::string quota;
      double period = 0;
      if (file >> quota >> period && quota != "max" && period > 0) {
        const double cores = std::stod(quota) / period;
        tightest = tightest == 0 ? cores : std::min(tightest, cores);
      }
      if (folder == root || folder == folder.root_path()) break;
    }
  }
  return tightest;
}

// Physical cores among the processors of the affinity mask.
int physical_cores(const cpu_set_t& allowed) {
  std::set<std::string> cores;
  int processors = 0;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed)) continue;
    ++processors;
    std::ifstream siblings(fmt::format("/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list", cpu));
    std::string list;
    cores.insert(siblings >> list ? list : fmt::format("cpu{}", cpu));
  }
  return cores.empty() ? processors : static_cast<int>(cores.size());
}

}  // namespace

int default_thread_count() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  int count = sched_getaffinity(0, sizeof allowed, &allowed) == 0
                  ? physical_cores(allowed)
                  : static_cast<int>(std::thread::hardware_concurrency());
  if (const double quota = cgroup_cores(); quota > 0) count = std::min(count, static_cast<int>(quota));
  return std::max(count, 1);
}

// A region is open to the workers while its caller works; one that comes later than the work lasts (another
// program had its core) is not waited for. `gate` says which region is open and how many have entered it.
struct ThreadTeam::State {
  static constexpr uint64_t kClosed = uint64_t{1} << 31, kEntered = kClosed - 1;

  int size;
  std::vector<std::thread> threads;
  const FunctionRef<void(int)>* body = nullptr;
  bool stopping = false;
  bool in_region = false;
  std::vector<std::exception_ptr> errors;
  alignas(64) std::atomic<uint32_t> generation{0};  // of the newest region; what idle workers watch
  alignas(64) std::atomic<uint64_t> gate{kClosed};  // generation << 32 | closed | entered
  alignas(64) std::atomic<uint64_t> left{0};        // workers that have entered this region and are done
  alignas(64) std::atomic<int> sleepers{0};
  struct alignas(64) Range {
    std::atomic<int64_t> next{0};
    int64_t end = 0;
  };
  Range ranges[kMostRanges];

  void work(int worker) {
    try {
      (*body)(worker);
    } catch (...) {
      errors[static_cast<size_t>(worker)] = std::current_exception();
    }
  }

  void loop(int worker) {
    uint32_t seen = 0;
    for (;;) {
      int spins = 0;
      while (generation.load(std::memory_order_acquire) == seen) {
        spin_pause();
        if (++spins > kSpinsBeforeParking) {
          sleepers.fetch_add(1);
          generation.wait(seen);
          sleepers.fetch_sub(1);
        }
      }
      if (!enter(seen)) continue;
      if (stopping) return;
      work(worker);
      left.fetch_add(1, std::memory_order_release);
    }
  }

  // Enters the region that is open, at most once each: its generation goes to `seen`. False when it has
  // closed, or when this worker has been in it (the gate opens a moment before `generation` says so).
  bool enter(uint32_t& seen) {
    const uint32_t seen_before = seen;
    uint64_t found = gate.load(std::memory_order_acquire);
    do {
      seen = static_cast<uint32_t>(found >> 32);
      if ((found & kClosed) != 0 || seen == seen_before) return false;
    } while (
        !gate.compare_exchange_weak(found, found + 1, std::memory_order_acq_rel, std::memory_order_acquire));
    return true;
  }

  void open_region() {
    left.store(0, std::memory_order_relaxed);
    const uint32_t next = generation.load(std::memory_order_relaxed) + 1;
    gate.store(uint64_t{next} << 32, std::memory_order_release);
    generation.store(next);
    if (sleepers.load() > 0) generation.notify_all();
  }

  // Returns when every worker that entered is done; with `all`, when every worker has been here.
  void close_region(bool all) {
    const uint64_t others = static_cast<uint64_t>(size - 1);
    const uint64_t entered = all ? others : gate.fetch_or(kClosed, std::memory_order_acq_rel) & kEntered;
    for (int spins = 0; left.load(std::memory_order_acquire) != entered;) {
      spin_pause();
      if (++spins > kSpinsBeforeYielding) sched_yield();
    }
    if (all) gate.fetch_or(kClosed, std::memory_order_acq_rel);
  }

  void run(const FunctionRef<void(int)>& region_body, bool all) {
    VERTEBRA_CHECK(!in_region, "a parallel region was opened inside another");
    in_region = true;
    body = &region_body;
    if (size > 1) open_region();
    work(0);
    if (size > 1) close_region(all);
    in_region = false;
    for (auto& error : errors) {
      if (error) {
        const std::exception_ptr first = error;
        for (auto& other : errors) other = nullptr;
        std::rethrow_exception(first);
      }
    }
  }
};

ThreadTeam::ThreadTeam(int threads) : state_(std::make_unique<State>()) {
  require(threads >= 1 && threads <= 1024, "{} threads asked for; 1 to 1024 are possible", threads);
  state_->size = threads;
  state_->errors.resize(static_cast<size_t>(threads));
  for (int worker = 1; worker < threads; ++worker) {
    state_->threads.emplace_back([this, worker] { state_->loop(worker); });
  }
}

ThreadTeam::~ThreadTeam() {
  state_->stopping = true;
  state_->open_region();
  for (auto& thread : state_->threads) thread.join();
}

int ThreadTeam::size() const { return state_->size; }

void ThreadTeam::run(FunctionRef<void(int)> body) { state_->run(body, true); }

void ThreadTeam::parallel_for(int64_t count, FunctionRef<void(int64_t, int)> body) {
  if (count <= 0) return;
  if (count == 1 || size() == 1) {
    for (int64_t index = 0; index < count; ++index) body(index, 0);
    return;
  }
  State& state = *state_;
  const auto ranges = static_cast<int>(std::min<int64_t>(count, std::min(size(), kMostRanges)));
  for (int i = 0; i < ranges; ++i) {
    state.ranges[i].next.store(count * i / ranges, std::memory_order_relaxed);
    state.ranges[i].end = count * (i + 1) / ranges;
  }
  const auto take_indices = [&](int worker) {
    for (int i = 0; i < ranges; ++i) {
      State::Range& range = state.ranges[(worker + i) % ranges];
      for (;;) {
        const int64_t index = range.next.fetch_add(1, std::memory_order_relaxed);
        if (index >= range.end) break;
        body(index, worker);
      }
    }
  };
  state.run(take_indices, false);
}

namespace {
std::mutex global_mutex;
int global_size = 0;
std::unique_ptr<ThreadTeam> global_team;
}  // namespace

ThreadTeam& global_thread_team() {
  const std::lock_guard lock(global_mutex);
  if (!global_team)
    global_team = std::make_unique<ThreadTeam>(global_size > 0 ? global_size : default_thread_count());
  return *global_team;
}

void set_global_thread_count(int threads) {
  const std::lock_guard lock(global_mutex);
  require(threads >= 1 && threads <= 1024, "{} threads asked for; 1 to 1024 are possible", threads);
  require(!global_team || global_team->size() == threads, Code::kFailedPrecondition,
          "the thread team already runs with {} threads, {} were asked for too late",
          global_team ? global_team->size() : 0, threads);
  global_size = threads;
}

}  // namespace vertebra
