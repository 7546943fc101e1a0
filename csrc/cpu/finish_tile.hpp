// Included once per instruction set after its products: finishes one tile, from components to draws in original units.
#include <limits>

namespace secondgram::cpu::SECONDGRAM_ARCH {
namespace {

#include "maps.hpp"
#include "units.hpp"
#if SECONDGRAM_LANES == 16
#include "maps_avx512.hpp"
#include "turn_avx512.hpp"
#include "units_avx512.hpp"
#else
#include "turn.hpp"
#endif

SECONDGRAM_TARGET void apply(const Maps& maps, std::size_t column, float* values, std::size_t count) {
#if SECONDGRAM_LANES == 16
  if (maps.places == kTablePlaces) return through_registers(maps, column, values, count);
#endif
  through_memory(maps, column, values, count);
}

// Applies the quantile maps of the columns of a matrix, by blocks of columns that are transposed for it.
SECONDGRAM_TARGET void apply(const Maps& maps, Matrix& matrix, std::size_t rows) {
  constexpr std::size_t kBlock = 16;  // columns of a transpose
  float block[kBlock * kTileRows];
  for (std::size_t start = 0; start < maps.columns; start += kBlock) {
    const std::size_t count = std::min(kBlock, maps.columns - start);
    const unsigned char* same = maps.identity.data() + start;
    if (std::find(same, same + count, 0) == same + count) continue;
    turn(matrix.row(0) + start, matrix.stride, rows, block, kTileRows);
    for (std::size_t j = 0; j < count; ++j)
      if (!maps.identity[start + j]) apply(maps, start + j, block + j * kTileRows, rows);
    turn_back(block, kTileRows, rows, matrix.row(0) + start, matrix.stride);
  }
}

// Epilogue of a product that stores its sums column by column.
struct Transposed {
  float* to;
  SECONDGRAM_TARGET void operator()(std::size_t r, std::size_t column, std::size_t count, const float* sums) const {
    for (std::size_t j = 0; j < count; ++j) to[(column + j) * kTileRows + r] = sums[j];
  }
};

// Denormalises a tile: centre + scale * residual, in original units.
template <typename T>
SECONDGRAM_TARGET void in_units(const FinishRequest& q, std::size_t width, const float* residual, float end,
                                std::size_t person, std::size_t people, std::size_t draw, std::size_t draws, T* out) {
#if SECONDGRAM_LANES == 16
  using Kind = std::conditional_t<std::is_same_v<T, double>, Doubles, Floats>;
  if (people <= Kind::kCount) return in_units_of_few<Kind>(q, width, residual, end, person, people, draw, draws, out);
#endif
  in_units_of_many(q, width, residual, end, person, people, draw, draws, out);
}

// Adds the shifts by missing cells, of which only their rows of the maps are read. `room` has kLostAtOnce rows of width.
SECONDGRAM_TARGET void add_moved(const FinishRequest& q, std::size_t width, std::size_t person, std::size_t people,
                                 std::size_t draw, std::size_t draws, float* room, float* residual) {
  for (std::size_t p = 0; q.lost != nullptr && p < people; ++p) {
    const std::size_t here = person + p, end = static_cast<std::size_t>(q.lost[here + 1]);
    const float gap = q.gap[here];
    for (std::size_t first = static_cast<std::size_t>(q.lost[here]); first < end; first += kLostAtOnce) {
      const std::size_t count = std::min(kLostAtOnce, end - first);
      for (std::size_t k = 0; k < count; ++k) {
        const std::size_t row = q.cell[first + k] * width;
        const float *map = q.map + row, *weight = q.weight + here * width;
        float* to = room + k * width;
        if (q.by_gap == nullptr) {
          for (std::size_t j = 0; j < width; ++j) to[j] = weight[j] * map[j];
        } else {
          const float* by_gap = q.by_gap + row;
          for (std::size_t j = 0; j < width; ++j) to[j] = weight[j] * (map[j] + gap * by_gap[j]);
        }
      }
      const float* by = q.by + first * q.n_draws + draw;
      for (std::size_t j = 0; j < width; ++j) {
        float* to = residual + j * kTileRows + p * draws;
        for (std::size_t k = 0; k < count; ++k) {
          const float factor = room[k * width + j];
          const float* from = by + k * q.n_draws;
          for (std::size_t d = 0; d < draws; ++d) to[d] += factor * from[d];
        }
      }
    }
  }
}

}  // namespace

// People [person, person + people) and draws [draw, draw + draws): row r of the tile is person r / draws and draw r % draws.
template <typename T>
SECONDGRAM_TARGET void finish_tile(const Finish& by, const FinishRequest& q, FinishScratch& w, std::size_t person,
                                   std::size_t people, std::size_t draw, std::size_t draws, T* out) {
  const std::size_t width = by.width, rows = people * draws;
  if (by.loading.inputs == 0) {
    for (std::size_t r = 0; r < rows; ++r) {
      const float* from = q.source + ((draw + r % draws) * q.people + person + r / draws) * width;
      for (std::size_t j = 0; j < width; ++j) w.residual[j * kTileRows + r] = from[j];
    }
  } else {
    for (std::size_t p = 0; p < people; ++p) {
      const NoiseRequest noise{q.keys + person + p, q.draws + draw, 1, draws, width,
                               q.seed, q.purpose, 0, w.components.stride};
      fill_rounded_normals(noise, w.components.row(p * draws), 1);
    }
    apply(by.components, w.components, rows);
    for (std::size_t r = 0; r < rows && q.source != nullptr; ++r) {
      const float* from = q.source + ((draw + r % draws) * q.people + person + r / draws) * q.n_source;
      for (std::size_t k = 0; k < q.n_source; ++k) w.components.row(r)[q.places[k]] = from[k];
    }
    for (std::size_t r = 0; r < rows; ++r) Arch::as_factors(w.components, r, 0, width);
    const Segment segments[] = {{&w.components, &by.loading}};
    Arch::product(segments, 1, rows, width, w.sums, Transposed{w.residual.data()});
  }
  for (std::size_t j = 0; j < by.margins.columns; ++j)
    if (!by.margins.identity[j]) apply(by.margins, j, w.residual.data() + j * kTileRows, rows);
  add_moved(q, width, person, people, draw, draws, w.lost.data(), w.residual.data());
  const float end = by.clip > 0.0f ? by.clip : std::numeric_limits<float>::infinity();
  in_units(q, width, w.residual.data(), end, person, people, draw, draws, out);
}

template void finish_tile(const Finish&, const FinishRequest&, FinishScratch&, std::size_t, std::size_t, std::size_t,
                          std::size_t, float*);
template void finish_tile(const Finish&, const FinishRequest&, FinishScratch&, std::size_t, std::size_t, std::size_t,
                          std::size_t, double*);

}  // namespace secondgram::cpu::SECONDGRAM_ARCH
