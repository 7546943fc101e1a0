// Included once per instruction set after its products: one tile of people and draws, from components to their units.
#include <limits>

namespace secondgram::cpu::SECONDGRAM_ARCH {
namespace {

#include "maps.hpp"
#if SECONDGRAM_LANES == 16
#include "maps_avx512.hpp"
#endif

SECONDGRAM_TARGET void apply(const Maps& maps, std::size_t column, float* values, std::size_t count) {
#if SECONDGRAM_LANES == 16
  if (maps.places == kTablePlaces) return through_registers(maps, column, values, count);
#endif
  through_memory(maps, column, values, count);
}

// What a product leaves, column by column.
struct Transposed {
  float* to;
  SECONDGRAM_TARGET void operator()(std::size_t r, std::size_t column, std::size_t count, const float* sums) const {
    for (std::size_t j = 0; j < count; ++j) to[(column + j) * kTileRows + r] = sums[j];
  }
};

// A tile's rows in their own units: out [width, people, draws] of everybody.
template <typename T>
SECONDGRAM_TARGET void in_units(const Finish& by, const FinishRequest& q, const FinishScratch& w, std::size_t person,
                                std::size_t people, std::size_t draw, std::size_t draws, T* out) {
  const std::size_t width = by.width;
  const float end = by.clip > 0.0f ? by.clip : std::numeric_limits<float>::infinity();
  for (std::size_t j = 0; j < width; ++j)
    for (std::size_t p = 0; p < people; ++p) {
      const std::size_t here = person + p;
      const T centre = static_cast<T>(q.centre[here * width + j]), scale = static_cast<T>(q.scale[here * width + j]);
      const float* residual = w.residual.data() + j * kTileRows + p * draws;
      T* to = out + (j * q.people + here) * q.n_draws + draw;
      for (std::size_t d = 0; d < draws; ++d)
        to[d] = centre + scale * static_cast<T>(std::min(std::max(residual[d], -end), end));
      const std::int64_t moved = q.moved == nullptr ? -1 : q.moved_of[here];
      for (std::size_t d = 0; moved >= 0 && d < draws; ++d)
        to[d] += static_cast<T>(q.moved[((draw + d) * q.n_moved + static_cast<std::size_t>(moved)) * width + j]);
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
      const NoiseRequest noise{q.keys + person + p, q.draws + draw, 1, draws, width, q.seed, q.purpose, 0};
      SECONDGRAM_NORMALS(noise, w.noise.data(), 1);
      for (std::size_t d = 0; d < draws; ++d)
        std::copy_n(w.noise.data() + d * width, width, w.components.row(p * draws + d));
    }
    float column[kTileRows];
    for (std::size_t j = 0; j < by.components.columns; ++j) {
      if (by.components.identity[j]) continue;
      for (std::size_t r = 0; r < rows; ++r) column[r] = w.components.row(r)[j];
      apply(by.components, j, column, rows);
      for (std::size_t r = 0; r < rows; ++r) w.components.row(r)[j] = column[r];
    }
    for (std::size_t r = 0; r < rows && q.source != nullptr; ++r) {
      const float* from = q.source + ((draw + r % draws) * q.people + person + r / draws) * q.n_source;
      for (std::size_t k = 0; k < q.n_source; ++k) w.components.row(r)[q.places[k]] = from[k];
    }
    const Segment segments[] = {{&w.components, &by.loading}};
    Arch::product(segments, 1, rows, width, w.scratch, Transposed{w.residual.data()});
  }
  for (std::size_t j = 0; j < by.margins.columns; ++j)
    if (!by.margins.identity[j]) apply(by.margins, j, w.residual.data() + j * kTileRows, rows);
  in_units(by, q, w, person, people, draw, draws, out);
}

template void finish_tile(const Finish&, const FinishRequest&, FinishScratch&, std::size_t, std::size_t, std::size_t,
                          std::size_t, float*);
template void finish_tile(const Finish&, const FinishRequest&, FinishScratch&, std::size_t, std::size_t, std::size_t,
                          std::size_t, double*);

}  // namespace secondgram::cpu::SECONDGRAM_ARCH
