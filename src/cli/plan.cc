// vertebra plan RECIPE --mesh data=N,fsdp=N,tensor=N --chip NAME: what a training step costs on so many
// chips, on paper: FLOPs, memory, bytes between chips, and the time these take at the chip's peaks.
// docs/scaling.md derives the figures; its tables are what --table prints.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>

#include "backend/pjrt/chip_rules.h"
#include "backend/pjrt/vendors.h"
#include "base/error.h"
#include "base/thread_team.h"
#include "cli/command.h"
#include "recipe/mesh_settings.h"
#include "recipe/run.h"
#include "train/step_cost.h"

namespace vertebra::cli {
namespace {

constexpr double kGiB = 1024.0 * 1024.0 * 1024.0;

// Seconds of a step that each resource needs at its peak; nothing: the vendor states no figure.
struct StepTimes {
  std::optional<double> compute, memory, links, network;

  struct Named {
    const char* name;
    std::optional<double> seconds;
  };
  std::array<Named, 4> all() const {
    return {{{"compute", compute}, {"memory", memory}, {"links", links}, {"network", network}}};
  }
  // All at once: the slowest decides.
  double overlapped() const {
    double out = 0;
    for (const Named& each : all()) out = std::max(out, each.seconds.value_or(0));
    return out;
  }
  // One after another.
  double in_turn() const {
    double out = 0;
    for (const Named& each : all()) out += each.seconds.value_or(0);
    return out;
  }
  bool complete() const {
    for (const Named& each : all()) {
      if (!each.seconds) return false;
    }
    return true;
  }
  const char* bottleneck() const {
    for (const Named& each : all()) {
      if (each.seconds && *each.seconds == overlapped()) return each.name;
    }
    return "";
  }
};

struct Estimate {
  StepShape step;
  StepCost cost;
  StepTimes times;
  bool fits = false;
  double peak_flops = 0;  // of a chip, in the step's precision

  double tokens_per_second() const { return cost.tokens / times.overlapped(); }
  double share_of_peak(double seconds) const {
    return cost.model_flops / (seconds * peak_flops * static_cast<double>(step.graph.mesh.devices()));
  }
};

std::optional<double> seconds_for(double amount, double rate) {
  if (amount == 0) return 0;
  return rate > 0 ? std::optional(amount / rate) : std::nullopt;
}

Estimate estimate(const Training& training, const StepShape& step, const pjrt::Chip& chip) {
  Estimate out = {step, predict_step_cost(*training.model, step), {}, false, 0};
  const bool bf16 = step.graph.compute == DType::kBF16;
  out.peak_flops = bf16 ? chip.bf16_flops : chip.f32_flops;
  require(out.peak_flops > 0,
          "the vendor states no peak for {} in f32: choose precision bf16 (--set {}.precision=bf16)",
          chip.called(), training.stage);
  const double f32_rate = chip.f32_flops > 0 ? chip.f32_flops : out.peak_flops;
  out.times.compute = out.cost.chip_flops / out.peak_flops + out.cost.chip_f32_flops / f32_rate;
  out.times.memory = seconds_for(out.cost.chip_memory_traffic, chip.bandwidth_bytes_per_second);
  WireBytes wire;
  for (const CollectiveCost& each : out.cost.collectives) {
    const WireBytes bytes = wire_bytes(each, chip.link_chips);
    wire.links += bytes.links;
    wire.network += bytes.network;
  }
  out.times.links = seconds_for(wire.links, chip.link_bytes_per_second);
  out.times.network = seconds_for(wire.network, chip.network_bytes_per_second);
  out.fits = out.cost.memory.total() <= chip.memory_bytes;
  return out;
}

// "1.23", "0.0123", "456": three digits.
std::string three_digits(double value) {
  if (value <= 0) return "0";
  const int digits = std::clamp(2 - static_cast<int>(std::floor(std::log10(value))), 0, 6);
  return fmt::format("{:.{}f}", value, digits);
}

std::string grouped(double value) {
  std::string out = fmt::format("{:.0f}", value);
  for (size_t at = out.size(); at > 3; at -= 3) out.insert(at - 3, ",");
  return out;
}

std::string text_of(const std::optional<double>& seconds) { return seconds ? three_digits(*seconds) : "?"; }

std::string gib(double bytes) { return fmt::format("{:.2f} GiB", bytes / kGiB); }

class PlanCommand final : public Command {
 public:
  const char* name() const override { return "plan"; }
  const char* description() const override {
    return "What a recipe's training step costs on a mesh of chips, on paper: memory, FLOPs, traffic, time";
  }

