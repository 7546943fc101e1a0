// Postprocesses one tile, from components to draws in original units.
#pragma once

#include <cstddef>
#include <limits>

#include "denormalise.hpp"
#include "elementwise.hpp"
#include "isa.hpp"
#include "noise.hpp"
#include "partition.hpp"
#include "postprocess.hpp"
#include "product.hpp"
#include "quantile_map.hpp"

namespace secondgram::cpu::SECONDGRAM_ISA {
namespace {

// Epilogue of a product that stores its sums column by column.
struct Transposed {
  float* to;
  SECONDGRAM_TARGET void operator()(std::size_t r, std::size_t column, std::size_t count, const float* sums) const {
    for (std::size_t j = 0; j < count; ++j) to[(column + j) * kTileRows + r] = sums[j];
  }
};

// Adds the shifts by missing cells, of which only their rows of the maps are read. `workspace` has kCellsAtOnce rows of
// width.
SECONDGRAM_TARGET void add_shifts(const PostprocessRequest& q, std::size_t width, std::size_t person,
                                  std::size_t people, std::size_t draw, std::size_t draws, float* workspace,
                                  float* residual) {
  for (std::size_t p = 0; q.lost != nullptr && p < people; ++p) {
    const std::size_t here = person + p, end = static_cast<std::size_t>(q.lost[here + 1]);
    const float gap = q.gap[here];
    for (std::size_t first = static_cast<std::size_t>(q.lost[here]); first < end; first += kCellsAtOnce) {
      const std::size_t count = std::min(kCellsAtOnce, end - first);
      for (std::size_t k = 0; k < count; ++k) {
        const std::size_t row = q.cell[first + k] * width;
        const float *map = q.map + row, *weight = q.weight + here * width;
        float* to = workspace + k * width;
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
          const float factor = workspace[k * width + j];
          const float* from = by + k * q.n_draws;
          for (std::size_t d = 0; d < draws; ++d) to[d] += factor * from[d];
        }
      }
    }
  }
}

}  // namespace

// People [person, person + people) and draws [draw, draw + draws): row r of the tile is person r / draws and draw
// r % draws.
template <typename T>
SECONDGRAM_TARGET void postprocess_tile(const Postprocess& by, const PostprocessRequest& q, PostprocessWorkspace& w,
                                        std::size_t person, std::size_t people, std::size_t draw, std::size_t draws,
                                        T* out) {
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
    apply_maps(by.components, w.components, rows);
    for (std::size_t r = 0; r < rows && q.source != nullptr; ++r) {
      const float* from = q.source + ((draw + r % draws) * q.people + person + r / draws) * q.n_source;
      for (std::size_t k = 0; k < q.n_source; ++k) w.components.row(r)[q.places[k]] = from[k];
    }
    for (std::size_t r = 0; r < rows; ++r) Isa::to_operand(w.components, r, 0, width);
    const Segment segments[] = {{&w.components, &by.loading}};
    Isa::product(segments, 1, rows, width, w.sums, Transposed{w.residual.data()});
  }
  for (std::size_t j = 0; j < by.margins.columns; ++j)
    if (!by.margins.identity[j]) apply_maps(by.margins, j, w.residual.data() + j * kTileRows, rows);
  add_shifts(q, width, person, people, draw, draws, w.shifts.data(), w.residual.data());
  const float end = by.clip > 0.0f ? by.clip : std::numeric_limits<float>::infinity();
  denormalise(q, width, w.residual.data(), end, person, people, draw, draws, out);
}

template void postprocess_tile(const Postprocess&, const PostprocessRequest&, PostprocessWorkspace&, std::size_t,
                               std::size_t, std::size_t, std::size_t, float*);
template void postprocess_tile(const Postprocess&, const PostprocessRequest&, PostprocessWorkspace&, std::size_t,
                               std::size_t, std::size_t, std::size_t, double*);

}  // namespace secondgram::cpu::SECONDGRAM_ISA
