// A pseudo-random order of 0..n-1 that is computed, not stored: place i of it in constant time and
// memory, so that a global shuffle needs no pass over the data and a resumed run starts anywhere.
// Called by data/loader.
#pragma once

#include <cstdint>

#include "base/rng.h"

namespace vertebra {

// A balanced Feistel network over the smallest even number of bits that holds n, with Philox as
// the round function, and cycle walking (Black and Rogaway, "Ciphers with Arbitrary Finite
// Domains", CT-RSA 2002): values outside [0, n) are sent through again. The domain is below 4 n,
// so a call takes less than four walks on average. Six rounds: three make a pseudo-random
// permutation (Luby and Rackoff 1988), but in tiny domains a few more are needed to mix well.
class Permutation {
 public:
  // The order of (seed, stream); n >= 1.
  Permutation(uint64_t size, uint64_t seed, uint64_t stream) : size_(size), rounds_(seed, stream) {
    while ((uint64_t{1} << (2 * half_bits_)) < size && half_bits_ < 31) ++half_bits_;
    mask_ = (uint64_t{1} << half_bits_) - 1;
  }

  // A bijection of [0, n); index must be in it.
  uint64_t operator()(uint64_t index) const {
    do {
      index = pass(index);
    } while (index >= size_);
    return index;
  }

 private:
  uint64_t pass(uint64_t value) const {
    uint64_t left = value >> half_bits_, right = value & mask_;
    for (uint64_t round = 0; round < 6; ++round) {
      // The position is unique per (round, half) because a half has at most 31 bits.
      const uint64_t mixed = left ^ (rounds_.block((round << 32) | right)[0] & mask_);
      left = right;
      right = mixed;
    }
    return (left << half_bits_) | right;
  }

  uint64_t size_;
  Philox rounds_;
  int half_bits_ = 1;
  uint64_t mask_ = 0;
};

}  // namespace vertebra
