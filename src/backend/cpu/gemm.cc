#include "backend/cpu/gemm.h"

#include <algorithm>
#include <cstring>

#include "backend/cpu/gemm_plan.h"
#include "base/error.h"

namespace vertebra {
namespace {

// Below this many multiply-adds a parallel region (0.3 us) costs more than it saves.
constexpr double kSerialMultiplyAdds = 60000;
constexpr size_t kAlignment = GemmPlan::kAlignment;
constexpr int kMostWorkers = 1024;  // of a ThreadTeam

// Packing reads this far ahead, in k of a row that runs along k, or in rows of one k each.
constexpr int64_t kAheadBytes = 1024, kAheadRows = 64;

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

void check(const GemmArgs& args, const KernelTable& table) {
  require(args.m >= 0 && args.n >= 0 && args.k >= 0 && args.batch >= 0,
          "a matrix product of negative size was asked for: m={} n={} k={} batch={}", args.m, args.n, args.k,
          args.batch);
  const auto known = [](DType dtype) { return dtype == DType::kF32 || dtype == DType::kBF16; };
  for (const DType dtype :
       {args.a_dtype, gemm_b_dtype(args), args.c_dtype, args.bias_dtype, args.residual_dtype}) {
    require(known(dtype), Code::kUnimplemented, "matrix products take f32 and bf16, not {}; convert first",
            dtype_name(dtype));
  }
  const auto check_ld = [](const char* name, int64_t ld, int64_t least) {
    require(ld >= least, "the leading dimension of {} is {}, less than its row length {}", name, ld, least);
  };
  check_ld("A", args.lda, args.a_transposed ? args.m : args.k);
  check_ld("C", args.ldc, args.n);
  if (args.residual != nullptr) check_ld("the residual", args.ldr, args.n);
  if (args.b_packed == nullptr) {
    check_ld("B", args.ldb, args.b_transposed ? args.k : args.n);
    return;
  }
  const PackedMatrix& b = *args.b_packed;
  require(b.k() == args.k && b.n() == args.n, "the packed B is [{}, {}], the product wants [{}, {}]", b.k(),
          b.n(), args.k, args.n);
  require(b.isa() == table.isa, "B was packed for {}, the kernels in use are {}'s: pack it again",
          isa_name(b.isa()), isa_name(table.isa));
}

// In elements, for a matrix with this leading dimension.
int64_t ahead(DType dtype, int64_t ld, bool k_contiguous) {
  return k_contiguous ? kAheadBytes / static_cast<int64_t>(dtype_size(dtype)) : kAheadRows * ld;
}

// A long K is multiplied in slices whose packed operands stay in the second-level caches, when C is small
// enough to be added to again and again ([256, 50257] . [50257, 768] in fp32: 55 % of the ceiling whole, 82 %
// in slices). Blocks of K are added to C in order in any case, so the sums are the same.
constexpr size_t kSliceBytes = size_t{3} << 20, kSliceCBytes = size_t{4} << 20;

// Depth of a slice for m rows: a multiple of the block of K, or all of K. Few rows read B in place, whole.
int64_t slice_depth(const GemmArgs& args, int64_t m, const KernelTable& table) {
  if (args.m <= table.gemm->direct_rows) return args.k;
  const bool c_waits = args.c_dtype == DType::kF32 && (args.residual == nullptr || args.residual != args.c);
  const auto c_bytes = static_cast<size_t>(args.m) * static_cast<size_t>(args.n) * sizeof(float);
  if (!c_waits || args.batch != 1 || args.b_packed != nullptr || c_bytes > kSliceCBytes) return args.k;
  const bool bf16 = args.a_dtype == DType::kBF16 && args.b_dtype == DType::kBF16;
  const int64_t block = table.gemm->block_steps * (bf16 && table.gemm->bf16_dot ? 2 : 1);
  const int64_t bytes_per_k = (m + args.n) * (bf16 && table.gemm->bf16_dot ? 2 : 4);
  const int64_t blocks = static_cast<int64_t>(kSliceBytes) / (bytes_per_k * block);
  return std::min(args.k, std::max<int64_t>(blocks, 1) * block);
}

// The slice [k0, k0 + depth) of the product.
GemmArgs slice_of(const GemmArgs& args, int64_t k0, int64_t depth) {
  const auto moved = [&](const void* matrix, DType dtype, bool rows_of_k, int64_t ld) {
    const int64_t elements = rows_of_k ? k0 * ld : k0;
    return static_cast<const std::byte*>(matrix) + elements * static_cast<int64_t>(dtype_size(dtype));
  };
  GemmArgs slice = args;
  slice.a = moved(args.a, args.a_dtype, args.a_transposed, args.lda);
  slice.b = moved(args.b, args.b_dtype, !args.b_transposed, args.ldb);
  slice.k = depth;
  slice.accumulate = args.accumulate || k0 > 0;
  if (k0 + depth < args.k) {
    slice.bias = slice.residual = nullptr;
    slice.activation = GemmActivation::kNone;
  }
  return slice;
}

// One call: the plan, the operands, and where in the workspace things lie.
class Product {
 public:
  Product(const GemmArgs& args, const GemmPlan& plan, std::byte* workspace) : args_(args), plan_(plan) {
    shared_a_ = workspace;
    shared_b_ = shared_a_ + plan.shared_a_bytes;
    private_ = shared_b_ + plan.shared_b_bytes;
    needs_finish_ = args.c_dtype == DType::kBF16 || args.bias != nullptr || args.residual != nullptr ||
                    args.activation != GemmActivation::kNone;
  }

