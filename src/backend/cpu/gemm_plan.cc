#include "backend/cpu/gemm_plan.h"

#include <algorithm>

namespace vertebra {
namespace {

// A packed A (or B) larger than this is packed and multiplied in parts. 32 MiB: 4096^3 in fp32 packs each
// matrix about twice, 2 % of its time; the panels stream from memory at under 3 GB/s a core.
constexpr size_t kSharedBudget = size_t{32} << 20;
// An operand packed once for everybody while the other one streams through private buffers: up to this size
// it stays in a last-level cache.
constexpr size_t kStreamBudget = size_t{8} << 20;
// Up to this size, and kSharedBudget in all, every worker packs an operand for itself, provided that this
// many rows (or columns) a worker make up for it. Packing 4 MB takes 0.2 ms; lines that another core has
// written come ten times slower than own ones (1024^3 in fp32: 78 % of the ceiling with shared panels, 90
// with own ones).
constexpr size_t kWorkerBudget = size_t{4} << 20;
constexpr int64_t kWorkerRows = 256;
// Items of work, in tiles and panels: large enough that packing and C's traffic vanish, A's part of a block
// of K in half a second-level cache.
constexpr int64_t kItemTiles = 16, kItemPanels = 8, kPrivateTiles = 8, kPrivatePanels = 8, kDirectPanels = 32;
// An A that stays in the second-level cache beside the panels of an item.
constexpr size_t kPrivateA = size_t{1} << 19;
// So many items a worker that one who comes late, or is held up, costs little.
constexpr int64_t kItemsPerWorker = 8;

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
size_t align_up(size_t bytes) {
  return (bytes + GemmPlan::kAlignment - 1) / GemmPlan::kAlignment * GemmPlan::kAlignment;
}

bool a_can_be_direct(const GemmArgs& args, const GemmPlan& plan) {
  if (args.a_transposed || plan.a_widen) return false;
  if (plan.form != GemmForm::kF32 && args.k % 2 != 0) return false;
  if (args.m <= 8) return true;
  // Packing pays when every element is read often, or when rows a multiple of 4 KiB apart would all fall into
  // one set of the first-level cache (14 rows of 4096 floats: a third of the speed).
  const int64_t row_bytes = args.lda * static_cast<int64_t>(dtype_size(args.a_dtype));
  if (row_bytes % 4096 == 0) return plan.panels <= 2;
  return plan.tiles == 1 || plan.panels <= 12;
}

size_t tiles_bytes(const GemmPlan& plan) { return static_cast<size_t>(plan.tiles) * plan.tile_bytes; }
size_t panels_bytes(const GemmPlan& plan) { return static_cast<size_t>(plan.panels) * plan.panel_bytes; }

bool can_be_workers(size_t bytes, int64_t rows, int threads) {
  return rows >= kWorkerRows * threads &&
         bytes <= std::min(kWorkerBudget, kSharedBudget / static_cast<size_t>(threads));
}

void choose_packing(const GemmArgs& args, int threads, GemmPlan& plan) {
  const bool direct = a_can_be_direct(args, plan), one = args.batch == 1;
  const int64_t enough = 4 * static_cast<int64_t>(threads);
  const bool many_rows = args.batch * plan.tiles >= enough, many_columns = args.batch * plan.panels >= enough;
  const bool worker_a = one && can_be_workers(tiles_bytes(plan), args.n, threads);
  const bool worker_b = one && can_be_workers(panels_bytes(plan), args.m, threads);
  // An A that items of many columns share.
  const GemmPacking common_a = direct     ? GemmPacking::kNone
                               : worker_a ? GemmPacking::kWorker
                                          : GemmPacking::kShared;
  if (args.b_packed != nullptr) {
    // Row items read all of B each: not one that lies in memory, if there is a choice.
    const bool row_items = !direct && many_rows && !(worker_a && panels_bytes(plan) > kStreamBudget);
    plan.a = row_items ? GemmPacking::kPrivate : common_a;
    plan.b = GemmPacking::kNone;
  } else if (args.m <= plan.kernels->direct_rows && (plan.form == GemmForm::kF32 || args.k % 2 == 0)) {
    const bool few = args.m <= plan.kernels->direct_a_rows;
    plan.a = direct && few ? GemmPacking::kNone : GemmPacking::kShared;
    plan.b = GemmPacking::kNone;
    plan.b_direct = true;
  } else if (worker_b && many_rows) {
    plan.a = direct ? GemmPacking::kNone : GemmPacking::kPrivate;
    plan.b = GemmPacking::kWorker;
  } else if (plan.tiles == 1 ||
             (many_columns && args.n >= args.m && (!plan.scratch || plan.tiles <= kItemTiles) &&
              (direct || tiles_bytes(plan) <= kStreamBudget))) {
    plan.a = common_a;
    plan.b = GemmPacking::kPrivate;
  } else {
    plan.a = direct                                             ? GemmPacking::kNone
             : many_rows && panels_bytes(plan) <= kStreamBudget ? GemmPacking::kPrivate
                                                                : GemmPacking::kShared;
    plan.b = GemmPacking::kShared;
  }
}

// How many tiles or panels, of `all`, are packed and multiplied at a time.
int64_t part_of(size_t unit_bytes, int64_t all) {
  const auto part = static_cast<int64_t>(kSharedBudget / std::max<size_t>(unit_bytes, 1));
  return std::clamp<int64_t>(part, 1, std::max<int64_t>(all, 1));
}

void choose_parts(const GemmArgs& args, GemmPlan& plan) {
  plan.part_tiles = plan.tiles;
  plan.part_panels = plan.panels;
  plan.part_batch = args.batch;
  size_t batch_bytes = 0;
  if (plan.a == GemmPacking::kShared) {
    plan.part_tiles = part_of(plan.tile_bytes, plan.tiles);
    batch_bytes = static_cast<size_t>(plan.part_tiles) * plan.tile_bytes;
  }
  if (plan.b == GemmPacking::kShared) {
    plan.part_panels = part_of(plan.panel_bytes, plan.panels);
    batch_bytes = std::max(batch_bytes, static_cast<size_t>(plan.part_panels) * plan.panel_bytes);
  }
  if (batch_bytes > 0) {
    const bool whole = plan.part_tiles == plan.tiles && plan.part_panels == plan.panels;
    plan.part_batch = whole ? part_of(batch_bytes, args.batch) : 1;
  }
}

void choose_items(const GemmArgs& args, int threads, GemmPlan& plan) {
  const int64_t wanted = threads == 1 ? 1 : kItemsPerWorker * threads;
  const auto share = [&](int64_t units, int64_t most) {
    return std::clamp<int64_t>(plan.part_batch * units / wanted, 1,
                               std::max<int64_t>(1, std::min(most, units)));
  };
  const int64_t all_tiles = std::max<int64_t>(1, plan.part_tiles),
                all_panels = std::max<int64_t>(1, plan.part_panels);
  const int64_t wide = plan.scratch ? std::min(kItemPanels, all_panels) : all_panels;
  if (plan.b_direct) {
    // Long pieces of B's rows: all of K at once where they run along K, else many panels.
    const int64_t panels = args.b_transposed ? 4096 / std::max<int64_t>(args.k, 1)
                                             : plan.kernels->direct_sums /
                                                   (std::max<int64_t>(args.m, 1) * plan.kernels->panel_width);
    plan.item_tiles = all_tiles;
    plan.item_panels = share(all_panels, std::clamp<int64_t>(panels, 1, kDirectPanels));
    return;
  }
  if (plan.b == GemmPacking::kPrivate) {
    plan.item_tiles = all_tiles;
    // Every item reads all of A: no small ones unless A stays in the second-level cache.
    const int64_t panels = share(all_panels, kPrivatePanels);
    plan.item_panels =
        tiles_bytes(plan) <= kPrivateA ? panels : std::min({2 * panels, kPrivatePanels, all_panels});
    return;
  }
  if (plan.a == GemmPacking::kWorker) {
    plan.item_tiles = plan.scratch ? std::min(kItemTiles, all_tiles) : all_tiles;
    plan.item_panels = share(all_panels, kItemPanels);
    return;
  }
  if (plan.a == GemmPacking::kPrivate || plan.b == GemmPacking::kWorker) {
    plan.item_tiles = share(all_tiles, kPrivateTiles);
    plan.item_panels = wide;
    return;
  }
  plan.item_tiles = std::min(kItemTiles, all_tiles);
  plan.item_panels = std::min(kItemPanels, all_panels);
  // Smaller items until everybody has some; never smaller than what fills the pipelines: few rows take two
  // panels at once.
  const int64_t least_panels = args.m <= 3 ? 2 : 1;
  const auto items = [&] {
    return plan.part_batch * divide_up(plan.part_tiles, plan.item_tiles) *
           divide_up(plan.part_panels, plan.item_panels);
  };
  while (items() < wanted && (plan.item_tiles > 1 || plan.item_panels > least_panels)) {
    int64_t& larger = plan.item_tiles >= plan.item_panels ? plan.item_tiles : plan.item_panels;
    larger = divide_up(larger, 2);
  }
}

void count_bytes(const GemmArgs& args, GemmPlan& plan) {
  const GemmKernels& g = *plan.kernels;
  const int64_t depth = std::min(plan.block_depth, args.k);
  switch (plan.a) {
    case GemmPacking::kNone:
      break;
    case GemmPacking::kShared:
      plan.shared_a_bytes =
          align_up(static_cast<size_t>(plan.part_batch * plan.part_tiles) * plan.tile_bytes);
      break;
    case GemmPacking::kWorker:
      plan.private_a_bytes = align_up(tiles_bytes(plan));
      break;
    case GemmPacking::kPrivate:
      plan.private_a_bytes =
          align_up(static_cast<size_t>(plan.item_tiles * g.tile_width * gemm_a_slot_bytes(plan.form, depth)));
  }
  switch (plan.b) {
    case GemmPacking::kNone:
      break;
    case GemmPacking::kShared:
      plan.shared_b_bytes =
          align_up(static_cast<size_t>(plan.part_batch * plan.part_panels) * plan.panel_bytes);
      break;
    case GemmPacking::kWorker:
      plan.private_b_bytes = align_up(panels_bytes(plan));
      break;
    case GemmPacking::kPrivate:
      plan.private_b_bytes = align_up(
          static_cast<size_t>(plan.item_panels * g.panel_width * gemm_b_slot_bytes(plan.form, depth)));
  }
  if (plan.scratch) {
    plan.scratch_bytes = align_up(
        static_cast<size_t>(plan.item_tiles * plan.tile_rows * plan.item_panels * g.panel_width) * 4);
  }
}

}  // namespace

GemmPlan make_gemm_plan(const GemmArgs& args, int threads, const KernelTable& table) {
  const GemmKernels& g = *table.gemm;
  GemmPlan plan = {};
  plan.kernels = &g;
  const bool a_bf16 = args.a_dtype == DType::kBF16;
  const bool b_bf16 = gemm_b_dtype(args) == DType::kBF16;
  plan.form = !b_bf16 ? GemmForm::kF32 : a_bf16 && g.bf16_dot ? GemmForm::kBf16Pairs : GemmForm::kF32ByBf16;
  plan.a_widen = a_bf16 && plan.form != GemmForm::kBf16Pairs;
  plan.block_depth = plan.form == GemmForm::kBf16Pairs ? 2 * g.block_steps : g.block_steps;
  plan.blocks = std::max<int64_t>(1, divide_up(args.k, plan.block_depth));
  plan.tiles = divide_up(args.m, g.tile_rows);
  plan.tile_rows = plan.tiles == 0 ? g.tile_rows : divide_up(args.m, plan.tiles);
  plan.tiles = divide_up(args.m, plan.tile_rows);
  plan.panels = divide_up(args.n, g.panel_width);
  plan.tile_bytes = static_cast<size_t>(gemm_a_slot_bytes(plan.form, args.k) * g.tile_width);
  plan.panel_bytes = static_cast<size_t>(gemm_b_slot_bytes(plan.form, args.k) * g.panel_width);
  plan.scratch = args.c_dtype == DType::kBF16
                     ? plan.blocks > 1 || args.accumulate
                     : plan.blocks > 1 && args.residual == args.c && args.c != nullptr;
  choose_packing(args, threads, plan);
  choose_parts(args, plan);
  choose_items(args, threads, plan);
  count_bytes(args, plan);
  return plan;
}

size_t gemm_plan_bound(const GemmArgs& args, int threads, const KernelTable& table) {
  // A smaller m may be planned otherwise; so every buffer is counted at its largest.
  const GemmPlan plan = make_gemm_plan(args, threads, table);
  const GemmKernels& g = *plan.kernels;
  const auto shared = [](size_t unit, int64_t count, int64_t batch) {
    const size_t all = unit * static_cast<size_t>(count) * static_cast<size_t>(batch);
    return align_up(std::min(all, std::max(kSharedBudget, unit)));
  };
  size_t bytes = GemmPlan::kAlignment + shared(plan.tile_bytes, plan.tiles, args.batch);
  const int64_t depth = std::min(plan.block_depth, args.k);
  const auto item_a = static_cast<size_t>(std::min(kPrivateTiles, plan.tiles) * g.tile_width *
                                          gemm_a_slot_bytes(plan.form, depth));
  const size_t most = std::min(kWorkerBudget, kSharedBudget / static_cast<size_t>(threads));
  const size_t worker_a = args.n >= kWorkerRows * threads ? std::min(tiles_bytes(plan), most) : 0;
  const size_t worker_b = args.m >= kWorkerRows * threads ? std::min(panels_bytes(plan), most) : 0;
  size_t own = align_up(std::max(item_a, worker_a));
  if (args.b_packed == nullptr) {
    bytes += shared(plan.panel_bytes, plan.panels, args.batch);
    const auto item_b = static_cast<size_t>(std::min(kPrivatePanels, plan.panels) * g.panel_width *
                                            gemm_b_slot_bytes(plan.form, depth));
    own += align_up(std::max(item_b, worker_b));
  }
  if (plan.scratch || args.c_dtype == DType::kBF16 || args.residual != nullptr) {
    const int64_t sums =
        std::min(kItemTiles, plan.tiles) * g.tile_rows * std::min(kItemPanels, plan.panels) * g.panel_width;
    // Whole tiles are counted: less than twice the rows.
    own += align_up(static_cast<size_t>(std::max<int64_t>(sums, 2 * g.direct_sums)) * 4);
  }
  return bytes + static_cast<size_t>(threads) * own;
}

}  // namespace vertebra
