// The public vocabulary: functions that append ops to the graph of their operands. Each states
// shapes, dtypes and errors; what an op is (shape rule, gradient, decomposition, samples) lies in
// the file of its name in this folder; op_list.def lists all ops.
//
// Dimension letters, used everywhere:
//   B batch, T query length, S key length, N tokens (B*T, or the ragged rows of a serving step),
//   H query heads, K key/value heads (H is a multiple of K), D head dimension, E embedding,
//   F feed-forward, V vocabulary.
// A wrong operand throws invalid_argument naming the op, the operands' types and the scope.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "graph/graph.h"
#include "graph/op.h"

namespace vertebra {

// ---- The registry -----------------------------------------------------------------------------
std::span<const OpDef* const> all_ops();
const OpDef& find_op(std::string_view name);  // throws not_found naming the nearest known op

// ---- Constants --------------------------------------------------------------------------------
Value constant(Graph& graph, double value, DType dtype = DType::kF32);           // scalar
Value full(Graph& graph, Shape shape, double value, DType dtype = DType::kF32);  // broadcast scalar
Value iota(Graph& graph, Shape shape, int axis, DType dtype = DType::kI32);      // 0,1,2,... along axis

// ---- Elementwise (primitives). Operands of equal dtype; shapes are broadcast to each other as in
// NumPy by explicit broadcast nodes (bounded dimensions must carry the same symbol). ------------
Value add(Value a, Value b);
Value subtract(Value a, Value b);
Value multiply(Value a, Value b);
Value divide(Value a, Value b);  // integers: rounds towards zero, by zero gives -1 (as XLA)
Value maximum(Value a, Value b);
Value minimum(Value a, Value b);
Value power(Value a, Value b);
Value add(Value a, double b);  // and so on with a scalar of a's dtype
Value subtract(double a, Value b);
Value subtract(Value a, double b);
Value multiply(Value a, double b);
Value divide(Value a, double b);
Value divide(double a, Value b);
Value maximum(Value a, double b);
Value minimum(Value a, double b);
Value power(Value a, double b);
Value negate(Value a);
Value exponential(Value a);
Value logarithm(Value a);
Value square_root(Value a);
Value reciprocal_square_root(Value a);
Value tanh(Value a);
Value logistic(Value a);  // 1 / (1 + exp(-a))
Value erf(Value a);
Value absolute(Value a);
Value sine(Value a);
Value cosine(Value a);
Value floor(Value a);
Value logical_and(Value a, Value b);  // bool
Value logical_or(Value a, Value b);
Value logical_not(Value a);
enum class Comparison { kEqual, kNotEqual, kLess, kLessEqual, kGreater, kGreaterEqual };
Value compare(Value a, Value b, Comparison comparison);  // -> bool
Value select(Value condition, Value a, Value b);         // condition ? a : b, elementwise
Value convert(Value a, DType dtype);  // float -> integer truncates; the value itself if equal
Value stop_gradient(Value a);

// ---- Layout (primitives) ----------------------------------------------------------------------
Value reshape(Value a,
              Shape shape);  // equal number of elements; a bounded dimension stays a dimension of its own
Value transpose(Value a, std::vector<int64_t> permutation);
Value broadcast_in_dim(Value a, Shape shape,
                       std::vector<int64_t> dims);  // axis i of a becomes axis dims[i]; size 1 stretches
Value slice(Value a, std::vector<int64_t> starts, std::vector<int64_t> limits);  // unit strides
Value slice_axis(Value a, int axis, int64_t start, int64_t limit);
Value concatenate(std::span<const Value> parts, int axis);
Value pad(Value a, std::vector<int64_t> low, std::vector<int64_t> high, double value);

// ---- Placement (composite) ----------------------------------------------------------------------
// The value itself, which on a mesh of devices is to be cut as the sharding says, and whole along all other
// axes; its gradient too. Pins what a partitioner would have to guess.
Value with_sharding(Value a, const Sharding& sharding);
Sharding sharding_of(const Node& node);  // of a with_sharding node

// ---- Reductions (primitives; axes removed, negative ones count from the end). bf16 accumulates in f32 and
// rounds once; integers wrap ---------------------------------------------------------------------
Value reduce_sum(Value a, std::vector<int64_t> axes);
Value reduce_max(Value a, std::vector<int64_t> axes);
Value mean(Value a, std::vector<int64_t> axes);
Value argmax(Value a, int axis);  // -> i32, lowest index among equals

// ---- Indexing (primitives) --------------------------------------------------------------------
// table [V, ...], indices i32 [...] -> [indices..., ...]; an index outside [0, V) is clamped.
Value gather_rows(Value table, Value indices);
// [V, ...] zeros plus updates [indices..., ...] added at rows `indices`, in index order; indices outside are
// dropped.
Value scatter_add_rows(Value indices, Value updates, Dim rows);
// Composite: table [V, ...] with rows [N, ...] written at indices i32 [N]; those outside [0, V) are dropped,
// every other one may come once.
Value write_rows(Value table, Value indices, Value rows);
// a with the block `update` written at the (i32 scalar) start indices, one per dimension; clamped to fit.
Value dynamic_update_slice(Value a, Value update, std::span<const Value> starts);

// ---- Random (primitive): bits u32 of Philox4x32-10 at (seed, stream, element index / 4) ---------
Value random_bits(Graph& graph, Value seed_and_stream /* u32[4] */, Shape shape);
Value random_uniform(Graph& graph, Value seed_and_stream, Shape shape);  // composite: f32 in [0, 1)

// ---- Matrix products ---------------------------------------------------------------------------
// General product (primitive): batch and contracting dimensions as in StableHLO's dot_general; result
// dims: batch, free of a, free of b. Accumulates in f32. `compute` kBF16: floating-point operands are
// rounded to bf16 first (a backend may do that while packing); the result has dtype `result`.
struct DotDims {
  std::vector<int64_t> lhs_batch, rhs_batch, lhs_contract, rhs_contract;
};
Value dot_general(Value a, Value b, const DotDims& dims, DType result = DType::kF32,
                  DType compute = DType::kF32);
// a [..., M, K] . b [..., K, N] with equal leading dims.
Value matmul(Value a, Value b, DType compute = DType::kF32);
// Block-quantized x [..., E] (tensor/block_quant.h) -> its values, f32 [..., E] (primitive).
Value dequantize(Value x);
// x [..., E] . w[F, E]^T (+ bias [F]) -> [..., F]: the layout of every Hugging Face linear layer. Composite
// (transposes + dot_general); result has x's dtype. w may be
// block-quantized: it then gets no gradient, and a backend may round x to 8-bit integers, a scale to each 32
// (the types of 32 elements) or 256, as llama.cpp does. Optional fused parts are chosen by the backend's
// passes.
Value linear(Value x, Value w, Value bias = {}, DType compute = DType::kF32);

// A linear layer per expert, of which each row uses those chosen for it: x [N, E] (all choices of a row
// multiply it) or [N, A, E] (each its own), weight [X, F, E], experts i32 [N, A] in [0, X) (others give
// zeros), bias [X, F] -> [N, A, F]. Kernels compute chosen experts only. The weight may be block-quantized,
// as linear's.
Value expert_linear(Value x, Value weight, Value experts, Value bias = {}, DType compute = DType::kF32);
// The k largest along the last axis, largest first, the lower index among equals; values above -1e30.
struct TopK {
  Value values, indices;  // [..., k], indices i32
};
TopK top_k(Value a, int64_t k);

// ---- Composites: normalisation, activation, position -------------------------------------------
Value silu(Value a);
Value gelu(Value a, bool tanh_approximation);
Value softmax(Value a);  // over the last axis, stable
// x [..., E], weight [E]: x / sqrt(mean(x^2) + epsilon) * weight (Zhang & Sennrich 2019). f32 inside.
Value rms_norm(Value x, Value weight, double epsilon);
// (x - mean) / sqrt(var + epsilon) * weight + bias (Ba et al. 2016); f32 inside.
Value layer_norm(Value x, Value weight, Value bias, double epsilon);
// x [N, H, D], positions i32 [N], half-split rotation as in Hugging Face Llama:
// (x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin), angle = position * inverse_frequency[i], i < D/2.
// inverse_frequencies f32 [D/2] is computed by the model file (RoPE scaling included).
Value rope(Value x, Value positions, Value inverse_frequencies);
// silu(x . gate^T) * (x . up^T) . down^T with gate, up [F, E], down [E, F] (SwiGLU, Shazeer 2020).
Value gated_mlp(Value x, Value gate, Value up, Value down, DType compute = DType::kF32);
// table [V, E], block-quantized too (then f32 comes out and it gets no gradient), tokens i32 [...] -> [...,
// E]; gradient is a scatter_add_rows. Tokens outside are clamped.
Value embedding(Value table, Value tokens);

// ---- Composites: attention ----------------------------------------------------------------------
struct AttentionOptions {
  double scale = 0;    // 0: 1/sqrt(D)
  int64_t window = 0;  // >0: a query sees only keys at distance < window
  Value sinks = {};    // f32 [H], if any: one more score of each row of a head, whose weight goes to no value
};
// Causal attention of training: q [B, T, H, D], k and v [B, T, K, D], segments i32 [B, T] (a query sees keys
// of its own segment, at or before its own index; a row of segment < 0 gives zeros) -> [B, T, H, D]. Never
// materialises T x T; online softmax in f32 (Milakov & Gimelshein 2018; Dao et al. 2022).
Value attention(Value q, Value k, Value v, Value segments, const AttentionOptions& options = {});
// The same over a paged cache, for a ragged serving step: q [N, H, D], k_new and v_new [N, K, D], page_table
// i32 [R, pages per request], request i32 [N] (row of page_table; < 0: padding row, gives zeros and writes
// nothing), positions i32 [N] (index of the token in its request). Writes k_new and v_new into the cache,
// rounded to its type, then every query attends to positions 0..its own of its request. Rows of one request
// are in increasing position and contiguous. Bit for bit what `attention` gives on the whole sequence of such
// keys and values. The result's cache is meant to take the operand's place.
struct PagedCache {
  Value keys, values;  // [P pages, page_size, K, D]: a floating-point type, or i8 codes
  // Of codes: f32 [P, page_size, K, D / kCacheBlock], what those of a block are multiplied by (the largest
  // value is 127 of it, as in Q8_0).
  Value key_scales = {}, value_scales = {};
};
inline constexpr int64_t kCacheBlock = 32;
struct PagedAttentionResult {
  Value out;  // [N, H, D]
  PagedCache cache;
};
PagedAttentionResult paged_attention(Value q, Value k_new, Value v_new, const PagedCache& cache,
                                     Value page_table, Value request, Value positions,
                                     const AttentionOptions& options = {});

// ---- Composites: memory of earlier tokens that is no attention -----------------------------------
// Both run over ragged rows: request i32 [N] names each row's request (a row of the state; < 0: padding,
// gives zeros) and positions i32 [N] its place in it. Rows of one request are contiguous and in increasing
// position. A request's rows begin from its state, or from nothing where their first position is 0 (or where
// one is 0 inside them); the state of other requests stays. So training runs them over whole sequences,
// serving over pieces of them.
struct Recurrence {
  Value out, state;
};
// Causal convolution of each channel by itself: x [N, C], weight [C, W], state [R, W - 1, C] (the inputs that
// came last, in order) -> out [N, C], out[n, c] = sum over j of weight[c, j] x[n - W + 1 + j, c].
Recurrence short_convolution(Value x, Value weight, Value state, Value request, Value positions);
// The gated delta rule (Yang et al. 2024): per head S = exp(decay) S, then S += k (beta (v - S^T k))^T, out =
// S^T q. q and k [N, H, D], v [N, H, M], decay (<= 0) and beta [N, H], state f32 [R, H, D, M] -> out [N, H,
// M].
Recurrence gated_delta_rule(Value q, Value k, Value v, Value decay, Value beta, Value state, Value request,
                            Value positions);

// ---- Composites: loss ---------------------------------------------------------------------------
// Output head fused with cross-entropy, in chunks: never the logits of a whole batch. hidden [N, E],
// head [V, E], labels i32 [N] (outside [0, V): no loss there, and no work) -> per-token loss f32 [N] (0 where
// no loss). The gradient op recomputes logits per chunk; when both appear in one graph the `fuse` pass merges
// them into one node that computes loss and gradients in one sweep.
Value linear_cross_entropy(Value hidden, Value head, Value labels, DType compute = DType::kF32);

// ---- Composites: optimizer -----------------------------------------------------------------------
// Decoupled AdamW (Loshchilov & Hutter 2019) on one parameter, all f32, any shape; learning_rate and step are
// f32 scalars (step counts from 1; bias correction inside). The gradient counts times gradient_scale, an f32
// scalar: clipping without a pass over the gradients. Scale 0 drops it, whatever it holds. Returns
// {parameter, m, v}.
struct AdamWOptions {
  double beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8, weight_decay = 0.1;
};
std::vector<Value> adamw_update(Value parameter, Value gradient, Value m, Value v, Value learning_rate,
                                Value step, Value gradient_scale, const AdamWOptions& options);
// Muon (Jordan 2024): Nesterov momentum, then Newton-Schulz iteration (5 steps, coefficients 3.4445, -4.7750,
// 2.0315) on the matrix [A, B], scaled by sqrt(max(1, A/B)), decoupled decay. Returns {parameter, momentum}.
struct MuonOptions {
  double momentum = 0.95, weight_decay = 0;
  int iterations = 5;
  DType compute = DType::kF32;
};
std::vector<Value> muon_update(Value parameter, Value gradient, Value momentum, Value learning_rate,
                               const MuonOptions& options);
// Square root of the sum of squares over all gradients: f32 scalar, fixed order.
Value global_norm(std::span<const Value> values);

}  // namespace vertebra
