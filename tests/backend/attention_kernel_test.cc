// Attention, its gradient and its paged form: against a double-precision reference, and the promises about
// bits.
#include "ops/ops.h"
#include "tests/backend/kernel_run.h"

namespace vertebra::cpu {
std::unique_ptr<Kernel> make_attention(const Node& node);
std::unique_ptr<Kernel> make_attention_grad(const Node& node);
std::unique_ptr<Kernel> make_paged_attention(const Node& node);

namespace {

struct Case {
  int64_t batch, tokens, heads, key_heads, dim;
  std::vector<int32_t> segments;
  int64_t window = 0;
  double scale = 0;

  Shape query_shape() const { return {batch, tokens, heads, dim}; }
  Shape key_shape() const { return {batch, tokens, key_heads, dim}; }
  Attrs attrs() const { return {{"scale", scale}, {"window", window}}; }
};

std::vector<int32_t> one_segment(int64_t tokens) {
  return std::vector<int32_t>(static_cast<size_t>(tokens), 0);
}

struct Inputs {
  Tensor q, k, v, segments, dout;
  explicit Inputs(const Case& c)
      : q(random_tensor(c.query_shape(), "q")),
        k(random_tensor(c.key_shape(), "k")),
        v(random_tensor(c.key_shape(), "v")),
        segments(ints({c.batch, c.tokens}, c.segments)),
        dout(random_tensor(c.query_shape(), "dout")) {}
};

std::vector<Tensor> forward(const Case& c, const Inputs& in, int threads = 1) {
  return run_kernel(make_attention, c.attrs(), {in.q, in.k, in.v, in.segments},
                    {{DType::kF32, c.query_shape()}, {DType::kF32, {c.batch, c.heads, c.tokens}}}, threads);
}

std::vector<Tensor> backward(const Case& c, const Inputs& in, const std::vector<Tensor>& out, int threads = 1,
                             const std::vector<int>& share = {}) {
  return run_kernel(
      make_attention_grad, c.attrs(), {in.q, in.k, in.v, in.segments, out[0], out[1], in.dout},
      {{DType::kF32, c.query_shape()}, {DType::kF32, c.key_shape()}, {DType::kF32, c.key_shape()}}, threads,
      share);
}

// The plain definition in double precision: out, lse, dq, dk, dv.
struct Reference {
  std::vector<double> out, lse, dq, dk, dv;

  Reference(const Case& c, const Inputs& in)
      : out(static_cast<size_t>(in.q.elements())),
        lse(static_cast<size_t>(c.batch * c.heads * c.tokens)),
        dq(out.size()),
        dk(static_cast<size_t>(in.k.elements())),
        dv(dk.size()) {
    for (int64_t b = 0; b < c.batch; ++b)
      for (int64_t h = 0; h < c.heads; ++h)
        for (int64_t t = 0; t < c.tokens; ++t) row(c, in, b, h, t);
  }

