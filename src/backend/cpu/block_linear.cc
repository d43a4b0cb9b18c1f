#include "backend/cpu/block_linear.h"

#include <algorithm>

#include "backend/cpu/block_matrix.h"
#include "backend/cpu/kernels/block_product.h"
#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/ops/workspace.h"

namespace vertebra {
namespace {

using cpu::Carver;

// Weights of a work item as bytes: half of a second-level cache, so that all rows pass over them there.
constexpr int64_t kExpandedBytes = int64_t{256} << 10;
// One row: an item's blocks, so that handing it out costs nothing beside reading them.
constexpr int64_t kLeastItemBytes = int64_t{8} << 10, kMostItemBytes = int64_t{128} << 10;
// Fewer values than that are rounded by the caller alone: a parallel region takes as long.
constexpr int64_t kSerialValues = 4096;
constexpr int64_t kRoundedPiece = 512;  // columns of a job: whole blocks
constexpr int kItemsPerWorker = 4;
// So many tiles of rows read a panel's blocks from a cache; more of them are worth expanding it.
constexpr int64_t kFewTiles = 2;

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// All rows rounded for one kind of format, tile by tile.
struct Rounded {
  BlockFormat format;
  int8_t* codes;
  float* scales;
  int32_t* sums;

  QuantizedTile tile(int64_t index, int64_t tile_rows, int64_t m, int64_t k) const {
    const BlockTraits traits = block_traits(format);
    const int64_t row = index * tile_rows;
    return {codes + row * k, scales + row * (k / traits.elements), sums + row * (k / traits.group),
            static_cast<int32_t>(std::min(tile_rows, m - row))};
  }
};

// Formats whose rows are rounded to the same bits: codes, scales and sums.
bool same_rounding(BlockFormat a, BlockFormat b) {
  const BlockTraits s = block_traits(a), t = block_traits(b);
  return a == b || (s.has_min && t.has_min && s.elements == t.elements && s.group == t.group);
}

constexpr size_t kMostRoundings = kBlockFormats;

class BlockProducts {
 public:
  // With a null workspace only the size is computed.
  BlockProducts(const BlockLinearArgs& args, std::byte* workspace, int threads)
      : args_(args), kernels_(*vertebra::kernels().block_product), threads_(threads) {
    Carver carver(workspace);
    for (const BlockWeight& weight : args.weights) {
      const BlockFormat format = block_format(weight.dtype);
      if (find(format) != nullptr) continue;
      const BlockTraits traits = block_traits(format);
      rounded_[roundings_++] = {format, carver.take<int8_t>(args.m * args.k),
                                carver.take<float>(args.m * (args.k / traits.elements)),
                                carver.take<int32_t>(args.m * (args.k / traits.group))};
    }
    if (!few()) {
      item_panels_ = std::clamp<int64_t>(kExpandedBytes / std::max<int64_t>(1, args.k * kPanelRows), 1, 8);
      smallest_group_ = 32;
      for (const BlockWeight& weight : args.weights)
        smallest_group_ = std::min(smallest_group_, block_traits(block_format(weight.dtype)).group);
      for (int worker = 0; worker < threads; ++worker) {
        const size_t before = carver.used();
        const ExpandedPanel expanded = take_expanded(carver, item_panels_);
        if (worker == 0) first_expanded_ = expanded;
        expanded_stride_ = carver.used() - before;
      }
    }
    bytes_ = carver.used();
  }

  size_t bytes() const { return bytes_; }

  void run(ThreadTeam& team) {
    round_rows(team);
    plan_items();
    team.parallel_for(items_, [&](int64_t item, int worker) {
      const BlockWeight* weight = args_.weights.data();
      int64_t first = item * planned_panels_;
      // Items run over the panels of all weights, each weight beginning a new item.
      for (;; ++weight) {
        const int64_t items = divide_up(panels_of(*weight), planned_panels_);
        if (item < items) break;
        item -= items;
        first = item * planned_panels_;
      }
      const int64_t count = std::min(planned_panels_, panels_of(*weight) - first);
      if (few()) {
        multiply_few(*weight, first, count);
      } else {
        multiply_tiles(*weight, first, count, worker);
      }
    });
  }

 private:
  static int64_t panels_of(const BlockWeight& weight) { return divide_up(weight.n, kPanelRows); }

  ExpandedPanel take_expanded(Carver& carver, int64_t panels) const {
    return {carver.take<uint8_t>(panels * kPanelRows * args_.k),
            carver.take<float>(panels * kPanelRows * (args_.k / smallest_group_)),
            carver.take<float>(panels * kPanelRows * (args_.k / smallest_group_))};
  }
  ExpandedPanel expanded_of(int worker) const {
    const auto at = static_cast<size_t>(worker) * expanded_stride_;
    const auto moved = [&](auto* p) {
      return reinterpret_cast<decltype(p)>(reinterpret_cast<std::byte*>(p) + at);
    };
    return {moved(first_expanded_.codes), moved(first_expanded_.scales), moved(first_expanded_.mins)};
  }

  const Rounded* find(BlockFormat format) const {
    for (size_t i = 0; i < roundings_; ++i) {
      if (same_rounding(rounded_[i].format, format)) return &rounded_[i];
    }
    return nullptr;
  }