  void run(ThreadTeam* team) {
    for (first_batch_ = 0; first_batch_ < args_.batch; first_batch_ += plan_.part_batch) {
      for (first_panel_ = 0; first_panel_ < plan_.panels; first_panel_ += plan_.part_panels) {
        for (first_tile_ = 0; first_tile_ < plan_.tiles; first_tile_ += plan_.part_tiles) run_part(team);
      }
    }
  }

 private:
  template <class Body>
  static void for_each(ThreadTeam* team, int64_t count, Body&& body) {
    if (team != nullptr) {
      team->parallel_for(count, body);
    } else {
      for (int64_t index = 0; index < count; ++index) body(index, 0);
    }
  }

  void run_part(ThreadTeam* team) {
    const int64_t batches = std::min(plan_.part_batch, args_.batch - first_batch_);
    const int64_t tiles = std::min(plan_.part_tiles, plan_.tiles - first_tile_);
    const int64_t panels = std::min(plan_.part_panels, plan_.panels - first_panel_);
    // A part of B stays packed while the parts of A pass.
    const int64_t pack_tiles = plan_.a == GemmPacking::kShared ? tiles : 0;
    const int64_t pack_panels = plan_.b == GemmPacking::kShared && first_tile_ == 0 ? panels : 0;
    const int64_t jobs = pack_tiles + pack_panels;
    for_each(team, batches * jobs, [&](int64_t index, int) {
      const int64_t batch = index / jobs;
      const int64_t job = index % jobs;
      if (job < pack_panels) {
        pack_panel(first_batch_ + batch, first_panel_ + job, 0, args_.k, shared_panel(batch, job));
      } else {
        const int64_t tile = job - pack_panels;
        pack_tile(first_batch_ + batch, first_tile_ + tile, 0, args_.k, shared_tile(batch, tile));
      }
    });
    const int64_t row_items = divide_up(tiles, plan_.item_tiles);
    const int64_t column_items = divide_up(panels, plan_.item_panels);
    for_each(team, batches * row_items * column_items, [&](int64_t index, int worker) {
      const int64_t batch = index / (row_items * column_items);
      const int64_t tile = index / column_items % row_items * plan_.item_tiles;
      const int64_t panel = index % column_items * plan_.item_panels;
      multiply(batch, tile, std::min(plan_.item_tiles, tiles - tile), panel,
               std::min(plan_.item_panels, panels - panel), worker);
    });
  }