  void row(const Case& c, const Inputs& in, int64_t b, int64_t h, int64_t t) {
    const double scale = c.scale != 0 ? c.scale : 1 / std::sqrt(static_cast<double>(c.dim));
    const int32_t segment = c.segments[static_cast<size_t>(b * c.tokens + t)];
    if (segment < 0) return;
    const int64_t q_at = ((b * c.tokens + t) * c.heads + h) * c.dim;
    const auto k_at = [&](int64_t s) {
      return ((b * c.tokens + s) * c.key_heads + h / (c.heads / c.key_heads)) * c.dim;
    };
    const auto dot = [&](const Tensor& x, int64_t i, const Tensor& y, int64_t j) {
      double sum = 0;
      for (int64_t d = 0; d < c.dim; ++d) sum += x.at(i + d) * y.at(j + d);
      return sum;
    };
    std::vector<int64_t> keys;
    int64_t ahead = 0;  // tokens of the segment from s on, up to t
    for (int64_t s = t; s >= 0; --s) {
      if (c.segments[static_cast<size_t>(b * c.tokens + s)] != segment) continue;
      if (c.window == 0 || ahead < c.window) keys.push_back(s);
      ++ahead;
    }
    std::vector<double> p;
    double largest = -1e300, sum = 0;
    for (const int64_t s : keys) p.push_back(scale * dot(in.q, q_at, in.k, k_at(s)));
    for (const double x : p) largest = std::max(largest, x);
    for (double& x : p) sum += x = std::exp(x - largest);
    for (double& x : p) x /= sum;
    lse[static_cast<size_t>((b * c.heads + h) * c.tokens + t)] = largest + std::log(sum);
    double delta = 0;
    for (size_t i = 0; i < keys.size(); ++i) delta += p[i] * dot(in.dout, q_at, in.v, k_at(keys[i]));
    for (size_t i = 0; i < keys.size(); ++i) {
      const int64_t at = k_at(keys[i]);
      const double ds = p[i] * (dot(in.dout, q_at, in.v, at) - delta) * scale;
      for (int64_t d = 0; d < c.dim; ++d) {
        out[static_cast<size_t>(q_at + d)] += p[i] * in.v.at(at + d);
        dq[static_cast<size_t>(q_at + d)] += ds * in.k.at(at + d);
        dk[static_cast<size_t>(at + d)] += ds * in.q.at(q_at + d);
        dv[static_cast<size_t>(at + d)] += p[i] * in.dout.at(q_at + d);
      }
    }
  }
};

std::vector<Case> cases() {
  return {
      {1, 1, 1, 1, 16, {0}},
      {1, 5, 2, 1, 20, {0, 0, 0, 1, 1}},
      {2, 70, 2, 2, 32,
       [] {
         std::vector<int32_t> s(140, 0);
         for (size_t i = 26; i < 70; ++i) s[i] = i < 53 ? 1 : -1;
         return s;
       }()},
      {1, 131, 6, 2, 64, one_segment(131)},
      {1, 150, 3, 1, 80, one_segment(150), 37},
      {1, 97, 4, 4, 128, one_segment(97), 0, 0.3},
      {1, 11, 2, 1, 7, {2, 0, 2, -1, 0, 0, 2, 1, 1, -5, 0}},  // segments in pieces
      {1, 600, 2, 1, 16, one_segment(600), 0},                // more than a chunk of keys
      {1, 560, 2, 2, 16, one_segment(560), 70},
  };
}

TEST(AttentionKernel, MatchesTheReferenceOnEveryIsa) {
  for (const Case& c : cases()) {
    const Inputs in(c);
    const Reference want(c, in);
    on_every_isa([&] {
      SCOPED_TRACE("T " + std::to_string(c.tokens) + " D " + std::to_string(c.dim));
      const auto out = forward(c, in);
      EXPECT_LT(relative_error(out[0], want.out), 2e-6);
      EXPECT_LT(relative_error(out[1], want.lse), 1e-6);
      const auto gradients = backward(c, in, out);
      EXPECT_LT(relative_error(gradients[0], want.dq, 1), 4e-6);
      EXPECT_LT(relative_error(gradients[1], want.dk, 1), 4e-6);
      EXPECT_LT(relative_error(gradients[2], want.dv, 1), 4e-6);
    });
  }
}

TEST(AttentionKernel, ThreadsAndSharedMemoryDoNotChangeBits) {
  for (const Case& c : cases()) {
    const Inputs in(c);
    const auto out = forward(c, in);
    const auto gradients = backward(c, in, out);
    for (int threads = 2; threads <= 4; ++threads) {
      const auto again = forward(c, in, threads);
      for (size_t i = 0; i < out.size(); ++i) EXPECT_TRUE(again[i].same_bits(out[i]));
      const auto shared = backward(c, in, out, threads, {0, -1, -1});
      for (size_t i = 0; i < shared.size(); ++i) EXPECT_TRUE(shared[i].same_bits(gradients[i]));
    }
    const auto in_place =
        run_kernel(make_attention, c.attrs(), {in.q, in.k, in.v, in.segments},
                   {{DType::kF32, c.query_shape()}, {DType::kF32, {c.batch, c.heads, c.tokens}}}, 2, {0, -1});
    EXPECT_TRUE(in_place[0].same_bits(out[0]));
  }
}

Tensor tokens_of(const Tensor& x, int64_t first, int64_t count) {
  const int64_t width = x.shape()[2] * x.shape()[3];
  const auto data =
      x.data<const float>().subspan(static_cast<size_t>(first * width), static_cast<size_t>(count * width));
  return Tensor::from<float>({1, count, x.shape()[2], x.shape()[3]}, data);
}

TEST(AttentionKernel, ADocumentHasTheSameBitsAloneAndPacked) {
  Case packed{1, 230, 4, 2, 32, std::vector<int32_t>(230, 0)};
  for (size_t i = 0; i < 230; ++i) packed.segments[i] = i < 3 ? 0 : i < 103 ? 1 : i < 200 ? 2 : -1;
  const Inputs in(packed);
  const auto out = forward(packed, in);
  const auto gradients = backward(packed, in, out);
  for (const auto& [first, count] : std::vector<std::pair<int64_t, int64_t>>{{0, 3}, {3, 100}, {103, 97}}) {
    const Case alone{1, count, 4, 2, 32, one_segment(count)};
    Inputs one(alone);
    one.q = tokens_of(in.q, first, count);
    one.k = tokens_of(in.k, first, count);
    one.v = tokens_of(in.v, first, count);
    one.dout = tokens_of(in.dout, first, count);
    const auto own = forward(alone, one);
    EXPECT_TRUE(own[0].same_bits(tokens_of(out[0], first, count)));
    const auto own_gradients = backward(alone, one, own);
    for (size_t i = 0; i < 3; ++i)
      EXPECT_TRUE(own_gradients[i].same_bits(tokens_of(gradients[i], first, count)));
  }
}

// A cache of scattered pages for requests of given lengths, fed chunk by chunk.
class PagedRun {
 public:
  PagedRun(const Case& c, int64_t page_size, int64_t requests, DType cache_dtype = DType::kF32) : c_(c) {
    pages_each_ = (c.tokens + page_size - 1) / page_size;
    const int64_t pages = requests * pages_each_ + 1;
    const TensorType type{cache_dtype, {pages, page_size, c.key_heads, c.dim}};
    const TensorType scales{DType::kF32, {pages, page_size, c.key_heads, c.dim / kCacheBlock}};
    cache_ = {Tensor(type), Tensor(type)};
    if (cache_dtype == DType::kI8) cache_.insert(cache_.end(), {Tensor(scales), Tensor(scales)});
    // What was never written must never matter: NaN in all floating-point types.
    for (Tensor& each : cache_) std::memset(each.raw(), 0xff, each.size_bytes());
    table_ = Tensor(DType::kI32, {requests, pages_each_});
    for (int64_t i = 0; i < requests * pages_each_; ++i) table_.set(i, static_cast<double>(pages - 1 - i));
  }

