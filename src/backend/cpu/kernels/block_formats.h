// How each block-quantized type's panel turns into bytes, scales and mins. A chunk of a block is what shares
// loads: codes() calls emit(group of the chunk, step of the group, codes) for every four elements, with both
// known at compile time. Included by block_product.cc only.
#pragma once

#include "backend/cpu/kernels/block_panels.h"
#include "backend/cpu/kernels/int8_vectors.h"

namespace vertebra::VERTEBRA_ISA {
namespace {

// kBits: of the largest code. kOffset: what is to be subtracted of a code.
template <int kElementsOfBlock, int kElementsOfChunk, int kElementsOfGroup, bool kWithMin, int kBitsOfCode,
          int kOffsetOfCode>
struct FormatShape {
  static constexpr int kElements = kElementsOfBlock, kChunk = kElementsOfChunk, kGroup = kElementsOfGroup,
                       kBits = kBitsOfCode, kOffset = kOffsetOfCode;
  static constexpr bool kMin = kWithMin;
};

struct FormatQ8_0 : FormatShape<32, 32, 32, false, 8, kSignedCodes ? 0 : 128> {
  using Panel = PanelQ8_0;
  static constexpr BlockFormat kFormat = BlockFormat::kQ8_0;
  template <class Chunk, class Emit>
  static HWY_INLINE void codes(const Panel& b, Chunk, int part, const Emit& emit) {
    unroll<8>([&](auto w)
                  VERTEBRA_INLINE_LAMBDA { emit(Index<0>{}, Index<w>{}, load_codes(b.qs[w], part)); });
  }
  static HWY_INLINE Floats scale(const Panel& b, int, int part) { return halves_as_floats(b.d, part); }
  static HWY_INLINE Floats min(const Panel&, int, int) { return Floats{}; }
};

template <class Words, class Emit>
HWY_INLINE void emit_nibbles(const Words& qs, int part, const Emit& emit) {
  unroll<4>([&](auto w) VERTEBRA_INLINE_LAMBDA {
    const Bytes q = load_codes(qs[w], part);
    emit(Index<0>{}, Index<w>{}, move_bits<0, 0, 4>(q));
    emit(Index<0>{}, Index<4 + w>{}, move_bits<4, 0, 4>(q));
  });
}

struct FormatQ4_0 : FormatShape<32, 32, 32, false, 4, 8> {
  using Panel = PanelQ4_0;
  static constexpr BlockFormat kFormat = BlockFormat::kQ4_0;
  template <class Chunk, class Emit>
  static HWY_INLINE void codes(const Panel& b, Chunk, int part, const Emit& emit) {
    emit_nibbles(b.qs, part, emit);
  }
  static HWY_INLINE Floats scale(const Panel& b, int, int part) { return halves_as_floats(b.d, part); }
  static HWY_INLINE Floats min(const Panel&, int, int) { return Floats{}; }
};

struct FormatQ4_1 : FormatShape<32, 32, 32, true, 4, 0> {
  using Panel = PanelQ4_1;
  static constexpr BlockFormat kFormat = BlockFormat::kQ4_1;
  template <class Chunk, class Emit>
  static HWY_INLINE void codes(const Panel& b, Chunk, int part, const Emit& emit) {
    emit_nibbles(b.qs, part, emit);
  }
  static HWY_INLINE Floats scale(const Panel& b, int, int part) { return halves_as_floats(b.d, part); }
  static HWY_INLINE Floats min(const Panel& b, int, int part) { return halves_as_floats(b.m, part); }
};

template <class Panel, class Emit>
HWY_INLINE void emit_five_bits(const Panel& b, int part, const Emit& emit) {
  const Bytes high = load_codes(b.qh[0], part);
  unroll<4>([&](auto w) VERTEBRA_INLINE_LAMBDA {
    const Bytes q = load_codes(b.qs[w], part);
    emit(Index<0>{}, Index<w>{}, move_bits<0, 0, 4>(q) | move_bits<w, 4, 1>(high));
    emit(Index<0>{}, Index<4 + w>{}, move_bits<4, 0, 4>(q) | move_bits<4 + w, 4, 1>(high));
  });
}

struct FormatQ5_0 : FormatShape<32, 32, 32, false, 5, 16> {
  using Panel = PanelQ5_0;
  static constexpr BlockFormat kFormat = BlockFormat::kQ5_0;
  template <class Chunk, class Emit>
  static HWY_INLINE void codes(const Panel& b, Chunk, int part, const Emit& emit) {
    emit_five_bits(b, part, emit);
  }
  static HWY_INLINE Floats scale(const Panel& b, int, int part) { return halves_as_floats(b.d, part); }
  static HWY_INLINE Floats min(const Panel&, int, int) { return Floats{}; }
};

struct FormatQ5_1 : FormatShape<32, 32, 32, true, 5, 0> {
  using Panel = PanelQ5_1;
  static constexpr BlockFormat kFormat = BlockFormat::kQ5_1;
  template <class Chunk, class Emit>
  static HWY_INLINE void codes(const Panel& b, Chunk, int part, const Emit& emit) {
    emit_five_bits(b, part, emit);
  }
  static HWY_INLINE Floats scale(const Panel& b, int, int part) { return halves_as_floats(b.d, part); }
  static HWY_INLINE Floats min(const Panel& b, int, int part) { return halves_as_floats(b.m, part); }
};

// The values of IQ4_NL with 128 added; those of MXFP4, doubled, with 12 added.
constexpr uint8_t kIQ4Codes[16] = {1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241};
constexpr uint8_t kE2M1Codes[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};

struct FormatIQ4_NL : FormatShape<32, 32, 32, false, 8, kSignedCodes ? 0 : 128> {
  using Panel = PanelQ4_0;
  static constexpr BlockFormat kFormat = BlockFormat::kIQ4_NL;
  template <class Chunk, class Emit>
  static HWY_INLINE void codes(const Panel& b, Chunk, int part, const Emit& emit) {
    emit_nibbles(b.qs, part, [&](auto group, auto step, Bytes q) VERTEBRA_INLINE_LAMBDA {
      emit(group, step, look_up(kIQ4Codes, q));
    });
  }
  static HWY_INLINE Floats scale(const Panel& b, int, int part) { return halves_as_floats(b.d, part); }
  static HWY_INLINE Floats min(const Panel&, int, int) { return Floats{}; }
};

struct FormatMXFP4 : FormatShape<32, 32, 32, false, 5, 12> {
  using Panel = PanelMXFP4;
  static constexpr BlockFormat kFormat = BlockFormat::kMXFP4;
  template <class Chunk, class Emit>
  static HWY_INLINE void codes(const Panel& b, Chunk, int part, const Emit& emit) {
    emit_nibbles(b.qs, part, [&](auto group, auto step, Bytes q) VERTEBRA_INLINE_LAMBDA {
      emit(group, step, look_up(kE2M1Codes, q));
    });
  }
  // 2^(e - 128), subnormal for e of 0 and 1.
  static HWY_INLINE Floats scale(const Panel& b, int, int part) {
    float scales[kColumns];
    for (int c = 0; c < kColumns; ++c) {
      const uint32_t e = b.e[part * kColumns + c];
      scales[c] = float_of_bits(e >= 2 ? (e - 1) << 23 : 0x200000u << e);
    }
    return load<Floats>(scales);
  }
  static HWY_INLINE Floats min(const Panel&, int, int) { return Floats{}; }
};

// ---- The K types: scales of the groups are integers ----------------------------------------------

struct FormatQ4_K : FormatShape<256, 64, 32, true, 4, 0> {
  using Panel = PanelQ4_K;
  static constexpr BlockFormat kFormat = BlockFormat::kQ4_K;
  template <class Chunk, class Emit>
  static HWY_INLINE void codes(const Panel& b, Chunk p, int part, const Emit& emit) {
    unroll<8>([&](auto w) VERTEBRA_INLINE_LAMBDA {
      const Bytes q = load_codes(b.chunks[p].qs[w], part);
      emit(Index<0>{}, Index<w>{}, move_bits<0, 0, 4>(q));
      emit(Index<1>{}, Index<w>{}, move_bits<4, 0, 4>(q));
    });
  }
  static HWY_INLINE Floats scale(const Panel& b, int group, int part) {
    return halves_as_floats(b.d, part) * bytes_as_floats(b.chunks[group / 2].scales[group % 2], part);
  }
  static HWY_INLINE Floats min(const Panel& b, int group, int part) {
    return -(halves_as_floats(b.dmin, part) * bytes_as_floats(b.chunks[group / 2].mins[group % 2], part));
  }
};

struct FormatQ5_K : FormatShape<256, 256, 32, true, 5, 0> {
  using Panel = PanelQ5_K;
  static constexpr BlockFormat kFormat = BlockFormat::kQ5_K;
  template <class Chunk, class Emit>
  static HWY_INLINE void codes(const Panel& b, Chunk, int part, const Emit& emit) {
    unroll<8>([&](auto w) VERTEBRA_INLINE_LAMBDA {
      const Bytes high = load_codes(b.codes[w].qh[0], part);
      unroll<4>([&](auto p) VERTEBRA_INLINE_LAMBDA {
        const Bytes q = load_codes(b.codes[w].qs[p], part);
        emit(Index<2 * p>{}, Index<w>{}, move_bits<0, 0, 4>(q) | move_bits<2 * p, 4, 1>(high));
        emit(Index<2 * p + 1>{}, Index<w>{}, move_bits<4, 0, 4>(q) | move_bits<2 * p + 1, 4, 1>(high));
      });
    });
  }
  static HWY_INLINE Floats scale(const Panel& b, int group, int part) {
    return halves_as_floats(b.d, part) * bytes_as_floats(b.scales[group], part);
  }
  static HWY_INLINE Floats min(const Panel& b, int group, int part) {
    return -(halves_as_floats(b.dmin, part) * bytes_as_floats(b.mins[group], part));
  }
};

struct FormatQ6_K : FormatShape<256, 128, 16, false, 6, 32> {
  using Panel = PanelQ6_K;
  static constexpr BlockFormat kFormat = BlockFormat::kQ6_K;
  template <class Chunk, class Emit>
  static HWY_INLINE void codes(const Panel& b, Chunk h, int part, const Emit& emit) {
    unroll<8>([&](auto w) VERTEBRA_INLINE_LAMBDA {
      const auto& codes = b.chunks[h].codes[w];
      const Bytes high = load_codes(codes.qh[0], part), first = load_codes(codes.ql[0], part),
                  second = load_codes(codes.ql[1], part);
      constexpr int step = w % 4, at = w / 4;
      emit(Index<at>{}, Index<step>{}, move_bits<0, 0, 4>(first) | move_bits<0, 4, 2>(high));
      emit(Index<2 + at>{}, Index<step>{}, move_bits<0, 0, 4>(second) | move_bits<2, 4, 2>(high));
      emit(Index<4 + at>{}, Index<step>{}, move_bits<4, 0, 4>(first) | move_bits<4, 4, 2>(high));
      emit(Index<6 + at>{}, Index<step>{}, move_bits<4, 0, 4>(second) | move_bits<6, 4, 2>(high));
    });
  }
  static HWY_INLINE Floats scale(const Panel& b, int group, int part) {
    return halves_as_floats(b.d, part) * bytes_as_floats(b.chunks[group / 8].scales[group % 8], part);
  }
  static HWY_INLINE Floats min(const Panel&, int, int) { return Floats{}; }
};

struct FormatQ2_K : FormatShape<256, 128, 16, true, 2, 0> {
  using Panel = PanelQ2_K;
  static constexpr BlockFormat kFormat = BlockFormat::kQ2_K;
  template <class Chunk, class Emit>
  static HWY_INLINE void codes(const Panel& b, Chunk h, int part, const Emit& emit) {
    unroll<8>([&](auto w) VERTEBRA_INLINE_LAMBDA {
      const Bytes q = load_codes(b.qs[8 * h + w], part);
      unroll<4>([&](auto j) VERTEBRA_INLINE_LAMBDA {
        emit(Index<2 * j + w / 4>{}, Index<w % 4>{}, move_bits<2 * j, 0, 2>(q));
      });
    });
  }
  static HWY_INLINE Floats scale(const Panel& b, int group, int part) {
    uint8_t scales[kPanelRows];
    for (int c = 0; c < kPanelRows; ++c) scales[c] = b.scales[group][c] & 15;
    return halves_as_floats(b.d, part) * bytes_as_floats(scales, part);
  }
  static HWY_INLINE Floats min(const Panel& b, int group, int part) {
    uint8_t mins[kPanelRows];
    for (int c = 0; c < kPanelRows; ++c) mins[c] = static_cast<uint8_t>(b.scales[group][c] >> 4);
    return -(halves_as_floats(b.dmin, part) * bytes_as_floats(mins, part));
  }
};

struct FormatQ3_K : FormatShape<256, 256, 16, false, 3, 4> {
  using Panel = PanelQ3_K;
  static constexpr BlockFormat kFormat = BlockFormat::kQ3_K;
  template <class Chunk, class Emit>
  static HWY_INLINE void codes(const Panel& b, Chunk, int part, const Emit& emit) {
    unroll<8>([&](auto w) VERTEBRA_INLINE_LAMBDA {
      const Bytes high = load_codes(b.codes[w].hmask[0], part);
      unroll<2>([&](auto h) VERTEBRA_INLINE_LAMBDA {
        const Bytes q = load_codes(b.codes[w].qs[h], part);
        unroll<4>([&](auto j) VERTEBRA_INLINE_LAMBDA {
          emit(Index<8 * h + 2 * j + w / 4>{}, Index<w % 4>{},
               move_bits<2 * j, 0, 2>(q) | move_bits<4 * h + j, 2, 1>(high));
        });
      });
    });
  }
  static HWY_INLINE Floats scale(const Panel& b, int group, int part) {
    return halves_as_floats(b.d, part) * bytes_as_floats(b.scales[group], part);
  }
  static HWY_INLINE Floats min(const Panel&, int, int) { return Floats{}; }
};

}  // namespace
}  // namespace vertebra::VERTEBRA_ISA