  void add_options(CLI::App& app) override {
    app.add_option("recipe", recipe_, "The recipe, a TOML file")->required();
    app.add_option("--chip", chip_, "A chip (trn2, v5p, H100, ...)")->required();
    app.add_option("--mesh", mesh_, "How the chips are used: data=2,fsdp=4,tensor=8 (default: the recipe's)");
    app.add_option("--rows", rows_,
                   "Rows of a micro-batch over all chips; the recipe's batch stays (default: the recipe's)")
        ->check(CLI::Range(int64_t{1}, int64_t{1} << 30));
    app.add_option("--stage", stage_, "Which training stage (default: the first)");
    app.add_option("--set", overrides_, "Override a key: --set pretrain.length=2048")
        ->allow_extra_args(false);
    app.add_option("--table", table_,
                   "A table over these numbers of chips, each with its best mesh and rows: 1,8,64")
        ->delimiter(',')
        ->check(CLI::Range(int64_t{1}, int64_t{1} << 20));
  }

  int run(const GlobalOptions& global) override {
    const pjrt::NamedChip named = pjrt::require_chip(chip_);
    require(named.chip != nullptr, "--chip {}: name one of its chips: {}", chip_, chips_of(*named.vendor));
    GlobalOptions cpu = global;
    cpu.device = "cpu";  // nothing runs
    const Recipe recipe = load_recipe(recipe_, overrides_);
    const std::vector<Training> trainings =
        recipe_trainings(recipe, open_backend(cpu), global_thread_team(), named.vendor->native_bf16);
    const Training& training = choose(trainings);
    one_hot_gradient_ = find_ban(named.vendor->rules, "stablehlo.scatter") != nullptr;
    if (!table_.empty()) {
      print_table(training, *named.chip, global.json);
      return kDone;
    }
    const Mesh mesh = mesh_.empty() ? read_mesh(recipe) : parse_mesh(mesh_);
    const Estimate found = estimate(training, step_of(training, mesh, rows_), *named.chip);
    if (global.json) {
      print_json(to_json(found, training, *named.chip));
    } else {
      print_for_people(found, training, *named.chip);
    }
    return kDone;
  }

 private:
  static std::string chips_of(const pjrt::Vendor& vendor) {
    std::vector<std::string_view> names;
    for (const pjrt::Chip& chip : vendor.chips) names.push_back(chip.called());
    return names.empty() ? "none is known of this vendor" : fmt::format("{}", fmt::join(names, ", "));
  }

  const Training& choose(const std::vector<Training>& trainings) const {
    std::vector<std::string_view> names;
    for (const Training& each : trainings) {
      if (stage_.empty() || each.stage == stage_) return each;
      names.push_back(each.stage);
    }
    fail(Code::kInvalidArgument, "--stage {}: the recipe has no such training stage; it has {}", stage_,
         fmt::join(names, ", "));
  }

  // The recipe's batch in micro-batches of so many rows; 0: the recipe's.
  StepShape step_of(const Training& training, const Mesh& mesh, int64_t rows) const {
    StepShape out;
    out.graph = training.graph;
    out.accumulation = training.accumulation;
    out.graph.mesh = mesh;
    out.one_hot_gradient = one_hot_gradient_;
    if (rows > 0) {
      const int64_t batch = training.graph.rows * training.accumulation;
      require(batch % rows == 0, "--rows {}: the recipe's batch of {} rows is no multiple of it", rows,
              batch);
      out.graph.rows = rows;
      out.accumulation = batch / rows;
    }
    return out;
  }

  // Calls `use` with every mesh of powers of two and every number of rows that divides the batch.
  template <class Use>
  void for_each_step(const Training& training, int64_t chips, Use&& use) const {
    const int64_t batch = training.graph.rows * training.accumulation;
    for (int64_t tensor = 1; tensor <= chips; tensor *= 2) {
      for (int64_t fsdp = 1; tensor * fsdp <= chips; fsdp *= 2) {
        if (chips % (tensor * fsdp) != 0) continue;
        const Mesh mesh = {chips / (tensor * fsdp), fsdp, tensor};
        for (int64_t rows = mesh.data * mesh.fsdp; rows <= batch; rows *= 2) {
          if (batch % rows != 0) break;
          const StepShape step = step_of(training, mesh, rows);
          if (divides(*training.model, step)) use(step);
        }
      }
    }
  }