  struct Row {
    int32_t request, position;
  };

  // The first `count` pages of every request go back to the pool, which marks them -1.
  void free_pages(int64_t count) {
    for (int64_t i = 0; i < table_.elements(); ++i)
      if (i % pages_each_ < count) table_.set(i, -1);
  }

  // Rows of the step taken from token `position` of batch row `request` of the inputs; request < 0 is
  // padding.
  Tensor step(const Inputs& in, const std::vector<Row>& rows, int threads = 1) {
    const auto n = static_cast<int64_t>(rows.size());
    Tensor q(DType::kF32, {n, c_.heads, c_.dim}), k(DType::kF32, {n, c_.key_heads, c_.dim});
    Tensor v = k.clone();
    std::vector<int32_t> request, position;
    for (int64_t i = 0; i < n; ++i) {
      const Row row = rows[static_cast<size_t>(i)];
      request.push_back(row.request);
      position.push_back(row.position);
      const int64_t token =
          std::clamp<int64_t>(row.request * c_.tokens + row.position, 0, c_.batch * c_.tokens - 1);
      copy(in.q, token, q, i, c_.heads);
      copy(in.k, token, k, i, c_.key_heads);
      copy(in.v, token, v, i, c_.key_heads);
    }
    std::vector<Tensor> operands = {
        q, k, v, cache_[0], cache_[1], table_, ints({n}, request), ints({n}, position)};
    std::vector<TensorType> types = {
        {DType::kF32, q.shape()}, cache_[0].type(), cache_[1].type(), {DType::kF32, {n, c_.heads}}};
    std::vector<int> share = {-1, 3, 4, -1};
    if (cache_.size() > 2) {
      operands.insert(operands.end(), {cache_[2], cache_[3]});
      types.insert(types.end(), {cache_[2].type(), cache_[3].type()});
      share.insert(share.end(), {8, 9});
    }
    const auto results = run_kernel(make_paged_attention, c_.attrs(), operands, types, threads, share);
    cache_[0] = results[1];
    cache_[1] = results[2];
    for (size_t i = 2; i < cache_.size(); ++i) cache_[i] = results[i + 2];
    return results[0];
  }

