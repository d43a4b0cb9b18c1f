#include "backend/cpu/ops/strided_copy.h"

#include <algorithm>
#include <cstring>

namespace vertebra::cpu {
namespace {

constexpr int64_t kTile = 32;
// Below this many element operations a parallel region costs more than it gains.
constexpr int64_t kInlineWork = 20'000;
constexpr int64_t kChunkWork = 16'384;

// Drops axes of size 1 and joins axes that are one run of memory on both sides.
void simplify(StridedCopy& copy) {
  StridedCopy out;
  for (size_t i = 0; i < static_cast<size_t>(copy.rank); ++i) {
    if (copy.sizes[i] == 1) continue;
    if (out.rank > 0) {
      const auto last = static_cast<size_t>(out.rank - 1);
      if (out.from[last] == copy.from[i] * copy.sizes[i] && out.to[last] == copy.to[i] * copy.sizes[i]) {
        out.sizes[last] *= copy.sizes[i];
        out.from[last] = copy.from[i];
        out.to[last] = copy.to[i];
        continue;
      }
    }
    out.add_axis(copy.sizes[i], copy.from[i], copy.to[i]);
  }
  if (out.rank == 0) out.add_axis(1, 1, 1);
  copy = out;
}

// Offsets of the index-th combination of the first `rank` axes.
void offsets(const StridedCopy& copy, int rank, int64_t index, int64_t& from, int64_t& to) {
  from = to = 0;
  for (int axis = rank - 1; axis >= 0; --axis) {
    const auto i = static_cast<size_t>(axis);
    const int64_t at = index % copy.sizes[i];
    index /= copy.sizes[i];
    from += at * copy.from[i];
    to += at * copy.to[i];
  }
}

template <class T>
void copy_run(const T* from, int64_t from_stride, T* to, int64_t to_stride, int64_t size) {
  if (from_stride == 1 && to_stride == 1) {
    std::memcpy(to, from, static_cast<size_t>(size) * sizeof(T));
  } else if (from_stride == 0 && to_stride == 1) {
    std::fill_n(to, size, *from);
  } else {
    for (int64_t i = 0; i < size; ++i) to[i * to_stride] = from[i * from_stride];
  }
}

template <class T>
void copy_runs(const StridedCopy& copy, const T* from, T* to, ThreadTeam& team) {
  const auto last = static_cast<size_t>(copy.rank - 1);
  int64_t runs = 1;
  for (size_t i = 0; i < last; ++i) runs *= copy.sizes[i];
  // One long run: cut it up, so that the team has something to share.
  if (runs == 1) {
    parallel_ranges(team, copy.sizes[last], 1, [&](int64_t begin, int64_t end) {
      copy_run(from + begin * copy.from[last], copy.from[last], to + begin * copy.to[last], copy.to[last],
               end - begin);
    });
    return;
  }
  parallel_ranges(team, runs, copy.sizes[last], [&](int64_t begin, int64_t end) {
    for (int64_t run = begin; run < end; ++run) {
      int64_t from_at = 0, to_at = 0;
      offsets(copy, copy.rank - 1, run, from_at, to_at);
      copy_run(from + from_at, copy.from[last], to + to_at, copy.to[last], copy.sizes[last]);
    }
  });
}

// The last axis is dense in the destination, the one before it in the source: tiles keep both in the cache.
template <class T>
void copy_transposed(const StridedCopy& copy, const T* from, T* to, ThreadTeam& team) {
  const auto column = static_cast<size_t>(copy.rank - 1), row = column - 1;
  const int64_t rows = copy.sizes[row], columns = copy.sizes[column];
  const int64_t bands = (rows + kTile - 1) / kTile;
  int64_t outer = 1;
  for (size_t i = 0; i < row; ++i) outer *= copy.sizes[i];
  parallel_ranges(team, outer * bands, std::min(rows, kTile) * columns, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      int64_t from_at = 0, to_at = 0;
      offsets(copy, copy.rank - 2, task / bands, from_at, to_at);
      const int64_t first_row = task % bands * kTile, last_row = std::min(rows, first_row + kTile);
      for (int64_t first = 0; first < columns; first += kTile) {
        const int64_t limit = std::min(columns, first + kTile);
        for (int64_t r = first_row; r < last_row; ++r) {
          const T* source = from + from_at + r * copy.from[row];
          T* target = to + to_at + r * copy.to[row];
          for (int64_t c = first; c < limit; ++c) target[c * copy.to[column]] = source[c * copy.from[column]];
        }
      }
    }
  });
}

template <class T>
void dispatch(StridedCopy& copy, const void* from, void* to, ThreadTeam& team) {
  // A transposition: bring the axis that is dense in the source next to the last one.
  const auto last = static_cast<size_t>(copy.rank - 1);
  if (copy.rank >= 2 && copy.from[last] > 1) {
    for (size_t i = last; i-- > 0;) {
      if (copy.from[i] != 1) continue;
      const int64_t size = copy.sizes[i], from_stride = copy.from[i], to_stride = copy.to[i];
      for (size_t k = i; k + 1 < last; ++k) {
        copy.sizes[k] = copy.sizes[k + 1];
        copy.from[k] = copy.from[k + 1];
        copy.to[k] = copy.to[k + 1];
      }
      copy.sizes[last - 1] = size;
      copy.from[last - 1] = from_stride;
      copy.to[last - 1] = to_stride;
      return copy_transposed(copy, static_cast<const T*>(from), static_cast<T*>(to), team);
    }
  }
  copy_runs(copy, static_cast<const T*>(from), static_cast<T*>(to), team);
}

}  // namespace

Strides dense_strides(const Shape& shape) {
  Strides strides{};
  int64_t stride = 1;
  for (int axis = shape.rank() - 1; axis >= 0; --axis) {
    strides[static_cast<size_t>(axis)] = stride;
    stride *= shape[axis];
  }
  return strides;
}

void parallel_ranges(ThreadTeam& team, int64_t count, int64_t cost,
                     FunctionRef<void(int64_t, int64_t)> body) {
  if (count <= 0) return;
  cost = std::max<int64_t>(cost, 1);
  if (count * cost <= kInlineWork) return body(0, count);
  const int64_t chunk = std::max<int64_t>(1, kChunkWork / cost);
  team.parallel_for((count + chunk - 1) / chunk,
                    [&](int64_t index, int) { body(index * chunk, std::min(count, (index + 1) * chunk)); });
}

void run_strided_copy(StridedCopy copy, const void* from, void* to, size_t element_bytes, ThreadTeam& team) {
  for (size_t i = 0; i < static_cast<size_t>(copy.rank); ++i) {
    if (copy.sizes[i] == 0) return;
  }
  simplify(copy);
  switch (element_bytes) {
    case 1:
      return dispatch<uint8_t>(copy, from, to, team);
    case 2:
      return dispatch<uint16_t>(copy, from, to, team);
    case 4:
      return dispatch<uint32_t>(copy, from, to, team);
    default:
      return dispatch<uint64_t>(copy, from, to, team);
  }
}

}  // namespace vertebra::cpu
