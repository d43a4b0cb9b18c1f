// Runs one kernel outside any graph pass: builds a node of the given types, makes its kernel and runs it on
// aligned tensors. For the tests of the fused kernels, which compare with double-precision references of
// their own.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "backend/cpu/kernel.h"
#include "backend/cpu/kernels/isa.h"
#include "base/rng.h"
#include "base/thread_team.h"
#include "graph/graph.h"
#include "graph/op.h"
#include "tensor/tensor.h"

namespace vertebra::cpu {

using Factory = std::unique_ptr<Kernel> (*)(const Node&);

// Results start as NaN bits, so that an element left unwritten shows; `share` gives result r the memory of
// operand share[r] (-1: its own).
inline std::vector<Tensor> run_kernel(Factory factory, const Attrs& attrs,
                                      const std::vector<Tensor>& operands,
                                      const std::vector<TensorType>& results, int threads = 1,
                                      const std::vector<int>& share = {}) {
  thread_local std::vector<TensorType> result_types;
  result_types = results;
  static const OpDef op{.name = "kernel_under_test", .infer = [](const InferInput&) { return result_types; }};
  Graph graph;
  std::vector<Value> values;
  for (size_t i = 0; i < operands.size(); ++i)
    values.push_back(graph.parameter("p" + std::to_string(i), operands[i].type()));
  const Node* node = graph.add_node(op, values, attrs)[0].node;
  const std::unique_ptr<Kernel> kernel = factory(*node);
  if (kernel == nullptr) {
    ADD_FAILURE() << "the kernel does not support the node";
    return {};
  }
  std::vector<Tensor> outputs;
  std::vector<TensorRef> in, out;
  for (const Tensor& t : operands) in.push_back({const_cast<void*>(t.raw()), t.type()});
  for (size_t r = 0; r < results.size(); ++r) {
    const int shared = r < share.size() ? share[r] : -1;
    if (shared >= 0) {
      EXPECT_TRUE(kernel->can_share(shared, static_cast<int>(r)));
      Tensor copy = operands[static_cast<size_t>(shared)].clone();
      in[static_cast<size_t>(shared)].data = copy.raw();
      outputs.push_back(copy);
    } else {
      Tensor fresh(results[r]);
      std::memset(fresh.raw(), 0xff, fresh.size_bytes());
      outputs.push_back(fresh);
    }
    out.push_back({outputs.back().raw(), results[r]});
  }
  ThreadTeam team(threads);
  Tensor workspace(DType::kU8, Shape{Dim(static_cast<int64_t>(kernel->workspace_bytes(threads)) + 64)});
  std::memset(workspace.raw(), 0xff, workspace.size_bytes());
  auto* guard = static_cast<uint8_t*>(workspace.raw()) + workspace.size_bytes() - 64;
  kernel->run({in, out, static_cast<std::byte*>(workspace.raw()), team});
  for (int i = 0; i < 64; ++i) EXPECT_EQ(guard[i], 0xff) << "the kernel wrote beyond its workspace";
  return outputs;
}

inline Tensor random_tensor(Shape shape, std::string_view name, double deviation = 1) {
  Tensor out(DType::kF32, shape);
  const Philox random(7, name);
  auto data = out.data<float>();
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<float>(random.normal(i) * deviation);
  return out;
}

inline Tensor ints(Shape shape, const std::vector<int32_t>& values) {
  return Tensor::from<int32_t>(shape, std::span<const int32_t>(values));
}

// The largest difference, relative to the largest wanted value (at least `floor`).
inline double relative_error(const Tensor& got, const std::vector<double>& want, double floor = 1e-30) {
  double largest = floor, difference = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    const double value = got.at(static_cast<int64_t>(i));
    if (std::isnan(value)) return 1e30;
    largest = std::max(largest, std::abs(want[i]));
    difference = std::max(difference, std::abs(value - want[i]));
  }
  return difference / largest;
}

// Runs body on every instruction set of this machine, and restores the one in use.
template <class Body>
void on_every_isa(Body&& body) {
  const Isa before = active_isa();
  for (const Isa isa : supported_isas()) {
    SCOPED_TRACE(std::string(isa_name(isa)));
    set_isa(isa);
    body();
  }
  set_isa(before);
}

}  // namespace vertebra::cpu