 private:
  void copy(const Tensor& from, int64_t token, Tensor& to, int64_t row, int64_t heads) const {
    const auto width = static_cast<size_t>(heads * c_.dim);
    std::memcpy(to.data<float>().data() + static_cast<size_t>(row) * width,
                from.data<const float>().data() + static_cast<size_t>(token) * width, width * sizeof(float));
  }
  Case c_;
  int64_t pages_each_ = 0;
  std::vector<Tensor> cache_;  // keys, values, and the scales of codes
  Tensor table_;
};

bool row_equals(const Tensor& out, int64_t row, const Tensor& whole, int64_t token) {
  const auto width = static_cast<size_t>(whole.shape()[2] * whole.shape()[3]);
  return std::memcmp(out.data<const float>().data() + static_cast<size_t>(row) * width,
                     whole.data<const float>().data() + static_cast<size_t>(token) * width,
                     width * sizeof(float)) == 0;
}

TEST(PagedAttentionKernel, DecodingHasTheBitsOfTheWholeSequence) {
  for (const auto& [heads, key_heads, window, dim, tokens] : std::vector<std::array<int64_t, 5>>{
           {2, 2, 0, 32, 150}, {6, 2, 0, 20, 80}, {4, 1, 30, 64, 150}, {2, 1, 0, 16, 1100}}) {
    const Case c{2, tokens, heads, key_heads, dim, one_segment(2 * tokens), window};
    const Inputs in(c);
    on_every_isa([&] {
      if (tokens > 1000 && active_isa() != best_isa()) return;
      const auto whole = forward(c, in);
      for (const int64_t page_size : {16, 64}) {
        PagedRun run(c, page_size, 2);
        const int32_t start = tokens > 1000 ? 1010 : 0;
        std::vector<PagedRun::Row> prompt;
        for (int32_t r = 0; r < 2; ++r)
          for (int32_t t = 0; t < start; ++t) prompt.push_back({r, t});
        if (start > 0) run.step(in, prompt, 2);
        for (int32_t t = start; t < tokens; ++t) {
          const Tensor out = run.step(in, {{1, t}, {-1, 0}, {0, t}}, 1 + t % 3);
          ASSERT_TRUE(row_equals(out, 0, whole[0], tokens + t)) << t;
          ASSERT_TRUE(row_equals(out, 2, whole[0], t)) << t;
          for (int64_t i = heads * dim; i < 2 * heads * dim; ++i) ASSERT_EQ(out.at(i), 0);
        }
      }
    });
  }
}

TEST(PagedAttentionKernel, ChunkedPrefillHasTheBitsOfTheWholeSequence) {
  const Case c{2, 300, 6, 2, 32, one_segment(600)};
  const Inputs in(c);
  const auto whole = forward(c, in);
  for (const int32_t chunk : {1, 7, 64, 100, 300}) {
    PagedRun run(c, 16, 2);
    for (int32_t first = 0; first < 300; first += chunk) {
      std::vector<PagedRun::Row> rows;
      for (int32_t r = 0; r < 2; ++r)
        for (int32_t t = first; t < std::min(300, first + chunk); ++t) rows.push_back({r, t});
      const Tensor out = run.step(in, rows, 2);
      for (size_t i = 0; i < rows.size(); ++i)
        ASSERT_TRUE(
            row_equals(out, static_cast<int64_t>(i), whole[0], rows[i].request * 300 + rows[i].position));
    }
  }
}

TEST(PagedAttentionKernel, PagesBeforeTheWindowMayBeFreed) {
  const Case c{1, 150, 4, 2, 32, one_segment(150), 30};
  const Inputs in(c);
  const auto whole = forward(c, in);
  PagedRun run(c, 16, 1);
  std::vector<PagedRun::Row> prompt;
  for (int32_t t = 0; t < 120; ++t) prompt.push_back({0, t});
  run.step(in, prompt);
  run.free_pages(5);  // positions 0..79; the next token sees 91 on
  for (int32_t t = 120; t < 150; ++t) ASSERT_TRUE(row_equals(run.step(in, {{0, t}}, 2), 0, whole[0], t));
  run.free_pages(8);  // up to 127, which token 149 sees
  EXPECT_THROW(run.step(in, {{0, 149}}), Error);
}

// What a cache of that type makes of a row: rounded one by one, or in blocks of 32 to 127ths of the largest.
Tensor as_cached(const Tensor& x, DType dtype) {
  if (dtype != DType::kI8) return x.to(dtype).to(DType::kF32);
  Tensor out = x.clone();
  const auto all = out.data<float>();
  for (size_t block = 0; block < all.size(); block += kCacheBlock) {
    const auto values = all.subspan(block, kCacheBlock);
    float largest = 0;
    for (const float value : values) largest = std::max(largest, std::fabs(value));
    const float scale = largest * (1.0f / 127), inverse = largest > 1e-30f ? 127.0f / largest : 0.0f;
    for (float& value : values) value = scale * std::nearbyint(value * inverse);
  }
  return out;
}

TEST(PagedAttentionKernel, ANarrowCacheIsTheAttentionOfRoundedKeysAndValues) {
  const Case c{1, 150, 6, 2, 64, one_segment(150)};
  Inputs in(c);
  for (int64_t i = 0; i < 64; ++i) in.k.set(4 * 64 + i, 0);  // a block of zeros has no scale
  for (const DType dtype : {DType::kBF16, DType::kF16, DType::kI8}) {
    SCOPED_TRACE(dtype_name(dtype));
    Inputs rounded(c);
    rounded.k = as_cached(in.k, dtype);
    rounded.v = as_cached(in.v, dtype);
    on_every_isa([&] {
      const auto whole = forward(c, rounded);
      for (const int64_t page_size : {16, 64}) {
        PagedRun run(c, page_size, 1, dtype);
        std::vector<PagedRun::Row> rows;
        for (int32_t t = 0; t < 100; ++t) rows.push_back({0, t});
        const Tensor out = run.step(in, rows, 2);
        for (int64_t t = 0; t < 100; ++t) ASSERT_TRUE(row_equals(out, t, whole[0], t)) << t;
        for (int32_t t = 100; t < 150; ++t)
          ASSERT_TRUE(row_equals(run.step(in, {{0, t}}, 1 + t % 3), 0, whole[0], t)) << t;
      }
    });
  }
}

TEST(PagedAttentionKernel, RefusesWhatTheCacheDoesNotHold) {
  const Case c{1, 32, 2, 1, 16, one_segment(32)};
  const Inputs in(c);
  for (const PagedRun::Row row : std::vector<PagedRun::Row>{{1, 0}, {0, 32}, {0, -1}}) {
    PagedRun run(c, 16, 1);
    EXPECT_THROW(run.step(in, {row}), Error) << row.request << " " << row.position;
  }
  PagedRun run(c, 16, 1);
  EXPECT_THROW(run.step(in, {{0, 3}, {0, 3}}), Error) << "positions that do not increase";
}

}  // namespace
}  // namespace vertebra::cpu
