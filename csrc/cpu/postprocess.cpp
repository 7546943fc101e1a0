#include "postprocess.hpp"

#include <limits>
#include <stdexcept>

#include "dispatch.hpp"
#include "parallel_for.hpp"
#include "partition.hpp"

namespace secondgram::cpu {

QuantileMaps::QuantileMaps(const double* x, const double* y, std::size_t knots, std::size_t columns_) : columns(columns_) {
  while (places < knots + 1) places *= 2, ++levels;
  const std::size_t size = columns * places;
  start.resize(size), value.resize(size), slope.assign(size, 1.0f), tree.resize(size), identity.assign(columns, 1);
  for (std::size_t j = 0; j < columns; ++j) {
    const std::size_t row = j * places;
    const auto put = [&](std::size_t place, std::size_t knot) {
      start[row + place] = static_cast<float>(x[knot * columns + j]);
      value[row + place] = static_cast<float>(y[knot * columns + j]);
    };
    put(0, 0);
    for (std::size_t place = knots + 1; place < places; ++place) put(place, knots - 1);
    for (std::size_t k = 0; k < knots; ++k) {
      const double here = x[k * columns + j], there = y[k * columns + j];
      put(k + 1, k);
      if (k + 1 < knots)
        slope[row + k + 1] =
            static_cast<float>((y[(k + 1) * columns + j] - there) / (x[(k + 1) * columns + j] - here));
      if (here != there) identity[j] = 0;
    }
    for (std::size_t level = 0; level < levels; ++level) {
      const std::size_t nodes = std::size_t{1} << level, apart = places / nodes;
      for (std::size_t n = 0; n < nodes; ++n) {
        const std::size_t place = n * apart + apart / 2;
        tree[row + nodes + n] = place > knots ? std::numeric_limits<float>::infinity() : start[row + place];
      }
    }
  }
}

template <typename T>
void postprocess(const Postprocess& by, const PostprocessRequest& q, T* out, unsigned threads,
                 const std::string& architecture) {
  const Architecture* entry = find_architecture(architecture, by.precision);
  if (entry == nullptr) throw std::invalid_argument("no instruction set " + architecture);
  const Partition partition(q.people, q.n_draws, threads);
  parallel_for(partition.tiles(), threads, [&] {
    return [&, w = PostprocessWorkspace(by.width, by.precision)](std::size_t number) mutable {
      const TileRange tile = partition.tile(number);
      entry->postprocess_tile(out)(by, q, w, tile.person, tile.people, tile.draw, tile.draws, out);
    };
  });
}

template void postprocess(const Postprocess&, const PostprocessRequest&, float*, unsigned, const std::string&);
template void postprocess(const Postprocess&, const PostprocessRequest&, double*, unsigned, const std::string&);

}  // namespace secondgram::cpu
