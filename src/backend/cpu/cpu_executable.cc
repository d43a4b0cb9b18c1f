#include "backend/cpu/cpu_executable.h"

#include <atomic>
#include <cstring>

#include "backend/bounded_types.h"
#include "backend/cpu/block_matrix.h"
#include "graph/op.h"

namespace vertebra::cpu {
namespace {

std::atomic<uint64_t> run_counter{0};

std::string operand_types(const Node& node) {
  std::string types;
  for (const Value& v : node.operands) types += (types.empty() ? "" : ", ") + v.type().to_string();
  return types;
}

// A block-quantized constant as it lies in memory, seen as bytes.
Tensor as_panels(const Tensor& blocks, ThreadTeam& team) {
  Tensor panels(DType::kU8, {static_cast<int64_t>(panels_size_bytes(blocks.type()))});
  pack_blocks(blocks.type(), blocks.raw(), static_cast<std::byte*>(panels.raw()), team);
  return panels;
}

}  // namespace

CpuExecutable::CpuExecutable(Graph graph, ThreadTeam& team) : graph_(std::move(graph)), team_(team) {
  make_kernels();
  std::vector<const Kernel*> kernels;
  for (const auto& kernel : kernels_) kernels.push_back(kernel.get());
  const StoredTypes types(graph_, kernels);
  plan_ = plan_memory(graph_, kernels, types, team_.size());
  arena_ = allocate_large(plan_.arena_bytes, "the workspace of a graph");
  make_references(types);
  input_data_.resize(graph_.inputs().size());
  output_data_.resize(graph_.outputs().size());
  for (const auto& output : graph_.outputs()) output_types_.push_back(at_bounds(output.value.type()));
  symbol_sizes_.fill(-1);
  given_up_.resize(graph_.inputs().size(), false);
  for (const auto& output : graph_.outputs()) {
    if (output.donated_input >= 0) given_up_[static_cast<size_t>(output.donated_input)] = true;
  }
  find_packings();
}

void CpuExecutable::make_kernels() {
  kernels_.resize(graph_.nodes().size());
  constants_.resize(graph_.nodes().size());
  for (const auto& node : graph_.nodes()) {
    const auto id = static_cast<size_t>(node->id);
    if (is_constant(*node)) {
      constants_[id] = constant_value(*node);
      if (reinterpret_cast<uintptr_t>(constants_[id].raw()) % 64 != 0)
        constants_[id] = constants_[id].clone();
      if (is_block_quantized(constants_[id].dtype())) constants_[id] = as_panels(constants_[id], team_);
    }
    if (is_parameter(*node) || is_constant(*node) || is_alias(*node)) continue;
    if (const KernelFactory factory = find_kernel_factory(node->op->name)) kernels_[id] = factory(*node);
    require(kernels_[id] != nullptr, Code::kUnimplemented, "the CPU has no kernel for {}({}){}",
            node->op->name, operand_types(*node), node->scope.empty() ? "" : " in '" + node->scope + "'");
  }
}

void CpuExecutable::make_references(const StoredTypes& types) {
  for (const auto& node : graph_.nodes()) {
    const auto id = static_cast<size_t>(node->id);
    if (kernels_[id] == nullptr) continue;
    Step step = {
        kernels_[id].get(),  arena_.get() + plan_.workspace[id], references_.size(), node->operands.size(), 0,
        node->results.size()};
    for (const Value& v : node->operands) {
      // An alias lies where its operand lies, in the same element type.
      add_reference(plan_.values[static_cast<size_t>(v.node->id)][static_cast<size_t>(v.index)], types.of(v));
    }
    step.first_result = references_.size();
    for (size_t i = 0; i < node->results.size(); ++i)
      add_reference(plan_.values[id][i], types.of({node.get(), static_cast<int>(i)}));
    steps_.push_back(step);
  }
}

void CpuExecutable::add_reference(const Place& place, const TensorType& type) {
  if (place.kind == Place::Kind::kInput || place.kind == Place::Kind::kOutput)
    rebound_.push_back(references_.size());
  if (!type.shape.is_static()) bounded_.push_back(references_.size());
  references_.push_back({fixed_address(place), at_bounds(type), nullptr});
  sources_.push_back({place, type});
}

void CpuExecutable::find_packings() {
  for (const Step& step : steps_) {
    for (size_t i = 0; i < step.operand_count; ++i) {
      const std::optional<DType> dtype = step.kernel->packs(static_cast<int>(i));
      const Reference& source = sources_[step.first_operand + i];
      const auto input = static_cast<size_t>(source.place.index);
      if (!dtype || source.place.kind != Place::Kind::kInput || given_up_[input]) continue;
      if (source.declared != graph_.inputs()[input].value.type()) continue;  // a reshaped one
      packings_.push_back({step.first_operand + i, input, *dtype});
    }
  }
}

std::byte* CpuExecutable::fixed_address(const Place& place) const {
  if (place.kind == Place::Kind::kArena) return arena_.get() + place.offset;
  if (place.kind == Place::Kind::kConstant) {
    const void* data = constants_[static_cast<size_t>(place.index)].raw();
    return static_cast<std::byte*>(const_cast<void*>(data));  // kernels only read operands
  }
  return nullptr;
}

std::byte* CpuExecutable::address(const Place& place) const {
  if (place.kind == Place::Kind::kInput) return input_data_[static_cast<size_t>(place.index)];
  if (place.kind == Place::Kind::kOutput) return output_data_[static_cast<size_t>(place.index)];
  return fixed_address(place);
}

void CpuExecutable::run(std::span<Buffer* const> inputs, std::span<Buffer* const> outputs) {
  bind_inputs(inputs);
  bind_outputs(outputs);
  for (const size_t i : rebound_) references_[i].data = address(sources_[i].place);
  for (const Packing& packing : packings_) {
    auto& buffer = static_cast<CpuBuffer&>(*inputs[packing.input]);
    references_[packing.reference].packed = &buffer.packed(packing.dtype, team_);
  }
  const std::span<const TensorRef> references = references_;
  for (const Step& step : steps_) {
    step.kernel->run({references.subspan(step.first_operand, step.operand_count),
                      references.subspan(step.first_result, step.result_count), step.workspace, team_});
  }
  TensorType type;
  for (const Plan::Copy& copy : plan_.final_copies) {
    actual_type(copy.type, type);
    const std::byte* from = address(copy.from);
    std::byte* to = address(copy.to);
    if (from != to && stored_bytes(type) > 0) std::memcpy(to, from, stored_bytes(type));
  }
}

void CpuExecutable::bind_inputs(std::span<Buffer* const> inputs) {
  const auto& declared = graph_.inputs();
  require(inputs.size() == declared.size(), "{} inputs given, the graph has {}", inputs.size(),
          declared.size());
  const uint64_t run = run_counter.fetch_add(1) + 1;
  current_sizes_.fill(-1);
  for (size_t i = 0; i < inputs.size(); ++i) {
    auto* buffer = dynamic_cast<CpuBuffer*>(inputs[i]);
    require(buffer != nullptr, "input '{}' is {}", declared[i].name,
            inputs[i] == nullptr ? "missing" : "no buffer of the CPU backend");
    const TensorType& wanted = declared[i].value.type();
    if (!fits(buffer->type(), wanted)) {  // types become text when they are needed: hundreds of inputs a step
      fail(Code::kInvalidArgument, "input '{}' has type {}, the graph wants {}", declared[i].name,
           buffer->type().to_string(), wanted.to_string());
    }
    bind_symbols(i, buffer->type());
    if (buffer->binding.run == run) {
      const auto other = static_cast<size_t>(buffer->binding.input);
      require(!given_up_[i] && !given_up_[other],
              "inputs '{}' and '{}' are given the same buffer, and an output takes over one of them",
              declared[other].name, declared[i].name);
    }
    input_data_[i] = buffer->data();
    buffer->binding = {run, static_cast<int>(i)};
  }
  if (current_sizes_ != symbol_sizes_) update_sizes();
}

void CpuExecutable::bind_symbols(size_t input, const TensorType& type) {
  const auto& declared = graph_.inputs()[input];
  for (int axis = 0; axis < type.shape.rank(); ++axis) {
    const uint8_t symbol = declared.value.shape().dim(axis).symbol;
    if (symbol == 0) continue;
    if (current_sizes_[symbol] < 0) {
      current_sizes_[symbol] = type.shape[axis];
      bound_by_[symbol] = static_cast<int>(input);
    }
    if (current_sizes_[symbol] == type.shape[axis]) continue;
    fail(Code::kInvalidArgument, "input '{}' has type {}: its dimension {} must be {}, as in input '{}'",
         declared.name, type.to_string(), axis, current_sizes_[symbol],
         graph_.inputs()[static_cast<size_t>(bound_by_[symbol])].name);
  }
}

// A symbol that no input carries has the size of its bound.
void CpuExecutable::actual_type(const TensorType& declared, TensorType& type) const {
  type = declared;
  for (int axis = 0; axis < type.shape.rank(); ++axis) {
    const Dim dim = type.shape.dim(axis);
    const int64_t bound_size = dim.symbol == 0 ? -1 : symbol_sizes_[dim.symbol];
    type.shape.set_dim(axis, Dim(bound_size < 0 ? dim.size : bound_size));
  }
}

void CpuExecutable::update_sizes() {
  symbol_sizes_ = current_sizes_;
  for (const size_t i : bounded_) actual_type(sources_[i].declared, references_[i].type);
  for (size_t j = 0; j < output_types_.size(); ++j)
    actual_type(graph_.outputs()[j].value.type(), output_types_[j]);
}

void CpuExecutable::bind_outputs(std::span<Buffer* const> outputs) {
  const auto& declared = graph_.outputs();
  require(outputs.size() == declared.size(), "{} outputs given, the graph has {}", outputs.size(),
          declared.size());
  const uint64_t run = run_counter.load();
  for (size_t j = 0; j < outputs.size(); ++j) {
    auto* buffer = dynamic_cast<CpuBuffer*>(outputs[j]);
    require(buffer != nullptr, "output '{}' is {}", declared[j].name,
            outputs[j] == nullptr ? "missing" : "no buffer of the CPU backend");
    const TensorType& type = output_types_[j];
    require(buffer->type().dtype == type.dtype && buffer->capacity_bytes() >= stored_bytes(type),
            "output '{}' of type {} does not fit the buffer given for it: type {}, {} bytes",
            declared[j].name, type.to_string(), buffer->type().to_string(), buffer->capacity_bytes());
    output_data_[j] = buffer->data();
    const bool is_input = buffer->binding.run == run && buffer->binding.input >= 0;
    if (is_input) {
      const int input = buffer->binding.input;
      require(input == declared[j].donated_input,
              "output '{}' and input '{}' are given the same buffer, but the graph does not donate it",
              declared[j].name, graph_.inputs()[static_cast<size_t>(input)].name);
    }
    for (size_t k = 0; k < j && !is_input; ++k) {
      require(output_data_[k] != output_data_[j], "outputs '{}' and '{}' are given the same buffer",
              declared[k].name, declared[j].name);
    }
    buffer->begin_write(type);
  }
}

std::string CpuExecutable::describe() const {
  std::string out = graph_.to_string();
  out += fmt::format("arena: {} bytes\n", plan_.arena_bytes);
  const auto place_name = [&](const Place& place) -> std::string {
    switch (place.kind) {
      case Place::Kind::kInput:
        return "input " + graph_.inputs()[static_cast<size_t>(place.index)].name;
      case Place::Kind::kOutput:
        return "output " + graph_.outputs()[static_cast<size_t>(place.index)].name;
      case Place::Kind::kConstant:
        return fmt::format("constant %{}", place.index);
      case Place::Kind::kArena:
        return fmt::format("arena {}", place.offset);
      case Place::Kind::kNone:
        break;
    }
    return "nowhere";
  };
  size_t step = 0;
  for (const auto& node : graph_.nodes()) {
    const auto id = static_cast<size_t>(node->id);
    if (kernels_[id] == nullptr) continue;
    out += fmt::format("step %{} {}:", node->id, node->op->name);
    const size_t first = steps_[step++].first_result;
    for (size_t i = 0; i < node->results.size(); ++i) {
      const DType stored = sources_[first + i].declared.dtype;
      out += " " + place_name(plan_.values[id][i]);
      if (stored != node->results[i].dtype) out += fmt::format(" as {}", dtype_name(stored));
    }
    const size_t workspace = kernels_[id]->workspace_bytes(team_.size());
    if (workspace > 0) out += fmt::format(", workspace {} at {}", workspace, plan_.workspace[id]);
    out += "\n";
  }
  for (const Plan::Copy& copy : plan_.final_copies)
    out += fmt::format("copy {} to {}\n", place_name(copy.from), place_name(copy.to));
  return out;
}

}  // namespace vertebra::cpu
