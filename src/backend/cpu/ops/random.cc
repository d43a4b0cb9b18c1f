// Kernel of random_bits: element i is word i % 4 of the Philox block of counter i / 4.
#include "backend/cpu/kernel.h"
#include "backend/cpu/ops/strided_copy.h"
#include "base/rng.h"
#include "graph/op.h"

namespace vertebra::cpu {
namespace {

class RandomBits final : public Kernel {
 public:
  void run(const KernelCall& call) const override {
    const auto* key = call.operands[0].as<const uint32_t>();
    const Philox source(uint64_t{key[1]} << 32 | key[0], uint64_t{key[3]} << 32 | key[2]);
    auto* out = call.results[0].as<uint32_t>();
    const int64_t size = call.results[0].type.shape.elements();
    constexpr int64_t kWords = 4, kCost = 40;
    parallel_ranges(call.team, (size + kWords - 1) / kWords, kCost, [&](int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; ++block) {
        const auto words = source.block(static_cast<uint64_t>(block));
        for (int64_t i = block * kWords; i < std::min(size, (block + 1) * kWords); ++i)
          out[i] = words[static_cast<size_t>(i % kWords)];
      }
    });
  }
};

}  // namespace

std::unique_ptr<Kernel> make_random_bits(const Node&) { return std::make_unique<RandomBits>(); }

}  // namespace vertebra::cpu