  std::byte* shared_tile(int64_t batch, int64_t tile) const {
    return shared_a_ + static_cast<size_t>(batch * plan_.part_tiles + tile) * plan_.tile_bytes;
  }
  std::byte* shared_panel(int64_t batch, int64_t panel) const {
    return shared_b_ + static_cast<size_t>(batch * plan_.part_panels + panel) * plan_.panel_bytes;
  }

  static const std::byte* element(const void* matrix, DType dtype, int64_t index) {
    return static_cast<const std::byte*>(matrix) + index * static_cast<int64_t>(dtype_size(dtype));
  }

  void pack_tile(int64_t batch, int64_t tile, int64_t k0, int64_t depth, void* to) const {
    const int64_t row = tile * plan_.tile_rows;
    GemmPackJob job = {};
    job.source = element(
        args_.a, args_.a_dtype,
        batch * args_.a_batch_stride + (args_.a_transposed ? k0 * args_.lda + row : row * args_.lda + k0));
    job.stride = args_.lda;
    job.k_contiguous = !args_.a_transposed;
    job.source_is_bf16 = args_.a_dtype == DType::kBF16;
    job.widen = plan_.a_widen;
    job.slots = std::min(plan_.tile_rows, args_.m - row);
    job.width = plan_.kernels->tile_width;
    job.depth = depth;
    job.pad_even = plan_.form != GemmForm::kF32;
    // The tile after this one, packed next, lies beside it in the same rows.
    const bool next_beside = args_.a_transposed && plan_.a == GemmPacking::kPrivate;
    job.ahead = next_beside ? plan_.tile_rows : ahead(args_.a_dtype, args_.lda, !args_.a_transposed);
    job.panel = to;
    plan_.kernels->pack(job);
  }

  void pack_panel(int64_t batch, int64_t panel, int64_t k0, int64_t depth, void* to) const {
    const int64_t column = panel * plan_.kernels->panel_width;
    GemmPackJob job = {};
    job.source = element(args_.b, args_.b_dtype,
                         batch * args_.b_batch_stride +
                             (args_.b_transposed ? column * args_.ldb + k0 : k0 * args_.ldb + column));
    job.stride = args_.ldb;
    job.k_contiguous = args_.b_transposed;
    job.source_is_bf16 = args_.b_dtype == DType::kBF16;
    job.slots = std::min<int64_t>(plan_.kernels->panel_width, args_.n - column);
    job.width = plan_.kernels->panel_width;
    job.depth = depth;
    job.ahead = ahead(args_.b_dtype, args_.ldb, args_.b_transposed);
    job.panel = to;
    plan_.kernels->pack(job);
  }

  // Panels `bytes` apart. B[K,N]: a few rows at a time across all panels, so that memory gives long pieces of
  // few rows.
  void pack_panels(int64_t batch, int64_t panel, int64_t panels, int64_t k0, int64_t depth, std::byte* to,
                   int64_t bytes) const {
    const int64_t chunk = args_.b_transposed ? depth : kAheadRows;
    for (int64_t k = 0; k < depth; k += chunk) {
      for (int64_t p = 0; p < panels; ++p) {
        pack_panel(batch, panel + p, k0 + k, std::min(chunk, depth - k),
                   to + p * bytes + gemm_b_slot_bytes(plan_.form, k) * plan_.kernels->panel_width);
      }
    }
  }

  // What a worker packs for itself, before its first item.
  void pack_for_worker(std::byte* own, int worker) const {
    if (has_packed_[worker]) return;
    has_packed_[worker] = true;
    for (int64_t t = 0; plan_.a == GemmPacking::kWorker && t < plan_.tiles; ++t) {
      pack_tile(0, t, 0, args_.k, own + static_cast<size_t>(t) * plan_.tile_bytes);
    }
    if (plan_.b == GemmPacking::kWorker) {
      pack_panels(0, 0, plan_.panels, 0, args_.k, own + plan_.private_a_bytes,
                  static_cast<int64_t>(plan_.panel_bytes));
    }
  }

