#include "finish.hpp"

#include <cmath>
#include <stdexcept>

#include "architectures.hpp"
#include "workers.hpp"

namespace secondgram::cpu {
namespace {

// A tile's rows in their own units: out [width, people, draws] of everybody.
template <typename T>
void in_units(const FinishRequest& q, const FinishScratch& w, std::size_t width, std::size_t person, std::size_t people,
              std::size_t draw, std::size_t draws, T* out) {
  for (std::size_t j = 0; j < width; ++j)
    for (std::size_t p = 0; p < people; ++p) {
      const std::size_t here = person + p;
      const T centre = static_cast<T>(q.centre[here * width + j]), scale = static_cast<T>(q.scale[here * width + j]);
      const float* residual = w.residual.data() + j * kTileRows + p * draws;
      T* to = out + (j * q.people + here) * q.n_draws + draw;
      for (std::size_t d = 0; d < draws; ++d) to[d] = centre + scale * static_cast<T>(residual[d]);
      const std::int64_t moved = q.moved == nullptr ? -1 : q.moved_of[here];
      for (std::size_t d = 0; moved >= 0 && d < draws; ++d)
        to[d] += static_cast<T>(q.moved[((draw + d) * q.n_moved + static_cast<std::size_t>(moved)) * width + j]);
    }
}

}  // namespace

Maps::Maps(const double* x, const double* y, std::size_t knots_, std::size_t columns_)
    : columns(columns_), knots(knots_), start(columns * (knots + 1)), value(start.size()), slope(start.size(), 1.0f),
      identity(columns, 1), per_unit(columns, 0.0f) {
  for (std::size_t j = 0; j < columns; ++j) {
    const std::size_t row = j * (knots + 1);
    const double step = (x[(knots - 1) * columns + j] - x[j]) / static_cast<double>(knots - 1);
    bool even = true;
    for (std::size_t k = 0; k < knots; ++k)
      even = even && std::abs(x[k * columns + j] - x[j] - step * static_cast<double>(k)) <= 1e-6 * step;
    if (even) per_unit[j] = static_cast<float>(1.0 / step);
    start[row] = static_cast<float>(x[j]), value[row] = static_cast<float>(y[j]);
    for (std::size_t k = 0; k < knots; ++k) {
      const double here = x[k * columns + j], there = y[k * columns + j];
      start[row + k + 1] = static_cast<float>(here), value[row + k + 1] = static_cast<float>(there);
      if (k + 1 < knots)
        slope[row + k + 1] =
            static_cast<float>((y[(k + 1) * columns + j] - there) / (x[(k + 1) * columns + j] - here));
      if (here != there) identity[j] = 0;
    }
  }
}

template <typename T>
void finish(const Finish& by, const FinishRequest& q, T* out, unsigned threads, const std::string& architecture) {
  const Architecture* entry = find_architecture(architecture, by.precision);
  if (entry == nullptr) throw std::invalid_argument("no instruction set " + architecture);
  const Cut cut(q.people, q.n_draws, threads);
  share_tiles(cut.tiles(), threads, [&] {
    return [&, w = FinishScratch(by.width)](std::size_t tile) mutable {
      const std::size_t person = tile / cut.by_draws * cut.people, draw = tile % cut.by_draws * cut.draws;
      const std::size_t people = std::min(cut.people, q.people - person), draws = std::min(cut.draws, q.n_draws - draw);
      entry->finish_tile(by, q, w, person, people, draw, draws);
      in_units(q, w, by.width, person, people, draw, draws, out);
    };
  });
}

template void finish(const Finish&, const FinishRequest&, float*, unsigned, const std::string&);
template void finish(const Finish&, const FinishRequest&, double*, unsigned, const std::string&);

}  // namespace secondgram::cpu