  static bool divides(const Model& model, const StepShape& step) {
    const Mesh& mesh = step.graph.mesh;
    for (const ParameterSpec& spec : model.parameters()) {
      const Sharding sharding = parameter_sharding(spec, mesh);
      for (int dim = 0; dim < spec.shape.rank(); ++dim) {
        if (spec.shape[dim] % parts(sharding, mesh, dim) != 0) return false;
      }
    }
    return model.shape().heads % mesh.tensor == 0 && model.shape().key_value_heads % mesh.tensor == 0;
  }

  // The fastest that fits; of equals the one with the least work beside; else the one that needs the least
  // memory.
  std::optional<Estimate> best(const Training& training, int64_t chips, const pjrt::Chip& chip) const {
    std::optional<Estimate> found;
    const auto better = [](const Estimate& a, const Estimate& b) {
      if (a.fits != b.fits) return a.fits;
      if (!a.fits) return a.cost.memory.total() < b.cost.memory.total();
      if (a.times.overlapped() != b.times.overlapped()) return a.times.overlapped() < b.times.overlapped();
      return a.times.in_turn() < b.times.in_turn();
    };
    for_each_step(training, chips, [&](const StepShape& step) {
      Estimate each = estimate(training, step, chip);
      if (!found || better(each, *found)) found = std::move(each);
    });
    return found;
  }

  void print_table(const Training& training, const pjrt::Chip& chip, bool json) const {
    if (!json) {
      fmt::print(
          "| chips | data x fsdp x tensor | rows | memory GiB | compute s | memory s | links s | network s | "
          "bound by | "
          "tokens/s | share of peak |\n|---|---|---|---|---|---|---|---|---|---|---|\n");
    }
    for (const int64_t chips : table_) {
      const std::optional<Estimate> found = best(training, chips, chip);
      if (json) {
        print_json(found ? to_json(*found, training, chip) : Json{{"chips", chips}, {"fits", false}});
      } else {
        fmt::print("{}\n",
                   found ? table_row(*found)
                         : fmt::format("| {} | no mesh divides the model and the batch |||||||||", chips));
      }
    }
  }

  static std::string table_row(const Estimate& e) {
    const Mesh& mesh = e.step.graph.mesh;
    const std::string start =
        fmt::format("| {} | {} x {} x {} | {} | {:.1f} |", grouped(static_cast<double>(mesh.devices())),
                    mesh.data, mesh.fsdp, mesh.tensor, e.step.graph.rows, e.cost.memory.total() / kGiB);
    if (!e.fits) return start + " does not fit |||||||";
    return fmt::format("{} {} | {} | {} | {} | {} | {}{} | {}{:.0f} to {:.0f} % |", start,
                       text_of(e.times.compute), text_of(e.times.memory), text_of(e.times.links),
                       text_of(e.times.network), e.times.bottleneck(), e.times.complete() ? "" : "< ",
                       grouped(e.tokens_per_second()), e.times.complete() ? "" : "< ",
                       100 * e.share_of_peak(e.times.in_turn()), 100 * e.share_of_peak(e.times.overlapped()));
  }

  static Json or_null(const std::optional<double>& value) { return value ? Json(*value) : Json(); }

  static Json to_json(const Estimate& e, const Training& training, const pjrt::Chip& chip) {
    const StepCost& cost = e.cost;
    const StepMemory& m = cost.memory;
    const Mesh& mesh = e.step.graph.mesh;
    Json collectives = Json::array();
    for (const CollectiveCost& each : cost.collectives) {
      const WireBytes wire = wire_bytes(each, chip.link_chips);
      collectives.push_back({{"kind", collective_name(each.kind)},
                             {"what", each.what},
                             {"chips", each.ways},
                             {"bytes", each.bytes},
                             {"link_bytes", wire.links},
                             {"network_bytes", wire.network}});
    }
    return {{"chip", chip.called()},
            {"stage", training.stage},
            {"mesh", {{"data", mesh.data}, {"fsdp", mesh.fsdp}, {"tensor", mesh.tensor}}},
            {"chips", mesh.devices()},
            {"parameters", cost.parameters},
            {"tokens_per_step", cost.tokens},
            {"rows", e.step.graph.rows},
            {"accumulation", e.step.accumulation},
            {"precision", dtype_name(e.step.graph.compute)},
            {"rematerialize", e.step.graph.rematerialize},
            {"model_flops", cost.model_flops},
            {"chip_flops", cost.chip_flops},
            {"chip_f32_flops", cost.chip_f32_flops},
            {"chip_memory_traffic_bytes", cost.chip_memory_traffic},
            {"memory_bytes",
             {{"parameters", m.parameters},
              {"gradients", m.gradients},
              {"optimizer", m.optimizer},
              {"weights", m.weights},
              {"activations", m.activations},
              {"attention", m.attention},
              {"logits", m.logits},
              {"total", m.total()},
              {"activations_other_way", m.other_activations + m.other_attention}}},
            {"collectives", collectives},
            {"seconds",
             {{"compute", or_null(e.times.compute)},
              {"memory", or_null(e.times.memory)},
              {"links", or_null(e.times.links)},
              {"network", or_null(e.times.network)},
              {"overlapped", e.times.overlapped()},
              {"in_turn", e.times.in_turn()}}},
            {"complete", e.times.complete()},
            {"bottleneck", e.times.bottleneck()},
            {"tokens_per_second", e.tokens_per_second()},
            {"share_of_peak", e.share_of_peak(e.times.overlapped())},
            {"share_of_peak_in_turn", e.share_of_peak(e.times.in_turn())},
            {"fits", e.fits}};
  }