  // A job is a piece of a tile of rows.
  void round_rows(ThreadTeam& team) {
    const int64_t tile_rows = kernels_.tile_rows, tiles = divide_up(args_.m, tile_rows),
                  pieces = divide_up(args_.k, kRoundedPiece);
    const auto round = [&](int64_t index) {
      const Rounded& rounded = rounded_[static_cast<size_t>(index / (tiles * pieces))];
      const int64_t t = index / pieces % tiles, begin = index % pieces * kRoundedPiece;
      const BlockTraits traits = block_traits(rounded.format);
      QuantizedTile tile = rounded.tile(t, tile_rows, args_.m, args_.k);
      tile.codes += begin * tile.rows;
      tile.scales += begin / traits.elements * tile.rows;
      tile.sums += begin / traits.group * tile.rows;
      kernels_.quantize(rounded.format, args_.x + t * tile_rows * args_.k + begin, args_.k,
                        std::min(kRoundedPiece, args_.k - begin), tile);
    };
    const int64_t jobs = tiles * pieces * static_cast<int64_t>(roundings_);
    if (args_.m * args_.k < kSerialValues) {
      for (int64_t i = 0; i < jobs; ++i) round(i);
    } else {
      team.parallel_for(jobs, [&](int64_t i, int) { round(i); });
    }
  }

  void plan_items() {
    int64_t panels = 0, bytes = 0;
    for (const BlockWeight& weight : args_.weights) {
      panels += panels_of(weight);
      bytes += panels_of(weight) * static_cast<int64_t>(panel_bytes(weight.dtype, args_.k));
    }
    const int64_t wanted = divide_up(panels, threads_ * kItemsPerWorker);
    if (few()) {
      const int64_t one = std::max<int64_t>(1, bytes / std::max<int64_t>(1, panels));
      planned_panels_ = std::clamp<int64_t>(wanted, divide_up(kLeastItemBytes, one),
                                            std::max<int64_t>(divide_up(kMostItemBytes, one), 1));
    } else {
      planned_panels_ = std::clamp<int64_t>(wanted, 1, item_panels_);
    }
    items_ = 0;
    for (const BlockWeight& weight : args_.weights) items_ += divide_up(panels_of(weight), planned_panels_);
  }

  // Straight from the blocks, which several tiles of rows find in a cache.
  bool few() const {
    return args_.m <= kernels_.tile_rows ||
           (args_.m <= kFewTiles * kernels_.tile_rows &&
            std::all_of(args_.weights.begin(), args_.weights.end(), [&](const BlockWeight& weight) {
              return kernels_.is_direct(block_format(weight.dtype));
            }));
  }
  void multiply_few(const BlockWeight& weight, int64_t first, int64_t count) const {
    const BlockFormat format = block_format(weight.dtype);
    const int64_t column = first * kPanelRows;
    const size_t bytes = panel_bytes(weight.dtype, args_.k);
    const std::byte* panels = weight.panels + static_cast<size_t>(first) * bytes;
    const int64_t tile_rows = kernels_.tile_rows, tiles = divide_up(args_.m, tile_rows);
    const int64_t columns = std::min(count * kPanelRows, weight.n - column);
    const int64_t together = tiles == 1 ? columns : kPanelRows;
    for (int64_t c = 0; c < columns; c += together, panels += bytes) {
      for (int64_t t = 0; t < tiles; ++t) {
        kernels_.few(format, panels, args_.k, find(format)->tile(t, tile_rows, args_.m, args_.k),
                     weight.finish, t * tile_rows, column + c, std::min(together, columns - c));
      }
    }
  }

  void multiply_tiles(const BlockWeight& weight, int64_t first, int64_t count, int worker) const {
    const BlockFormat format = block_format(weight.dtype);
    const BlockTraits traits = block_traits(format);
    const Rounded& rounded = *find(format);
    const size_t bytes = panel_bytes(weight.dtype, args_.k);
    const ExpandedPanel whole = expanded_of(worker);
    const auto expanded = [&](int64_t panel) -> ExpandedPanel {
      const int64_t groups = panel * kPanelRows * (args_.k / traits.group);
      return {whole.codes + panel * kPanelRows * args_.k, whole.scales + groups, whole.mins + groups};
    };
    for (int64_t p = 0; p < count; ++p) {
      kernels_.expand(format, weight.panels + static_cast<size_t>(first + p) * bytes,
                      args_.k / traits.elements, expanded(p));
    }
    const int64_t tile_rows = kernels_.tile_rows;
    for (int64_t t = 0; t < divide_up(args_.m, tile_rows); ++t) {
      const QuantizedTile tile = rounded.tile(t, tile_rows, args_.m, args_.k);
      for (int64_t p = 0; p < count; ++p) {
        const int64_t column = (first + p) * kPanelRows;
        kernels_.tile(format, expanded(p), args_.k, tile, weight.finish, t * tile_rows, column,
                      std::min<int64_t>(kPanelRows, weight.n - column));
      }
    }
  }

  const BlockLinearArgs& args_;
  const BlockProductKernels& kernels_;
  int threads_;
  Rounded rounded_[kMostRoundings] = {};
  size_t roundings_ = 0, bytes_ = 0, expanded_stride_ = 0;
  ExpandedPanel first_expanded_ = {};
  int smallest_group_ = 32;
  int64_t item_panels_ = 1, planned_panels_ = 1, items_ = 0;
};

}  // namespace

size_t block_linear_workspace_bytes(const BlockLinearArgs& args, int threads) {
  return BlockProducts(args, nullptr, threads).bytes();
}

void block_linear(const BlockLinearArgs& args, std::byte* workspace, ThreadTeam& team) {
  if (args.m == 0) return;
  BlockProducts(args, workspace, team.size()).run(team);
}

}  // namespace vertebra
