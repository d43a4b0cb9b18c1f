#include "backend/pjrt/pjrt_executable.h"

#include <algorithm>

#include "backend/bounded_types.h"
#include "backend/pjrt/bounded_shapes.h"
#include "backend/pjrt/stablehlo.h"
#include "base/error.h"
#include "base/log.h"

namespace vertebra::pjrt {
namespace {

// Runs queued behind the one on the device: enough that the host prepares the next step meanwhile.
constexpr size_t kMostRunning = 2;

}  // namespace

PjrtExecutable::PjrtExecutable(std::shared_ptr<const DeviceMesh> mesh, std::shared_ptr<Compiler> compiler,
                               Graph graph)
    : mesh_(std::move(mesh)),
      client_(mesh_->client),
      compiler_(std::move(compiler)),
      graph_(std::move(graph)),
      symbols_(symbols_of(graph_)) {
  given_up_.resize(graph_.inputs().size(), false);
  for (const auto& output : graph_.outputs()) {
    if (output.donated_input >= 0) given_up_[static_cast<size_t>(output.donated_input)] = true;
  }
  if (symbols_.empty()) variant({});
}

PjrtExecutable::~PjrtExecutable() {
  while (!running_.empty()) {
    try {
      wait_for_oldest();
    } catch (
        const std::exception& error) {  // a destructor cannot throw; whoever reads a result is told as well
      log_warning("{}", error.what());
    }
  }
}

// Adds what the graph needs, and what would fit, to the plugin's words.
template <class Work>
auto PjrtExecutable::with_memory_told(const MemoryUse& memory, Work&& work) {
  try {
    return work();
  } catch (const Error& error) {
    if (error.code() != Code::kResourceExhausted) throw;
    fail(Code::kResourceExhausted, "{}; the graph needs {}", error.what(), memory.to_string());
  }
}

PjrtExecutable::Variant& PjrtExecutable::variant(const Sizes& padded) {
  if (const auto it = variants_.find(padded); it != variants_.end()) return it->second;
  const Graph graph = pad_bounded(graph_, symbols_, padded);
  Variant out;
  for (const auto& input : graph.inputs()) out.inputs.push_back(input.value.type());
  for (const auto& output : graph.outputs()) out.outputs.push_back(output.value.type());
  out.module = print_stablehlo(graph, client_->plugin().vendor(), mesh_->mesh);
  out.executable =
      with_memory_told(memory_use(graph, *mesh_, 0), [&] { return compiler_->compile(out.module); });
  out.memory = memory_use(graph, *mesh_, out.executable->temporary_bytes());
  require(out.memory.fits(), Code::kResourceExhausted, "the device has too little memory: the graph needs {}",
          out.memory.to_string());
  const size_t outputs = out.executable->output_count();
  require(outputs == graph_.outputs().size(), Code::kInternal,
          "the plugin made an executable of {} outputs from a graph of {}", outputs, graph_.outputs().size());
  return variants_.emplace(padded, std::move(out)).first->second;
}

void PjrtExecutable::run(std::span<Buffer* const> inputs, std::span<Buffer* const> outputs) {
  Sizes actual(symbols_.size(), -1), padded;
  const std::vector<PjrtBuffer*> in = check_inputs(inputs, actual);
  const std::vector<PjrtBuffer*> out = check_outputs(in, outputs, actual);
  for (size_t i = 0; i < symbols_.size(); ++i) padded.push_back(bucket_size(actual[i], symbols_[i].bound));
  const Variant& chosen = variant(padded);

  std::vector<std::vector<BufferHandle*>> arguments(mesh_->size());
  const auto add_argument = [&](const std::vector<DeviceBuffer>& parts) {
    for (size_t d = 0; d < parts.size(); ++d) arguments[d].push_back(parts[d].handle());
  };
  for (size_t i = 0; i < in.size(); ++i) add_argument(in[i]->input(chosen.inputs[i]));
  for (const int64_t size : actual) add_argument(size_scalar(size));
  while (running_.size() >= kMostRunning) wait_for_oldest();
  const std::vector<std::vector<BufferHandle*>> results = execute(chosen, arguments);

  for (size_t i = 0; i < in.size(); ++i) {
    if (given_up_[i]) in[i]->give_up();
  }
  for (size_t j = 0; j < out.size(); ++j) {
    std::vector<DeviceBuffer> parts;
    for (const auto& of_device : results) parts.emplace_back(client_, of_device[j]);
    out[j]->adopt(std::move(parts), chosen.outputs[j], actual_type(graph_.outputs()[j].value.type(), actual));
  }
}

std::vector<std::vector<BufferHandle*>> PjrtExecutable::execute(
    const Variant& chosen, const std::vector<std::vector<BufferHandle*>>& arguments) {
  const size_t devices = arguments.size();
  std::vector<std::vector<BufferHandle*>> results(devices,
                                                  std::vector<BufferHandle*>(chosen.outputs.size(), nullptr));
  std::vector<BufferHandle* const*> argument_lists;
  std::vector<BufferHandle**> result_lists;
  std::vector<EventHandle*> done(devices, nullptr);
  for (size_t d = 0; d < devices; ++d) {
    argument_lists.push_back(arguments[d].data());
    result_lists.push_back(results[d].data());
  }
  Padded<ExecuteOptions> options;
  client_->plugin().set_size(options);
  ExecuteArgs args = {};
  args.executable = chosen.executable->handle();
  args.options = &options.value;
  args.argument_lists = argument_lists.data();
  args.num_devices = devices;
  args.num_args = arguments[0].size();
  args.output_lists = result_lists.data();
  args.device_complete_events = done.data();
  with_memory_told(chosen.memory,
                   [&] { client_->plugin().call(Slot::kLoadedExecutableExecute, args, "run the graph"); });
  running_.push_back(std::move(done));
  return results;
}

std::vector<PjrtBuffer*> PjrtExecutable::check_inputs(std::span<Buffer* const> inputs, Sizes& actual) const {
  const auto& declared = graph_.inputs();
  require(inputs.size() == declared.size(), "{} inputs given, the graph has {}", inputs.size(),
          declared.size());
  std::vector<PjrtBuffer*> out;
  std::vector<int> bound_by(symbols_.size(), -1);
  std::map<const Buffer*, size_t> seen;
  for (size_t i = 0; i < inputs.size(); ++i) {
    auto* buffer = dynamic_cast<PjrtBuffer*>(inputs[i]);
    require(buffer != nullptr && &buffer->client() == client_.get(), "input '{}' is {}", declared[i].name,
            inputs[i] == nullptr ? "missing" : "no buffer of this device");
    const TensorType& wanted = declared[i].value.type();
    require(fits(buffer->type(), wanted), "input '{}' has type {}, the graph wants {}", declared[i].name,
            buffer->type().to_string(), wanted.to_string());
    check_placed(*buffer, declared[i].sharding, "input", declared[i].name);
    bind_symbols(i, buffer->type(), actual, bound_by);
    const auto [it, is_new] = seen.emplace(buffer, i);
    require(is_new || (!given_up_[i] && !given_up_[it->second]),
            "inputs '{}' and '{}' are given the same buffer, and an output takes over one of them",
            declared[it->second].name, declared[i].name);
    out.push_back(buffer);
  }
  return out;
}

void PjrtExecutable::bind_symbols(size_t input, const TensorType& type, Sizes& actual,
                                  std::vector<int>& bound_by) const {
  const auto& declared = graph_.inputs()[input];
  for (int axis = 0; axis < type.shape.rank(); ++axis) {
    const uint8_t symbol = declared.value.shape().dim(axis).symbol;
    if (symbol == 0) continue;
    const auto it =
        std::find_if(symbols_.begin(), symbols_.end(), [&](const Symbol& s) { return s.symbol == symbol; });
    const auto at = static_cast<size_t>(it - symbols_.begin());
    if (actual[at] < 0) {
      actual[at] = type.shape[axis];
      bound_by[at] = static_cast<int>(input);
    }
    require(actual[at] == type.shape[axis],
            "input '{}' has type {}: its dimension {} must be {}, as in input '{}'", declared.name,
            type.to_string(), axis, actual[at], graph_.inputs()[static_cast<size_t>(bound_by[at])].name);
  }
}

TensorType PjrtExecutable::actual_type(const TensorType& declared, const Sizes& actual) const {
  TensorType out = at_bounds(declared);
  for (int axis = 0; axis < out.shape.rank(); ++axis) {
    for (size_t i = 0; i < symbols_.size(); ++i) {
      if (declared.shape.dim(axis).symbol == symbols_[i].symbol) out.shape.set_dim(axis, actual[i]);
    }
  }
  return out;
}

std::vector<PjrtBuffer*> PjrtExecutable::check_outputs(std::span<PjrtBuffer* const> inputs,
                                                       std::span<Buffer* const> outputs,
                                                       const Sizes& actual) const {
  const auto& declared = graph_.outputs();
  require(outputs.size() == declared.size(), "{} outputs given, the graph has {}", outputs.size(),
          declared.size());
  std::map<const Buffer*, size_t> input_of, seen;
  for (size_t i = 0; i < inputs.size(); ++i) input_of.emplace(inputs[i], i);
  std::vector<PjrtBuffer*> out;
  for (size_t j = 0; j < outputs.size(); ++j) {
    auto* buffer = dynamic_cast<PjrtBuffer*>(outputs[j]);
    require(buffer != nullptr && &buffer->client() == client_.get(), "output '{}' is {}", declared[j].name,
            outputs[j] == nullptr ? "missing" : "no buffer of this device");
    const TensorType type = actual_type(declared[j].value.type(), actual);
    require(buffer->declared().dtype == type.dtype && buffer->declared().size_bytes() >= type.size_bytes(),
            "output '{}' of type {} does not fit the buffer given for it: type {}, {} bytes",
            declared[j].name, type.to_string(), buffer->declared().to_string(),
            buffer->declared().size_bytes());
    check_placed(*buffer, declared[j].sharding, "output", declared[j].name);
    if (const auto it = input_of.find(buffer); it != input_of.end()) {
      require(declared[j].donated_input == static_cast<int>(it->second),
              "output '{}' and input '{}' are given the same buffer, but the graph does not donate it",
              declared[j].name, graph_.inputs()[it->second].name);
    }
    const auto [it, is_new] = seen.emplace(buffer, j);
    require(is_new, "outputs '{}' and '{}' are given the same buffer", declared[it->second].name,
            declared[j].name);
    out.push_back(buffer);
  }
  return out;
}

void PjrtExecutable::check_placed(const PjrtBuffer& buffer, const Sharding& wanted, std::string_view role,
                                  std::string_view name) const {
  const Sharding effective = on_mesh(wanted, mesh_->mesh);
  require(buffer.sharding() == effective, "{} '{}' lies on the mesh as {}, the graph wants {}", role, name,
          buffer.sharding().to_string(), effective.to_string());
}

// The sizes that occur are few; each is uploaded once.
const std::vector<DeviceBuffer>& PjrtExecutable::size_scalar(int64_t size) {
  std::vector<DeviceBuffer>& kept = size_scalars_[size];
  for (size_t d = kept.size(); d < mesh_->size(); ++d)
    kept.push_back(
        DeviceBuffer::upload(client_, mesh_->device(d), Tensor::scalar<int32_t>(static_cast<int32_t>(size))));
  return kept;
}

// Of several errors the first is thrown, after all devices are done.
void PjrtExecutable::wait_for_oldest() {
  const std::vector<EventHandle*> events = std::move(running_.front());
  running_.pop_front();
  std::exception_ptr first;
  for (EventHandle* event : events) {
    try {
      client_->plugin().await(event, "run the graph");
    } catch (const Error&) {  // thrown on, once the other events are awaited and freed
      if (!first) first = std::current_exception();
    }
  }
  if (first) std::rethrow_exception(first);
}

uint64_t PjrtExecutable::workspace_bytes() const {
  uint64_t most = 0;
  for (const auto& [sizes, each] : variants_) most = std::max(most, each.executable->temporary_bytes());
  return most;
}

std::vector<LoadedExecutable::OptimizedProgram> PjrtExecutable::optimized_programs() const {
  std::vector<LoadedExecutable::OptimizedProgram> out;
  for (const auto& [sizes, each] : variants_) out.push_back(each.executable->optimized_program());
  return out;
}

std::string PjrtExecutable::describe() const {
  std::string out = graph_.to_string();
  for (const auto& [sizes, each] : variants_) {
    out += "\n";
    for (size_t i = 0; i < sizes.size(); ++i)
      out += fmt::format("n{} padded to {}\n", symbols_[i].symbol, sizes[i]);
    out += each.module;
  }
  return out;
}

}  // namespace vertebra::pjrt