  static void print_for_people(const Estimate& e, const Training& training, const pjrt::Chip& chip) {
    const StepCost& cost = e.cost;
    const StepMemory& m = cost.memory;
    const bool again = e.step.graph.rematerialize;
    fmt::print("{}: {} parameters, {} tokens a step: {} rows of {} x {} micro-batches, {}\n", training.stage,
               grouped(static_cast<double>(cost.parameters)), grouped(cost.tokens), e.step.graph.rows,
               e.step.graph.length, e.step.accumulation, dtype_name(e.step.graph.compute));
    fmt::print("on {} x {}: {}\n\n", e.step.graph.mesh.devices(), chip.called(),
               e.step.graph.mesh.to_string());
    fmt::print("memory of a chip     {:>12}   of {}: {}\n", gib(m.total()), gib(chip.memory_bytes),
               e.fits ? "fits" : "DOES NOT FIT");
    const std::pair<const char*, double> parts[] = {{"parameters", m.parameters},
                                                    {"gradients", m.gradients},
                                                    {"optimizer state", m.optimizer},
                                                    {"weights at work", m.weights},
                                                    {"activations", m.activations},
                                                    {"attention T x T", m.attention},
                                                    {"logits", m.logits}};
    for (const auto& [part, bytes] : parts) fmt::print("  {:<18} {:>12}\n", part, gib(bytes));
    fmt::print("  {} rematerialisation activations and attention would take {}\n\n",
               again ? "without" : "with", gib(m.other_activations + m.other_attention));
    fmt::print("FLOPs of a step      {:>12.4g}   the model's, all chips\n", cost.model_flops);
    fmt::print("  done by a chip     {:>12.4g}   {}\n", cost.chip_flops + cost.chip_f32_flops,
               again ? "with the second forward pass" : "");
    if (cost.chip_f32_flops > 0)
      fmt::print("  of them in f32     {:>12.4g}   the embedding's gradient as a product\n",
                 cost.chip_f32_flops);
    fmt::print("memory traffic       {:>12}   of a chip, at least\n", gib(cost.chip_memory_traffic));
    for (const CollectiveCost& each : cost.collectives) {
      const WireBytes wire = wire_bytes(each, chip.link_chips);
      fmt::print("{:<20} {:>12}   {}, {} chips: sends {} by links, {} by network\n",
                 collective_name(each.kind), gib(each.bytes), each.what, each.ways, gib(wire.links),
                 gib(wire.network));
    }
    fmt::print("\n");
    for (const StepTimes::Named& each : e.times.all())
      fmt::print("{:<20} {:>10} s{}\n", each.name, text_of(each.seconds),
                 each.seconds ? "" : "   the vendor states no figure");
    fmt::print("bound by             {:>12}\n", e.times.bottleneck());
    fmt::print("tokens a second      {:>12}   if all overlap{}; {} one after another\n",
               grouped(e.tokens_per_second()), e.times.complete() ? "" : ", at most",
               grouped(cost.tokens / e.times.in_turn()));
    fmt::print("share of the peak    {:>10.1f} %   if all overlap; {:.1f} % one after another\n",
               100 * e.share_of_peak(e.times.overlapped()), 100 * e.share_of_peak(e.times.in_turn()));
  }

  std::string recipe_, chip_, mesh_, stage_;
  std::vector<std::string> overrides_;
  std::vector<int64_t> table_;
  int64_t rows_ = 0;
  bool one_hot_gradient_ = false;
};

}  // namespace

std::unique_ptr<Command> make_plan_command() { return std::make_unique<PlanCommand>(); }

}  // namespace vertebra::cli