  // Rows of `tiles` tiles x columns of `panels` panels, counted from the part's first, over all of K.
  void multiply(int64_t batch, int64_t tile, int64_t tiles, int64_t panel, int64_t panels, int worker) const {
    const GemmKernels& g = *plan_.kernels;
    const int64_t row = (first_tile_ + tile) * plan_.tile_rows;
    const int64_t column = (first_panel_ + panel) * g.panel_width;
    const int64_t b_index = first_batch_ + batch;
    std::byte* own = private_ + static_cast<size_t>(worker) * plan_.worker_bytes();
    pack_for_worker(own, worker);
    std::byte* own_b = own + plan_.private_a_bytes;
    auto* scratch = reinterpret_cast<float*>(own_b + plan_.private_b_bytes);

    GemmBlock block = {};
    block.form = plan_.form;
    block.rows = std::min(tiles * plan_.tile_rows, args_.m - row);
    block.cols = std::min(panels * g.panel_width, args_.n - column);
    block.tile_rows = plan_.tile_rows;
    // Panels outside have the next one fetched meanwhile, but pass over all of A for each.
    block.rows_outer =
        plan_.b == GemmPacking::kPrivate || tiles == 1 || (plan_.a == GemmPacking::kWorker && tiles > 16);
    block.alpha = args_.alpha;
    const int64_t c_index = b_index * args_.c_batch_stride + row * args_.ldc + column;
    auto* c = const_cast<std::byte*>(element(args_.c, args_.c_dtype, c_index));
    if (plan_.scratch || args_.c_dtype == DType::kBF16) {
      block.partial_out = scratch;
      block.partial_out_stride = plan_.item_panels * g.panel_width;
    } else {
      block.partial_out = reinterpret_cast<float*>(c);
      block.partial_out_stride = args_.ldc;
    }
    if (args_.accumulate) start_from_c(block, c, scratch);
    GemmFinish finish = {};
    if (needs_finish_) finish = make_finish(b_index, row, column, c);

    const bool whole = plan_.b_direct && args_.b_transposed;
    const int64_t blocks = whole ? 1 : plan_.blocks, most = whole ? args_.k : plan_.block_depth;
    for (int64_t index = 0; index < blocks; ++index) {
      const int64_t k0 = index * most;
      block.depth = std::min(most, args_.k - k0);
      place_a(block, batch, tile, tiles, k0, own);
      place_b(block, batch, panel, panels, k0, own_b);
      if (index > 0) {
        block.partial_in = block.partial_out;
        block.partial_in_stride = block.partial_out_stride;
      }
      if (index == blocks - 1 && needs_finish_) block.finish = &finish;
      g.block(block);
    }
  }

  void start_from_c(GemmBlock& block, const std::byte* c, float* scratch) const {
    if (args_.c_dtype == DType::kF32) {
      block.partial_in = reinterpret_cast<const float*>(c);
      block.partial_in_stride = args_.ldc;
      return;
    }
    for (int64_t i = 0; i < block.rows; ++i) {
      const auto* from = reinterpret_cast<const uint16_t*>(c) + i * args_.ldc;
      for (int64_t j = 0; j < block.cols; ++j)
        scratch[i * block.partial_out_stride + j] = bf16_to_float(from[j]);
    }
    block.partial_in = scratch;
    block.partial_in_stride = block.partial_out_stride;
  }

  GemmFinish make_finish(int64_t batch, int64_t row, int64_t column, void* c) const {
    GemmFinish finish = {};
    if (args_.bias != nullptr) finish.bias = element(args_.bias, args_.bias_dtype, column);
    finish.bias_is_bf16 = args_.bias_dtype == DType::kBF16;
    if (args_.residual != nullptr) {
      finish.residual = element(args_.residual, args_.residual_dtype,
                                batch * args_.residual_batch_stride + row * args_.ldr + column);
    }
    finish.residual_stride = args_.ldr;
    finish.residual_is_bf16 = args_.residual_dtype == DType::kBF16;
    finish.out = c;
    finish.out_stride = args_.ldc;
    finish.out_is_bf16 = args_.c_dtype == DType::kBF16;
    finish.activation = args_.activation;
    return finish;
  }

