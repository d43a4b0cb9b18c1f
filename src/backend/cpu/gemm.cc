#include "backend/cpu/gemm.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"

namespace vertebra {
namespace {

// A packed A (or B) larger than this is packed and multiplied in parts. 32 MiB: 4096^3 in fp32 packs each
// matrix about twice, 2 % of its time; the panels stream from memory at under 3 GB/s a core.
constexpr size_t kSharedBudget = size_t{32} << 20;
// An operand packed once for everybody while the other one streams through private buffers: up to this size
// it stays in a last-level cache.
constexpr size_t kStreamBudget = size_t{8} << 20;
// Below this many multiply-adds a parallel region (0.3 us) costs more than it saves.
constexpr double kSerialMultiplyAdds = 60000;
constexpr size_t kAlignment = 64;
// Items of work, in tiles and panels: large enough that packing and C's traffic vanish, A's part of a block
// of K in half a second-level cache.
constexpr int64_t kItemTiles = 16, kItemPanels = 8, kPrivateTiles = 8, kPrivatePanels = 4, kDirectPanels = 32;

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
size_t align_up(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

enum class Packing : uint8_t {
  kNone,     // read as given (a few rows of A, or B for a few rows of A), or packed before
  kShared,   // packed by everybody before the multiplication
  kPrivate,  // packed by each item for itself: exactly one item reads it
};

// Packing reads this far ahead, in k of a row that runs along k, or in rows of one k each.
constexpr int64_t kAheadBytes = 1024, kAheadRows = 16;

// Everything that follows from the shapes; no pointers.
struct Plan {
  const GemmKernels* kernels;
  GemmForm form;
  bool a_widen;
  int64_t block_depth, blocks;     // K: at least one block, which may be empty
  int64_t tiles, tile_rows;        // of M
  int64_t panels;                  // of N
  size_t tile_bytes, panel_bytes;  // packed over all of K
  Packing a, b;
  bool b_direct;                    // read as given
  bool scratch;                     // partial sums cannot wait in C
  int64_t part_tiles, part_panels;  // packed and multiplied at a time
  int64_t part_batch;
  int64_t item_tiles, item_panels;
  size_t shared_a_bytes, shared_b_bytes, private_a_bytes, private_b_bytes, scratch_bytes;

  size_t worker_bytes() const { return private_a_bytes + private_b_bytes + scratch_bytes; }
  size_t bytes(int threads) const {
    return kAlignment + shared_a_bytes + shared_b_bytes + static_cast<size_t>(threads) * worker_bytes();
  }
};

DType b_dtype_of(const GemmArgs& args) {
  return args.b_packed != nullptr ? args.b_packed->dtype() : args.b_dtype;
}

// Bytes of one slot over `depth` steps of k.
int64_t a_slot_bytes(GemmForm form, int64_t depth) {
  return form == GemmForm::kBf16Pairs ? divide_up(depth, 2) * 4 : divide_up(depth, 2) * 8;
}
int64_t b_slot_bytes(GemmForm form, int64_t depth) {
  return form == GemmForm::kF32 ? depth * 4 : divide_up(depth, 2) * 4;
}

bool a_can_be_direct(const GemmArgs& args, const Plan& plan) {
  if (args.a_transposed || plan.a_widen) return false;
  if (plan.form != GemmForm::kF32 && args.k % 2 != 0) return false;
  if (args.m <= 8) return true;
  // Packing pays when every element is read often, or when rows a multiple of 4 KiB apart would all fall into
  // one set of the first-level cache (14 rows of 4096 floats: a third of the speed).
  const int64_t row_bytes = args.lda * static_cast<int64_t>(dtype_size(args.a_dtype));
  if (row_bytes % 4096 == 0) return plan.panels <= 2;
  return plan.tiles == 1 || plan.panels <= 12;
}

void choose_packing(const GemmArgs& args, int threads, Plan& plan) {
  const auto tiles_bytes = static_cast<size_t>(plan.tiles) * plan.tile_bytes;
  const auto panels_bytes = static_cast<size_t>(plan.panels) * plan.panel_bytes;
  const int64_t enough = 4 * static_cast<int64_t>(threads);
  const bool many_row_items = args.batch * divide_up(plan.tiles, kPrivateTiles) >= enough && !plan.scratch;
  const bool many_column_items = args.batch * divide_up(plan.panels, kPrivatePanels) >= enough &&
                                 (!plan.scratch || plan.tiles <= kItemTiles);
  const bool direct = a_can_be_direct(args, plan);
  plan.a = direct ? Packing::kNone : Packing::kShared;
  plan.b = args.b_packed != nullptr ? Packing::kNone : Packing::kShared;
  if (plan.b == Packing::kNone) {
    if (!direct && many_row_items) plan.a = Packing::kPrivate;
    return;
  }
  if (args.m <= plan.kernels->direct_rows && (plan.form == GemmForm::kF32 || args.k % 2 == 0)) {
    plan.a = args.m <= plan.kernels->direct_a_rows && direct ? Packing::kNone : Packing::kShared;
    plan.b = Packing::kNone;
    plan.b_direct = true;
  } else if (plan.tiles == 1 ||
             (many_column_items && args.n >= args.m && (direct || tiles_bytes <= kStreamBudget))) {
    plan.b = Packing::kPrivate;
  } else if (!direct && many_row_items && panels_bytes <= kStreamBudget) {
    plan.a = Packing::kPrivate;
  }
}

void choose_items(const GemmArgs& args, int threads, Plan& plan) {
  plan.part_tiles = plan.tiles;
  plan.part_panels = plan.panels;
  plan.part_batch = args.batch;
  size_t batch_bytes = 0;
  if (plan.a == Packing::kShared) {
    plan.part_tiles =
        std::clamp<int64_t>(static_cast<int64_t>(kSharedBudget / std::max<size_t>(plan.tile_bytes, 1)), 1,
                            std::max<int64_t>(plan.tiles, 1));
    batch_bytes = std::max(batch_bytes, static_cast<size_t>(plan.part_tiles) * plan.tile_bytes);
  }
  if (plan.b == Packing::kShared) {
    plan.part_panels =
        std::clamp<int64_t>(static_cast<int64_t>(kSharedBudget / std::max<size_t>(plan.panel_bytes, 1)), 1,
                            std::max<int64_t>(plan.panels, 1));
    batch_bytes = std::max(batch_bytes, static_cast<size_t>(plan.part_panels) * plan.panel_bytes);
  }
  if (batch_bytes > 0) {
    const bool whole = plan.part_tiles == plan.tiles && plan.part_panels == plan.panels;
    plan.part_batch = whole ? std::clamp<int64_t>(static_cast<int64_t>(kSharedBudget / batch_bytes), 1,
                                                  std::max<int64_t>(args.batch, 1))
                            : 1;
  }
  plan.item_tiles = std::max<int64_t>(1, std::min(kItemTiles, plan.part_tiles));
  plan.item_panels = std::max<int64_t>(1, std::min(kItemPanels, plan.part_panels));
  if (plan.a == Packing::kPrivate) {
    plan.item_tiles = std::min(kPrivateTiles, plan.part_tiles);
    plan.item_panels = plan.part_panels;
  }
  if (plan.b == Packing::kPrivate) {
    plan.item_tiles = plan.part_tiles;
    plan.item_panels = std::min(kPrivatePanels, plan.part_panels);
  }
  if (plan.b_direct) {
    // Long pieces of B's rows: all of K at once where they run along K, else many panels.
    const int64_t panels = args.b_transposed ? 4096 / std::max<int64_t>(args.k, 1)
                                             : plan.kernels->direct_sums /
                                                   (std::max<int64_t>(args.m, 1) * plan.kernels->panel_width);
    plan.item_tiles = std::max<int64_t>(1, plan.part_tiles);
    plan.item_panels = std::clamp<int64_t>(std::min(panels, plan.part_panels), 1, kDirectPanels);
  }
  if (threads == 1) return;
  // Smaller items until everybody has a few; never smaller than what fills the pipelines.
  const auto items = [&] {
    return plan.part_batch * divide_up(plan.part_tiles, plan.item_tiles) *
           divide_up(plan.part_panels, plan.item_panels);
  };
  while (items() < 4 * static_cast<int64_t>(threads)) {
    const bool can_tiles = plan.item_tiles > 1 && plan.b != Packing::kPrivate && !plan.b_direct;
    const bool can_panels = plan.item_panels > 1 && plan.a != Packing::kPrivate;
    if (can_tiles && (plan.item_tiles >= plan.item_panels || !can_panels)) {
      plan.item_tiles = divide_up(plan.item_tiles, 2);
    } else if (can_panels) {
      plan.item_panels = divide_up(plan.item_panels, 2);
    } else {
      break;
    }
  }
}

Plan make_plan(const GemmArgs& args, int threads, const KernelTable& table) {
  const GemmKernels& g = *table.gemm;
  Plan plan = {};
  plan.kernels = &g;
  const bool a_bf16 = args.a_dtype == DType::kBF16;
  const bool b_bf16 = b_dtype_of(args) == DType::kBF16;
  plan.form = !b_bf16 ? GemmForm::kF32 : a_bf16 && g.bf16_dot ? GemmForm::kBf16Pairs : GemmForm::kF32ByBf16;
  plan.a_widen = a_bf16 && plan.form != GemmForm::kBf16Pairs;
  plan.block_depth = plan.form == GemmForm::kBf16Pairs ? 2 * g.block_steps : g.block_steps;
  plan.blocks = std::max<int64_t>(1, divide_up(args.k, plan.block_depth));
  plan.tiles = divide_up(args.m, g.tile_rows);
  plan.tile_rows = plan.tiles == 0 ? g.tile_rows : divide_up(args.m, plan.tiles);
  plan.tiles = divide_up(args.m, plan.tile_rows);
  plan.panels = divide_up(args.n, g.panel_width);
  plan.tile_bytes = static_cast<size_t>(a_slot_bytes(plan.form, args.k) * g.tile_width);
  plan.panel_bytes = static_cast<size_t>(b_slot_bytes(plan.form, args.k) * g.panel_width);
  plan.scratch = args.c_dtype == DType::kBF16
                     ? plan.blocks > 1 || args.accumulate
                     : plan.blocks > 1 && args.residual == args.c && args.c != nullptr;
  choose_packing(args, threads, plan);
  choose_items(args, threads, plan);
  if (plan.a == Packing::kShared) {
    plan.shared_a_bytes = align_up(static_cast<size_t>(plan.part_batch * plan.part_tiles) * plan.tile_bytes);
  }
  if (plan.b == Packing::kShared) {
    plan.shared_b_bytes =
        align_up(static_cast<size_t>(plan.part_batch * plan.part_panels) * plan.panel_bytes);
  }
  const int64_t depth = std::min(plan.block_depth, args.k);
  if (plan.a == Packing::kPrivate) {
    plan.private_a_bytes =
        align_up(static_cast<size_t>(plan.item_tiles * g.tile_width * a_slot_bytes(plan.form, depth)));
  }
  if (plan.b == Packing::kPrivate) {
    plan.private_b_bytes =
        align_up(static_cast<size_t>(plan.item_panels * g.panel_width * b_slot_bytes(plan.form, depth)));
  }
  if (plan.scratch) {
    plan.scratch_bytes = align_up(
        static_cast<size_t>(plan.item_tiles * plan.tile_rows * plan.item_panels * g.panel_width) * 4);
  }
  return plan;
}

void check(const GemmArgs& args, const KernelTable& table) {
  require(args.m >= 0 && args.n >= 0 && args.k >= 0 && args.batch >= 0,
          "a matrix product of negative size was asked for: m={} n={} k={} batch={}", args.m, args.n, args.k,
          args.batch);
  const auto known = [](DType dtype) { return dtype == DType::kF32 || dtype == DType::kBF16; };
  for (const DType dtype :
       {args.a_dtype, b_dtype_of(args), args.c_dtype, args.bias_dtype, args.residual_dtype}) {
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

// One call: the plan, the operands, and where in the workspace things lie.
class Product {
 public:
  Product(const GemmArgs& args, const Plan& plan, std::byte* workspace) : args_(args), plan_(plan) {
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
    const int64_t pack_tiles = plan_.a == Packing::kShared ? tiles : 0;
    const int64_t pack_panels = plan_.b == Packing::kShared && first_tile_ == 0 ? panels : 0;
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
    job.ahead = ahead(args_.a_dtype, args_.lda, !args_.a_transposed);
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

  // Rows of `tiles` tiles x columns of `panels` panels, counted from the part's first, over all of K.
  void multiply(int64_t batch, int64_t tile, int64_t tiles, int64_t panel, int64_t panels, int worker) const {
    const GemmKernels& g = *plan_.kernels;
    const int64_t row = (first_tile_ + tile) * plan_.tile_rows;
    const int64_t column = (first_panel_ + panel) * g.panel_width;
    const int64_t b_index = first_batch_ + batch;
    std::byte* own = private_ + static_cast<size_t>(worker) * plan_.worker_bytes();
    std::byte* own_b = own + plan_.private_a_bytes;
    auto* scratch = reinterpret_cast<float*>(own_b + plan_.private_b_bytes);

    GemmBlock block = {};
    block.form = plan_.form;
    block.rows = std::min(tiles * plan_.tile_rows, args_.m - row);
    block.cols = std::min(panels * g.panel_width, args_.n - column);
    block.tile_rows = plan_.tile_rows;
    block.rows_outer = plan_.b == Packing::kPrivate || tiles == 1;
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

    for (int64_t index = 0; index < plan_.blocks; ++index) {
      const int64_t k0 = index * plan_.block_depth;
      block.depth = std::min(plan_.block_depth, args_.k - k0);
      place_a(block, batch, tile, tiles, k0, own);
      place_b(block, batch, panel, panels, k0, own_b);
      if (index > 0) {
        block.partial_in = block.partial_out;
        block.partial_in_stride = block.partial_out_stride;
      }
      if (index == plan_.blocks - 1 && needs_finish_) block.finish = &finish;
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
    if (plan_.a == Packing::kNone) {
      block.a_direct = true;
      block.a = element(args_.a, args_.a_dtype,
                        (first_batch_ + batch) * args_.a_batch_stride +
                            (first_tile_ + tile) * plan_.tile_rows * args_.lda + k0);
      block.a_stride = args_.lda;
    } else if (plan_.a == Packing::kShared) {
      block.a = shared_tile(batch, tile) + a_slot_bytes(plan_.form, k0) * width;
      block.a_stride = static_cast<int64_t>(plan_.tile_bytes / 4);
    } else {
      const int64_t bytes = a_slot_bytes(plan_.form, block.depth) * width;
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
    } else if (plan_.b == Packing::kNone) {
      block.b = static_cast<const std::byte*>(args_.b_packed->data()) +
                static_cast<size_t>(first_panel_ + panel) * plan_.panel_bytes +
                b_slot_bytes(plan_.form, k0) * width;
    } else if (plan_.b == Packing::kShared) {
      block.b = shared_panel(batch, panel) + b_slot_bytes(plan_.form, k0) * width;
    } else {
      const int64_t bytes = b_slot_bytes(plan_.form, block.depth) * width;
      for (int64_t p = 0; p < panels; ++p) {
        pack_panel(first_batch_ + batch, first_panel_ + panel + p, k0, block.depth, own + p * bytes);
      }
      block.b = own;
      block.b_stride = bytes / 4;
    }
  }

  const GemmArgs& args_;
  const Plan& plan_;
  std::byte* shared_a_;
  std::byte* shared_b_;
  std::byte* private_;
  bool needs_finish_;
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
  const auto panel_bytes = static_cast<size_t>(b_slot_bytes(form, k) * g.panel_width);
  const size_t bytes = align_up(static_cast<size_t>(panels) * panel_bytes);
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
  // A smaller m may be planned otherwise; so every buffer is counted at its largest.
  const Plan plan = make_plan(args, threads, table);
  const GemmKernels& g = *plan.kernels;
  const auto shared = [](size_t unit, int64_t count, int64_t batch) {
    const size_t all = unit * static_cast<size_t>(count) * static_cast<size_t>(batch);
    return align_up(std::min(all, std::max(kSharedBudget, unit)));
  };
  size_t bytes = kAlignment + shared(plan.tile_bytes, plan.tiles, args.batch);
  const int64_t depth = std::min(plan.block_depth, args.k);
  size_t own = align_up(static_cast<size_t>(std::min(kPrivateTiles, plan.tiles) * g.tile_width *
                                            a_slot_bytes(plan.form, depth)));
  if (args.b_packed == nullptr) {
    bytes += shared(plan.panel_bytes, plan.panels, args.batch);
    own += align_up(static_cast<size_t>(std::min(kPrivatePanels, plan.panels) * g.panel_width *
                                        b_slot_bytes(plan.form, depth)));
  }
  if (plan.scratch || args.c_dtype == DType::kBF16 || args.residual != nullptr) {
    const int64_t sums =
        std::min(kItemTiles, plan.tiles) * g.tile_rows * std::min(kItemPanels, plan.panels) * g.panel_width;
    // Whole tiles are counted: less than twice the rows.
    own += align_up(static_cast<size_t>(std::max<int64_t>(sums, 2 * g.direct_sums)) * 4);
  }
  return bytes + static_cast<size_t>(threads) * own;
}

void gemm(const GemmArgs& args, std::span<std::byte> workspace, ThreadTeam& team, const KernelTable& table) {
  check(args, table);
  if (args.m == 0 || args.n == 0 || args.batch == 0) return;
  const double multiply_adds = static_cast<double>(args.m) * static_cast<double>(args.n) *
                               static_cast<double>(args.k) * static_cast<double>(args.batch);
  const bool serial = team.size() == 1 || multiply_adds < kSerialMultiplyAdds;
  const int threads = serial ? 1 : team.size();
  const Plan plan = make_plan(args, threads, table);
  require(workspace.size() >= plan.bytes(threads),
          "a matrix product m={} n={} k={} on {} threads wants a workspace of {} bytes, {} were given",
          args.m, args.n, args.k, threads, plan.bytes(threads), workspace.size());
  const auto address = reinterpret_cast<uintptr_t>(workspace.data());
  std::byte* aligned = workspace.data() + (kAlignment - address % kAlignment) % kAlignment;
  Product(args, plan, aligned).run(serial ? nullptr : &team);
}

}  // namespace vertebra
