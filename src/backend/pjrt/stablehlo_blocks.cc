// Block-quantized weights in StableHLO: bytes on the device (device_type), turned into f32 in the graph by
// integer operations on all blocks at once. The layouts are tensor/block_quant.h's, whose dequantize is the
// reference.
#include <array>

#include "backend/pjrt/stablehlo_ops.h"
#include "base/error.h"
#include "tensor/block_quant.h"

namespace vertebra::pjrt {
namespace {

using Ints = std::vector<int64_t>;

// N blocks as i32 [N, bytes of a block]; the fields of a block are its columns.
class Blocks {
 public:
  Blocks(HloEmitter& emit, const HloValue& bytes, int64_t n, DType dtype)
      : emit_(emit),
        n_(n),
        size_(static_cast<int64_t>(block_size(dtype).bytes)),
        raw_(emit.reshape(bytes, Shape{n, size_})),
        bytes_(emit.convert(raw_, DType::kI32)) {}

  // Values [N, elements of a block] of the type.
  HloValue values(DType dtype) {
    switch (dtype) {
      case DType::kQ8_0:
        return scaled(signed_bytes(2, 32), half(0));
      case DType::kQ4_0:
        return scaled(less(nibbles(2), 8), half(0));
      case DType::kQ4_1:
        return shifted_by(scaled(to_float(nibbles(4)), half(0)), half(2));
      case DType::kQ5_0:
        return scaled(less(five_bits(6, 2), 16), half(0));
      case DType::kQ5_1:
        return shifted_by(scaled(to_float(five_bits(8, 4)), half(0)), half(2));
      case DType::kQ2_K:
        return q2_k();
      case DType::kQ3_K:
        return q3_k();
      case DType::kQ4_K:
        return with_mins(codes(16, {4, 32}, 4));
      case DType::kQ5_K: {
        const HloValue high = planes(16, 8);
        return with_mins(joined(codes(48, {4, 32}, 4), high, 16));
      }
      case DType::kQ6_K:
        return q6_k();
      case DType::kIQ4_NL:
        return scaled(looked_up(nibbles(2), kIQ4Values), half(0));
      case DType::kMXFP4:
        return scaled(looked_up(nibbles(1), kE2M1Twice), power_of_two(columns(0, 1)));
      default:
        fail(Code::kInternal, "{} is no block-quantized type", dtype_name(dtype));
    }
  }

 private:
  HloValue columns(int64_t first, int64_t count) {
    return emit_.slice(bytes_, Ints{0, first}, Ints{n_, first + count});
  }
  HloValue bitcast(const HloValue& a, const TensorType& type) {
    return emit_.emit("stablehlo.bitcast_convert", {a}, type);
  }
  // f16 at two columns, as f32 [N].
  HloValue half(int64_t first) {
    const HloValue two = emit_.slice(raw_, Ints{0, first}, Ints{n_, first + 2});
    return to_float(bitcast(two, {DType::kF16, Shape{n_}}));
  }
  // Bytes of two's complement, as f32: not every chip has i8.
  HloValue signed_bytes(int64_t first, int64_t count) {
    return less(with("stablehlo.xor", columns(first, count), 128), 128);
  }
  HloValue to_float(const HloValue& a) { return emit_.convert(a, DType::kF32); }

  HloValue with(std::string_view operation, const HloValue& a, double constant) {
    return emit_.binary(operation, a, emit_.splat(a.type, constant));
  }
  HloValue masked(const HloValue& a, int mask) { return with("stablehlo.and", a, mask); }
  HloValue down(const HloValue& a, int bits) { return with("stablehlo.shift_right_logical", a, bits); }
  HloValue up(const HloValue& a, int bits) { return with("stablehlo.multiply", a, 1 << bits); }
  HloValue less(const HloValue& codes, double zero) {
    return to_float(with("stablehlo.subtract", codes, zero));
  }
  // low | high * factor
  HloValue joined(const HloValue& low, const HloValue& high, double factor) {
    return emit_.binary("stablehlo.add", low, with("stablehlo.multiply", high, factor));
  }
  HloValue flat(const HloValue& a) { return emit_.reshape(a, Shape{n_, a.type.shape.elements() / n_}); }
  HloValue side_by_side(const HloValue& a, const HloValue& b) {
    const HloValue parts[] = {a, b};
    return emit_.concatenate(parts, 1, {a.type.dtype, Shape{n_, a.type.shape[1] + b.type.shape[1]}});
  }

  // `packed` with 8 / bits codes in each byte: repeated along the new axis `axis`, the i-th of which takes
  // the code i places from the low end; [N, all codes].
  HloValue unpacked(const HloValue& packed, int axis, int bits, int64_t codes_per_byte) {
    Shape shape;
    Ints dims;
    for (int i = 0; i < packed.type.shape.rank(); ++i) {
      if (i == axis) shape.push_back(codes_per_byte);
      dims.push_back(shape.rank());
      shape.push_back(packed.type.shape[i]);
    }
    if (axis == packed.type.shape.rank()) shape.push_back(codes_per_byte);
    const HloValue spread = emit_.broadcast(packed, shape, dims);
    const HloValue places = with("stablehlo.multiply", emit_.iota(spread.type, axis), bits);
    return flat(masked(emit_.binary("stablehlo.shift_right_logical", spread, places), (1 << bits) - 1));
  }
  // Of bytes from column `first` on, which lie as [groups, width]: all codes of a group's low bits come
  // first.
  HloValue codes(int64_t first, const std::array<int64_t, 2>& group_and_width, int bits) {
    const auto [groups, width] = group_and_width;
    return unpacked(emit_.reshape(columns(first, groups * width), Shape{n_, groups, width}), 2, bits,
                    8 / bits);
  }
  HloValue nibbles(int64_t first) { return codes(first, {1, 16}, 4); }
  // 32 bytes, whose bit i is of the elements 32 i to 32 i + 31; the first `count` bits.
  HloValue planes(int64_t first, int64_t count) { return unpacked(columns(first, 32), 1, 1, count); }
  HloValue five_bits(int64_t low, int64_t high) {
    return joined(nibbles(low), unpacked(columns(high, 4), 2, 1, 8), 16);
  }