  void place_a(GemmBlock& block, int64_t batch, int64_t tile, int64_t tiles, int64_t k0,
               std::byte* own) const {
    const int64_t width = plan_.kernels->tile_width;
    if (plan_.a == GemmPacking::kNone) {
      block.a_direct = true;
      block.a = element(args_.a, args_.a_dtype,
                        (first_batch_ + batch) * args_.a_batch_stride +
                            (first_tile_ + tile) * plan_.tile_rows * args_.lda + k0);
      block.a_stride = args_.lda;
    } else if (plan_.a != GemmPacking::kPrivate) {
      const std::byte* first = plan_.a == GemmPacking::kShared
                                   ? shared_tile(batch, tile)
                                   : own + static_cast<size_t>(tile) * plan_.tile_bytes;
      block.a = first + gemm_a_slot_bytes(plan_.form, k0) * width;
      block.a_stride = static_cast<int64_t>(plan_.tile_bytes / 4);
    } else {
      const int64_t bytes = gemm_a_slot_bytes(plan_.form, block.depth) * width;
      for (int64_t t = 0; t < tiles; ++t) {
        pack_tile(first_batch_ + batch, first_tile_ + tile + t, k0, block.depth, own + t * bytes);
      }
      block.a = own;
      block.a_stride = bytes / 4;
    }
  }

  void place_b(GemmBlock& block, int64_t batch, int64_t panel, int64_t panels, int64_t k0,
               std::byte* own) const {
    const int64_t width = plan_.kernels->panel_width;
    block.b_stride = static_cast<int64_t>(plan_.panel_bytes / 4);
    if (plan_.b_direct) {
      const int64_t column = (first_panel_ + panel) * width;
      block.b_layout = args_.b_transposed ? GemmB::kKContiguous : GemmB::kNContiguous;
      block.b = element(args_.b, args_.b_dtype,
                        (first_batch_ + batch) * args_.b_batch_stride +
                            (args_.b_transposed ? column * args_.ldb + k0 : k0 * args_.ldb + column));
      block.b_stride = args_.ldb;
    } else if (plan_.b == GemmPacking::kNone) {
      block.b = static_cast<const std::byte*>(args_.b_packed->data()) +
                static_cast<size_t>(first_panel_ + panel) * plan_.panel_bytes +
                gemm_b_slot_bytes(plan_.form, k0) * width;
    } else if (plan_.b != GemmPacking::kPrivate) {
      const std::byte* first = plan_.b == GemmPacking::kShared
                                   ? shared_panel(batch, panel)
                                   : own + static_cast<size_t>(panel) * plan_.panel_bytes;
      block.b = first + gemm_b_slot_bytes(plan_.form, k0) * width;
    } else {
      const int64_t bytes = gemm_b_slot_bytes(plan_.form, block.depth) * width;
      pack_panels(first_batch_ + batch, first_panel_ + panel, panels, k0, block.depth, own, bytes);
      block.b = own;
      block.b_stride = bytes / 4;
    }
  }

