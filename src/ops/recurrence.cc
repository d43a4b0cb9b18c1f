// Memory of earlier tokens that is no attention: short_convolution and gated_delta_rule, over ragged rows of
// many requests. The decompositions hold [N, N] matrices or gather rows by index, and are the oracle; kernels
// walk the rows.
#include "ops/ops.h"
#include "ops/registry.h"
#include "ops/shape_rules.h"

namespace vertebra {
namespace {

using Values = std::vector<Value>;

// Operands request [N] and positions [N] at i and i + 1, for rows of that number.
void check_rows(const InferInput& in, size_t i, Dim rows) {
  check_type(in, i, {DType::kI32, Shape{rows}}, "request [N]");
  check_type(in, i + 1, {DType::kI32, Shape{rows}}, "positions [N]");
}

// The row `offset` after each one, by gathering; rows before the first give the first.
Value earlier_row(Value rows, int64_t back) {
  const Value index = iota(rows.graph(), Shape{rows.shape().dim(0)}, 0);
  return gather_rows(rows, maximum(subtract(index, static_cast<double>(back)), 0.0));
}

// The request of each request's last row, -1 for other rows: i32 [N].
Value request_of_last_rows(Value request) {
  Graph& graph = request.graph();
  const Value index = iota(graph, request.shape(), 0);
  const Value numbered = add(request, 1.0);
  // The number of the row after each one, 0 behind the last.
  const Value next = scatter_add_rows(subtract(index, 1.0), numbered, request.shape().dim(0));
  const Value last = compare(next, numbered, Comparison::kNotEqual);
  return select(last, request, full(graph, request.shape(), -1, DType::kI32));
}

// ---- short_convolution ---------------------------------------------------------------------------

std::vector<TensorType> infer_convolution(const InferInput& in) {
  in.check_operand_count(5);
  check_float(in, 0, "x");
  check_rank(in, 0, 2, "x [N, C]");
  check_dtype(in, 1, in.operands[0].dtype, "the weight");
  check_rank(in, 1, 2, "the weight [C, W]");
  check_float(in, 2, "the state");
  check_rank(in, 2, 3, "the state [R, W - 1, C]");
  const Shape &x = in.operands[0].shape, &w = in.operands[1].shape, &state = in.operands[2].shape;
  in.check(w.is_static() && w[1] >= 2 && w.dim(0) == x.dim(1),
           "a weight [C, W] of shape {} does not fit x [N, C] {}", w.to_string(), x.to_string());
  in.check(state.is_static() && state[0] > 0 && state[1] == w[1] - 1 && state[2] == w[0],
           "the state {} is not [R, {}, {}]", state.to_string(), w[1] - 1, w[0]);
  check_rows(in, 3, x.dim(0));
  return {in.operands[0], in.operands[2]};
}

// One of the inputs of every row's sum.
struct Tap {
  Value input;    // [N, C]: what stands `back` rows earlier in the request
  Value in_step;  // bool [N]: it is a row of this step
};

// The inputs 0 .. W - 1 rows back, f32; zeros before a request's start.
std::vector<Tap> taps(std::span<const Value> operands) {
  const DType inner = inner_dtype(operands[0].dtype());
  const Value x = convert(operands[0], inner), request = operands[3], positions = operands[4];
  const int64_t R = operands[2].shape()[0], W = operands[1].shape()[1], C = operands[1].shape()[0];
  const Value held = reshape(convert(operands[2], inner), {R * (W - 1), C});
  const Value index = iota(x.graph(), request.shape(), 0);
  const Value real = compare_with(request, 0, "ge");
  std::vector<Tap> out = {{select(broadcast_leading(real, x.shape()), x, zeros_like(x)), real}};
  Value rows_before = zeros_like(request);  // of the same request, up to W - 1
  for (int64_t back = 1; back < W; ++back) {
    const Value same = compare(earlier_row(request, back), request, Comparison::kEqual);
    const Value exists = compare_with(index, static_cast<double>(back), "ge");
    const Value in_run = logical_and(logical_and(same, exists), real);
    rows_before = add(rows_before, convert(in_run, DType::kI32));
    const Value started = logical_and(compare_with(positions, static_cast<double>(back), "ge"), real);
    // Place W - 1 - (back - rows before) of the state; clamped, and not read, where the row is in the step.
    const Value place = add(rows_before, static_cast<double>(W - 1 - back));
    const Value flat = add(multiply(maximum(request, 0.0), static_cast<double>(W - 1)),
                           minimum(place, static_cast<double>(W - 2)));
    const Shape& shape = x.shape();
    const Value found =
        select(broadcast_leading(in_run, shape), earlier_row(x, back), gather_rows(held, flat));
    out.push_back(
        {select(broadcast_leading(started, shape), found, zeros_like(x)), logical_and(in_run, started)});
  }
  return out;
}

// The weight of the input `back` rows earlier, for every row: [N, C].
Value weight_of(Value weight, int64_t back, const Shape& rows) {
  const int64_t C = weight.shape()[0], W = weight.shape()[1];
  const Value column =
      convert(reshape(slice_axis(weight, 1, W - 1 - back, W - back), {C}), inner_dtype(weight.dtype()));
  return broadcast_to(column, rows);
}

Values decompose_convolution(Graph&, const Node& node, std::span<const Value> operands) {
  const std::vector<Tap> inputs = taps(operands);
  const Value weight = operands[1];
  const Shape& rows = operands[0].shape();
  const int64_t W = weight.shape()[1], C = weight.shape()[0];
  Value y;
  for (int64_t back = W - 1; back >= 0; --back) {
    const Value part = multiply(weight_of(weight, back, rows), inputs[static_cast<size_t>(back)].input);
    y = y.defined() ? add(y, part) : part;
  }
  Values held;
  for (int64_t back = W - 2; back >= 0; --back)
    held.push_back(reshape(inputs[static_cast<size_t>(back)].input, {rows.dim(0), 1, C}));
  const Value last = convert(held.size() == 1 ? held[0] : concatenate(held, 1), node.results[1].dtype);
  return {convert(y, operands[0].dtype()), write_rows(operands[2], request_of_last_rows(operands[3]), last)};
}

// y[n] = sum over back of w[back] x[n - back]
Values convolution_vjp(const VjpInput& in) {
  require(!in.gradients[1].defined(), Code::kUnimplemented,
          "short_convolution: there is no gradient through the state that it leaves");
  const Values operands = {in.operand(0), in.operand(1), in.operand(2), in.operand(3), in.operand(4)};
  const std::vector<Tap> inputs = taps(operands);
  const Value x = in.operand(0), weight = in.operand(1);
  const Value dy = convert(in.gradients[0], inner_dtype(x.dtype()));
  const int64_t W = weight.shape()[1], C = weight.shape()[0];
  const Value index = iota(in.graph, in.operand(3).shape(), 0);
  const Value nowhere = full(in.graph, index.shape(), -1, DType::kI32);
  Value dx;
  Values columns;
  for (int64_t back = W - 1; back >= 0; --back) {
    const Tap& tap = inputs[static_cast<size_t>(back)];
    const Value from = select(tap.in_step, subtract(index, static_cast<double>(back)), nowhere);
    const Value part =
        scatter_add_rows(from, multiply(dy, weight_of(weight, back, dy.shape())), dy.shape().dim(0));
    dx = dx.defined() ? add(dx, part) : part;
    columns.push_back(reshape(reduce_sum(multiply(dy, tap.input), {0}), {C, 1}));
  }
  return {convert(dx, x.dtype()), convert(concatenate(columns, 1), weight.dtype()), Value{}, Value{},
          Value{}};
}

// Requests that begin, continue, restart inside their rows, and padding.
struct RowCase {
  const char* name;
  std::vector<double> request, positions;
};
std::vector<RowCase> row_cases() {
  return {{"requests of all kinds", {2, 2, 2, 2, 0, 3, 3, -1, 1, 1}, {0, 1, 2, 3, 5, 0, 1, 0, 7, 8}},
          {"documents in a row", {0, 0, 0, 0, 0, 0, 0}, {3, 4, 0, 1, 0, 1, 2}},
          {"one row", {1}, {9}},
          {"padding alone", {-1, -1}, {0, 0}}};
}

std::vector<OpSample> convolution_samples() {
  std::vector<OpSample> out;
  for (const RowCase& c : row_cases()) {
    const auto n = static_cast<int64_t>(c.request.size());
    for (const int64_t width : {4, 2}) {
      out.push_back({fmt::format("{}, {} wide", c.name, width),
                     {normal({n, 7}), normal({7, width}), fixed(normal({4, width - 1, 7})),
                      values({n}, c.request, DType::kI32), values({n}, c.positions, DType::kI32)},
                     {}});
      out.back().gradient_results = {0};
    }
  }
  return out;
}

// ---- gated_delta_rule ----------------------------------------------------------------------------

std::vector<TensorType> infer_delta(const InferInput& in) {
  in.check_operand_count(8);
  check_float(in, 0, "q");
  check_rank(in, 0, 3, "q [N, H, D]");
  check_type(in, 1, in.operands[0], "k");
  check_dtype(in, 2, in.operands[0].dtype, "v");
  check_rank(in, 2, 3, "v [N, H, M]");
  const Shape &q = in.operands[0].shape, &v = in.operands[2].shape, &state = in.operands[5].shape;
  in.check(q.dim(0) == v.dim(0) && q.dim(1) == v.dim(1), "q [N, H, D] {} and v [N, H, M] {} differ in N or H",
           q.to_string(), v.to_string());
  const TensorType gates = {in.operands[0].dtype, Shape{q.dim(0), q.dim(1)}};
  check_type(in, 3, gates, "decay [N, H]");
  check_type(in, 4, gates, "beta [N, H]");
  check_float(in, 5, "the state");
  check_rank(in, 5, 4, "the state [R, H, D, M]");
  in.check(state.is_static() && state[0] > 0 && state.dim(1) == q.dim(1) && state.dim(2) == q.dim(2) &&
               state.dim(3) == v.dim(2),
           "the state {} is not [R, H, D, M] for q {} and v {}", state.to_string(), q.to_string(),
           v.to_string());
  in.check(q[0] >= 1, "there are no rows");
  check_rows(in, 6, q.dim(0));
  return {{in.operands[0].dtype, v}, in.operands[5]};
}

// a [N, ...] in the first rows of a static number of them, zeros behind.
Value padded_rows(Value a, int64_t rows) {
  const Value index = iota(a.graph(), Shape{a.shape().dim(0)}, 0);
  return scatter_add_rows(index, a, rows);
}

// The triangular inverse (I + a)^-1 for a [H, P, P] strictly lower triangular, P a power of two: that of
// blocks of size 1 is 1; two blocks of size b make one of 2 b, [[T, 0], [-U c T, U]] with c what lies below
// them.
Value inverse_of_unit_triangle(Value a) {
  Graph& graph = a.graph();
  const Shape& shape = a.shape();
  const Value row = iota(graph, shape, 1), column = iota(graph, shape, 2);
  const Value zero = zeros_like(a);
  Value inverse = convert(compare(row, column, Comparison::kEqual), a.dtype());
  const DotDims product = {{0}, {0}, {2}, {1}};
  for (int64_t size = 1; size < shape[1]; size *= 2) {
    const auto block = [&](Value place, int64_t of) { return divide(place, static_cast<double>(of)); };
    const Value pair = compare(block(row, 2 * size), block(column, 2 * size), Comparison::kEqual);
    const Value below = compare(block(row, size), block(column, size), Comparison::kGreater);
    const Value between = select(logical_and(pair, below), a, zero);
    const Value right = dot_general(between, inverse, product, a.dtype());
    inverse = subtract(inverse, dot_general(inverse, right, product, a.dtype()));
  }
  return inverse;
}

// With u[t] = beta[t] (v[t] - exp(decay[t]) S[t - 1]^T k[t]), a run of rows from the state S has
//   (I + A) u = beta (v - exp(g) S^T k), A[t, j] = beta[t] exp(g[t] - g[j]) k[t].k[j] for j < t, g the sum of
//   decays, out[t] = exp(g[t]) S^T q[t] + sum over j <= t of exp(g[t] - g[j]) (q[t].k[j]) u[j]   (Yang et al.
//   2024).
// All rows of the step are one triangle, in which rows of different runs do not see each other.
Values decompose_delta(Graph& graph, const Node& node, std::span<const Value> operands) {
  const DType inner = inner_dtype(operands[0].dtype());
  const Dim N = operands[0].shape().dim(0);
  const int64_t R = operands[5].shape()[0], H = operands[5].shape()[1], D = operands[5].shape()[2],
                M = operands[5].shape()[3];
  int64_t P = 1;
  while (P < N.size) P *= 2;
  const auto rows = [&](size_t i) { return padded_rows(convert(operands[i], inner), P); };
  const Value q = rows(0), k = rows(1), v = rows(2), decay = rows(3), beta = transpose(rows(4), {1, 0});
  const Value request = subtract(padded_rows(add(operands[6], 1.0), P), 1.0);  // [P], -1 behind the rows
  const Value position = subtract(padded_rows(add(operands[7], 1.0), P), 1.0);
  const Shape square = {P, P};

  // Which rows belong together: the same request, and as many starts before them.
  const Value later = broadcast_in_dim(request, square, {0}),
              earlier = broadcast_in_dim(request, square, {1});
  const Value real = compare_with(later, 0, "ge");
  const Value order = compare(iota(graph, square, 1), iota(graph, square, 0), Comparison::kLessEqual);
  const Value of_request = logical_and(logical_and(compare(later, earlier, Comparison::kEqual), real), order);
  const Value start = convert(compare_with(position, 0, "eq"), inner);
  const Value starts = dot_general(convert(of_request, inner), start, {{}, {}, {1}, {0}}, inner);  // [P]
  const Value same_start = compare(broadcast_in_dim(starts, square, {0}),
                                   broadcast_in_dim(starts, square, {1}), Comparison::kEqual);
  const Value seen = logical_and(of_request, same_start);  // bool [P, P], the row itself included
  const Value g =
      transpose(dot_general(convert(seen, inner), decay, {{}, {}, {1}, {0}}, inner), {1, 0});  // [H, P]

  const Shape cube = {H, P, P};
  const Value seen_by_head = broadcast_in_dim(seen, cube, {1, 2});
  const Value difference =
      subtract(broadcast_in_dim(g, cube, {0, 1}), broadcast_in_dim(g, cube, {0, 2}));  // g[t] - g[j]
  const Value fade = select(seen_by_head, exponential(minimum(difference, 0.0)), full(graph, cube, 0, inner));
  const Value strictly = compare(iota(graph, cube, 2), iota(graph, cube, 1), Comparison::kLess);
  const DotDims by_head = {{1}, {1}, {2}, {2}};
  const Value beta_rows = broadcast_in_dim(beta, cube, {0, 1});
  const Value overlap = multiply(multiply(dot_general(k, k, by_head, inner), fade), beta_rows);
  const Value inverse = inverse_of_unit_triangle(select(strictly, overlap, zeros_like(overlap)));

  // What rows read from the state before the step: those of a request that has not started anew.
  const Shape choice = {P, R};
  const Value own =
      compare(broadcast_in_dim(request, choice, {0}), iota(graph, choice, 1), Comparison::kEqual);
  const Value continues = broadcast_in_dim(compare_with(starts, 0, "eq"), choice, {0});
  const Value reads = convert(logical_and(own, continues), inner);  // [P, R]
  const Value used = compare_with(reduce_sum(reads, {0}), 0, "gt");
  const Value before = convert(operands[5], inner);
  const Value state = select(broadcast_leading(used, before.shape()), before, zeros_like(before));
  const auto from_state = [&](Value x) {                                   // exp(g) S^T x: [H, P, M]
    const Value all = dot_general(x, state, {{1}, {1}, {2}, {2}}, inner);  // [H, P, R, M]
    const Value mine = reduce_sum(multiply(all, broadcast_in_dim(reads, all.shape(), {1, 2})), {2});
    return multiply(mine, broadcast_in_dim(exponential(g), mine.shape(), {0, 1}));
  };
  const DotDims product = {{0}, {0}, {2}, {1}};
  const Shape by_row = {H, P, M};
  const Value missing =
      multiply(subtract(transpose(v, {1, 0, 2}), from_state(k)), broadcast_in_dim(beta, by_row, {0, 1}));
  const Value u = dot_general(inverse, missing, product, inner);  // [H, P, M]
  const Value inside = dot_general(multiply(dot_general(q, k, by_head, inner), fade), u, product, inner);
  const Value out = transpose(add(from_state(q), inside), {1, 0, 2});  // [P, H, M]

  // The state after the last row of each request.
  const Value last_request = subtract(padded_rows(add(request_of_last_rows(operands[6]), 1.0), P), 1.0);
  const Value last = convert(
      compare(broadcast_in_dim(last_request, choice, {0}), iota(graph, choice, 1), Comparison::kEqual),
      inner);
  const Value weight = dot_general(last, fade, {{}, {}, {0}, {1}}, inner);  // [R, H, P]
  const Shape spread = {R, H, P, D};
  const Value keys = multiply(broadcast_in_dim(transpose(k, {1, 0, 2}), spread, {1, 2, 3}),
                              broadcast_leading(weight, spread));
  const Value added =
      transpose(dot_general(keys, u, {{1}, {0}, {2}, {1}}, inner), {1, 0, 2, 3});  // [R, H, D, M]
  const Value kept = dot_general(multiply(last, reads), exponential(g), {{}, {}, {0}, {1}}, inner);  // [R, H]
  const Value carried = multiply(state, broadcast_leading(kept, state.shape()));
  const Value touched = compare_with(reduce_sum(last, {0}), 0, "gt");
  const Value after = select(broadcast_leading(touched, before.shape()), add(carried, added), before);
  const Value first_rows = gather_rows(out, iota(graph, Shape{N}, 0));
  return {convert(first_rows, node.results[0].dtype), convert(after, node.results[1].dtype)};
}

std::vector<OpSample> delta_samples() {
  std::vector<OpSample> out;
  for (const RowCase& c : row_cases()) {
    const auto n = static_cast<int64_t>(c.request.size());
    out.push_back({c.name,
                   {normal({n, 3, 6}, 0.4), normal({n, 3, 6}, 0.4), normal({n, 3, 5}), uniform({n, 3}, -2, 0),
                    uniform({n, 3}, 0, 1), fixed(normal({4, 3, 6, 5})), values({n}, c.request, DType::kI32),
                    values({n}, c.positions, DType::kI32)},
                   {}});
  }
  return out;
}

}  // namespace

// (x, weight, state, request, positions) -> (out, state)
const OpDef short_convolution_op = {.name = "short_convolution",
                                    .infer = infer_convolution,
                                    .vjp = convolution_vjp,
                                    .decompose = decompose_convolution,
                                    .samples = convolution_samples};

// (q, k, v, decay, beta, state, request, positions) -> (out, state)
const OpDef gated_delta_rule_op = {.name = "gated_delta_rule",
                                   .infer = infer_delta,
                                   .no_vjp = "only in generation so far: its gradient wants a chunked form",
                                   .decompose = decompose_delta,
                                   .samples = delta_samples};

Recurrence short_convolution(Value x, Value weight, Value state, Value request, Value positions) {
  const Values out = x.graph().add_node(short_convolution_op, {x, weight, state, request, positions});
  return {out[0], out[1]};
}

Recurrence gated_delta_rule(Value q, Value k, Value v, Value decay, Value beta, Value state, Value request,
                            Value positions) {
  const Values out =
      q.graph().add_node(gated_delta_rule_op, {q, k, v, decay, beta, state, request, positions});
  return {out[0], out[1]};
}

}  // namespace vertebra