  // [N] or [N, sub-blocks] to [N, elements], each repeated.
  HloValue spread(const HloValue& each, const Shape& elements) {
    if (each.type.shape.rank() == 1) return emit_.broadcast(each, elements, Ints{0});
    const int64_t subs = each.type.shape[1];
    return emit_.reshape(emit_.broadcast(each, Shape{n_, subs, elements[1] / subs}, Ints{0, 1}), elements);
  }
  HloValue scaled(const HloValue& values, const HloValue& scale) {
    return emit_.binary("stablehlo.multiply", spread(scale, values.type.shape), values);
  }
  HloValue shifted_by(const HloValue& values, const HloValue& offset) {
    return emit_.binary("stablehlo.add", values, spread(offset, values.type.shape));
  }
  HloValue lowered_by(const HloValue& values, const HloValue& offset) {
    return emit_.binary("stablehlo.subtract", values, spread(offset, values.type.shape));
  }

  HloValue q2_k() {
    const HloValue scales = columns(0, 16), q = to_float(codes(16, {2, 32}, 2));
    const HloValue values = scaled(q, scaled(to_float(masked(scales, 15)), half(80)));
    return lowered_by(values, scaled(to_float(down(scales, 4)), half(82)));
  }

  HloValue q3_k() {
    const HloValue q = joined(codes(32, {2, 32}, 2), planes(0, 8), 4);
    const HloValue scale = joined(codes(96, {1, 8}, 4), codes(104, {1, 4}, 2), 16);
    return scaled(less(q, 4), scaled(less(scale, 32), half(108)));
  }

  // Q4_K and Q5_K: 6-bit scales and mins, of the last four sub-blocks in pieces.
  HloValue with_mins(const HloValue& q) {
    const HloValue a = columns(4, 4), b = columns(8, 4), c = columns(12, 4);
    const HloValue scale = side_by_side(masked(a, 63), joined(masked(c, 15), down(a, 6), 16));
    const HloValue min = side_by_side(masked(b, 63), joined(down(c, 4), down(b, 6), 16));
    const HloValue values = scaled(to_float(q), scaled(to_float(scale), half(0)));
    return lowered_by(values, scaled(to_float(min), half(2)));
  }

  HloValue q6_k() {
    const HloValue low = codes(0, {2, 64}, 4), high = codes(128, {2, 32}, 2);
    return scaled(less(joined(low, high, 16), 32), scaled(signed_bytes(192, 16), half(208)));
  }

  // table[code], by the code's bits: a choice works on every chip, a gather of single elements is slow on
  // some.
  HloValue looked_up(const HloValue& codes, const int8_t (&table)[16]) {
    const TensorType type = {DType::kF32, codes.type.shape};
    std::vector<HloValue> left;
    for (const int8_t value : table) left.push_back(emit_.splat(type, value));
    for (int bit = 0; left.size() > 1; ++bit) {
      const HloValue set = emit_.compare(masked(codes, 1 << bit), emit_.splat(codes.type, 0), "NE");
      for (size_t i = 0; 2 * i < left.size(); ++i) left[i] = emit_.select(set, left[2 * i + 1], left[2 * i]);
      left.resize(left.size() / 2);
    }
    return left[0];
  }

  // 2^(e - 128) of e [N, 1], as f32 [N]: below 2^-126 there is no exponent left.
  HloValue power_of_two(const HloValue& e) {
    const HloValue small = with("stablehlo.multiply", with("stablehlo.add", e, 1), 1 << 21);
    const HloValue normal = with("stablehlo.multiply", with("stablehlo.subtract", e, 1), 1 << 23);
    const HloValue bits = emit_.select(emit_.compare(e, emit_.splat(e.type, 2), "LT"), small, normal);
    return emit_.reshape(bitcast(bits, {DType::kF32, bits.type.shape}), Shape{n_});
  }

  HloEmitter& emit_;
  int64_t n_, size_;
  HloValue raw_, bytes_;
};

// `bytes` is device_type of blocks of `shape`.
HloValue values_of_blocks(HloEmitter& emit, const HloValue& bytes, DType dtype, const Shape& shape) {
  if (shape.elements() == 0) return emit.splat({DType::kF32, shape}, 0);
  const int64_t n = shape.elements() / block_size(dtype).elements;
  return emit.reshape(Blocks(emit, bytes, n, dtype).values(dtype), shape);
}

HloValue dequantize(const HloCall& call) {
  return values_of_blocks(call.emit, call.operand(0), call.node.operands[0].dtype(), call.result().shape);
}

// The rows' bytes are fetched, and only these are turned into floats.
HloValue embedding(const HloCall& call) {
  return values_of_blocks(call.emit, rows_at(call.emit, call.operand(0), call.operand(1)),
                          call.node.operands[0].dtype(), call.result().shape);
}

}  // namespace

HloTranslation find_block_translation(std::string_view op) {
  if (op == "dequantize") return dequantize;
  if (op == "embedding") return embedding;
  return nullptr;
}

}  // namespace vertebra::pjrt