  const GemmArgs& args_;
  const GemmPlan& plan_;
  std::byte* shared_a_;
  std::byte* shared_b_;
  std::byte* private_;
  bool needs_finish_;
  mutable bool has_packed_[kMostWorkers] = {};
  int64_t first_batch_ = 0, first_panel_ = 0, first_tile_ = 0;
};

}  // namespace

void pack_b(PackedMatrix& packed, const void* b, DType dtype, int64_t k, int64_t n, int64_t ldb,
            bool transposed, ThreadTeam& team, const KernelTable& table) {
  require(k >= 0 && n >= 0, "a matrix of negative size was to be packed: [{}, {}]", k, n);
  require(dtype == DType::kF32 || dtype == DType::kBF16, Code::kUnimplemented,
          "matrices of f32 and bf16 can be packed, not {}; convert first", dtype_name(dtype));
  require(ldb >= (transposed ? k : n), "the leading dimension of B is {}, less than its row length {}", ldb,
          transposed ? k : n);
  const GemmKernels& g = *table.gemm;
  const bool bf16 = dtype == DType::kBF16;
  const GemmForm form = bf16 ? GemmForm::kF32ByBf16 : GemmForm::kF32;
  const int64_t panels = divide_up(n, g.panel_width);
  const auto panel_bytes = static_cast<size_t>(gemm_b_slot_bytes(form, k) * g.panel_width);
  const size_t bytes = (static_cast<size_t>(panels) * panel_bytes + kAlignment - 1) / kAlignment * kAlignment;
  if (bytes > packed.capacity_bytes_) {
    packed.data_.reset(std::aligned_alloc(kAlignment, bytes));
    packed.capacity_bytes_ = packed.data_ == nullptr ? 0 : bytes;
    require(packed.data_ != nullptr, Code::kResourceExhausted,
            "no memory for a packed matrix [{}, {}] of {} bytes", k, n, bytes);
  }
  packed.k_ = k;
  packed.n_ = n;
  packed.dtype_ = dtype;
  packed.isa_ = table.isa;
  packed.size_bytes_ = bytes;
  const auto* source = static_cast<const std::byte*>(b);
  auto* to = static_cast<std::byte*>(packed.data_.get());
  team.parallel_for(panels, [&](int64_t panel, int) {
    const int64_t column = panel * g.panel_width;
    GemmPackJob job = {};
    job.source = source + (transposed ? column * ldb : column) * static_cast<int64_t>(dtype_size(dtype));
    job.stride = ldb;
    job.k_contiguous = transposed;
    job.source_is_bf16 = bf16;
    job.slots = std::min<int64_t>(g.panel_width, n - column);
    job.width = g.panel_width;
    job.depth = k;
    job.ahead = ahead(dtype, ldb, transposed);
    job.panel = to + static_cast<size_t>(panel) * panel_bytes;
    g.pack(job);
  });
}

size_t gemm_workspace_bytes(const GemmArgs& args, int threads, const KernelTable& table) {
  check(args, table);
  if (slice_depth(args, args.m, table) == args.k) return gemm_plan_bound(args, threads, table);
  GemmArgs slice = args, few = args;
  slice.k = slice_depth(args, 1, table);  // with fewer rows slices are deeper
  size_t bytes = gemm_plan_bound(slice, threads, table);
  for (few.m = 1; few.m <= table.gemm->direct_rows; ++few.m)
    bytes = std::max(bytes, make_gemm_plan(few, threads, table).bytes(threads));
  return bytes;
}

void gemm(const GemmArgs& args, std::span<std::byte> workspace, ThreadTeam& team, const KernelTable& table) {
  check(args, table);
  if (args.m == 0 || args.n == 0 || args.batch == 0) return;
  const double multiply_adds = static_cast<double>(args.m) * static_cast<double>(args.n) *
                               static_cast<double>(args.k) * static_cast<double>(args.batch);
  const bool serial = team.size() == 1 || multiply_adds < kSerialMultiplyAdds;
  const int threads = serial ? 1 : team.size();
  const auto address = reinterpret_cast<uintptr_t>(workspace.data());
  std::byte* aligned = workspace.data() + (kAlignment - address % kAlignment) % kAlignment;
  const int64_t most = slice_depth(args, args.m, table);
  int64_t k0 = 0;
  do {  // once even where there is no depth: the epilogue alone
    const GemmArgs slice = most < args.k ? slice_of(args, k0, std::min(most, args.k - k0)) : args;
    const GemmPlan plan = make_gemm_plan(slice, threads, table);
    require(workspace.size() >= plan.bytes(threads),
            "a matrix product m={} n={} k={} on {} threads wants a workspace of {} bytes, {} were given",
            args.m, args.n, args.k, threads, plan.bytes(threads), workspace.size());
    Product(slice, plan, aligned).run(serial ? nullptr : &team);
    k0 += most;
  } while (k0 < args.k);
}

}  // namespace vertebra
