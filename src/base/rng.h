// Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as
// 1, 2, 3", SC 2011). A number depends on (seed, stream, position) alone, never on how many were
// drawn before or by which thread, so that every use can be replayed.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <string_view>

namespace vertebra {

// Four 32-bit words for one counter value under one key.
inline std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * counter[0];
    const uint64_t p1 = uint64_t{0xCD9E8D57u} * counter[2];
    counter = {static_cast<uint32_t>(p1 >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(p1),
               static_cast<uint32_t>(p0 >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(p0)};
    key[0] += 0x9E3779B9u;
    key[1] += 0xBB67AE85u;
  }
  return counter;
}

// A stable 64-bit hash of a name (FNV-1a): turns "shuffle" or "weights/layer.3" into a stream.
constexpr uint64_t stream_id(std::string_view name) {
  uint64_t hash = 0xcbf29ce484222325ull;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ull;
  return hash;
}

// Random access to the numbers of one (seed, stream).
class Philox {
 public:
  Philox(uint64_t seed, uint64_t stream) : seed_(seed), stream_(stream) {}
  Philox(uint64_t seed, std::string_view stream) : Philox(seed, stream_id(stream)) {}

  std::array<uint32_t, 4> block(uint64_t position) const {
    return philox4x32({static_cast<uint32_t>(position), static_cast<uint32_t>(position >> 32),
                       static_cast<uint32_t>(stream_), static_cast<uint32_t>(stream_ >> 32)},
                      {static_cast<uint32_t>(seed_), static_cast<uint32_t>(seed_ >> 32)});
  }
  uint64_t bits64(uint64_t position) const {
    const auto b = block(position);
    return (uint64_t{b[1]} << 32) | b[0];
  }
  // Uniform in [0, 1) with 53 bits.
  double uniform(uint64_t position) const { return static_cast<double>(bits64(position) >> 11) * 0x1p-53; }
  // Standard normal (Box-Muller on one block).
  double normal(uint64_t position) const {
    const auto b = block(position);
    const double u = (static_cast<double>(((uint64_t{b[1]} << 32) | b[0]) >> 11) + 0.5) * 0x1p-53;
    const double v = static_cast<double>(((uint64_t{b[3]} << 32) | b[2]) >> 11) * 0x1p-53;
    return std::sqrt(-2.0 * std::log(u)) * std::cos(6.283185307179586476925 * v);
  }
  // Uniform in [0, n), n > 0, by the high half of a 64 x 64 product (bias below n / 2^64).
  uint64_t below(uint64_t position, uint64_t n) const {
    return static_cast<uint64_t>((static_cast<unsigned __int128>(bits64(position)) * n) >> 64);
  }

 private:
  uint64_t seed_;
  uint64_t stream_;
};

// The same numbers drawn one after the other.
class PhiloxSequence {
 public:
  explicit PhiloxSequence(Philox source) : source_(source) {}
  double uniform() { return source_.uniform(position_++); }
  double normal() { return source_.normal(position_++); }
  uint64_t below(uint64_t n) { return source_.below(position_++, n); }
  bool chance(double probability) { return uniform() < probability; }
  uint64_t position() const { return position_; }

 private:
  Philox source_;
  uint64_t position_ = 0;
};

}  // namespace vertebra
