#include "missing.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <vector>

#include "dispatch.hpp"
#include "noise.hpp"
#include "parallel_for.hpp"

namespace secondgram::cpu {
namespace {

// Whatever the instruction set, a sum has eight parts, and contraction is off in this file.
constexpr std::size_t kParts = 8;
typedef double Doubles __attribute__((vector_size(kParts * sizeof(double)), aligned(sizeof(double)), may_alias));
// People of a group that one thread takes at a time.
constexpr std::size_t kPeople = 64;

SECONDGRAM_FLAT double dot(const double* a, const double* b, std::size_t count) {
  Doubles sums = {};
  std::size_t i = 0;
  for (; i + kParts <= count; i += kParts)
    sums += *reinterpret_cast<const Doubles*>(a + i) * *reinterpret_cast<const Doubles*>(b + i);
  double all = ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
  for (; i < count; ++i) all += a[i] * b[i];
  return all;
}

// The lower root L of the cells' precision, Q_mm = L L', row by row.
SECONDGRAM_CLONES bool root_of(const double* Q, std::size_t width, const std::uint32_t* cell, std::size_t m, double* L) {
  for (std::size_t i = 0; i < m; ++i) {
    double* row = L + i * m;
    const double* from = Q + cell[i] * width;
    for (std::size_t j = 0; j < i; ++j) row[j] = (from[cell[j]] - dot(row, L + j * m, j)) / L[j * m + j];
    const double left = from[cell[i]] - dot(row, row, i);
    if (!(left > 0.0)) return false;
    row[i] = std::sqrt(left);
  }
  return true;
}

// x = -Q_mm^-1 Q_mo v_o; v holds zeros where cells are missing, `x` holds m.
SECONDGRAM_CLONES void expectation(const double* Q, std::size_t width, const std::uint32_t* cell, std::size_t m,
                                   const double* L, const double* v, double* x) {
  for (std::size_t i = 0; i < m; ++i) {
    const double pull = -dot(Q + cell[i] * width, v, width);
    x[i] = (pull - dot(L + i * m, x, i)) / L[i * m + i];
  }
  for (std::size_t i = m; i-- > 0;) {
    x[i] /= L[i * m + i];
    for (std::size_t k = 0; k < i; ++k) x[k] -= L[i * m + k] * x[i];
  }
}

// z [m, draws] normals become L'^-1 z, whose covariance is Q_mm^-1.
SECONDGRAM_CLONES void unroot(const double* L, std::size_t m, std::size_t draws, double* z) {
  for (std::size_t i = m; i-- > 0;) {
    double* here = z + i * draws;
    for (std::size_t d = 0; d < draws; ++d) here[d] /= L[i * m + i];
    for (std::size_t k = 0; k < i; ++k) {
      const double by = L[i * m + k];
      double* to = z + k * draws;
      for (std::size_t d = 0; d < draws; ++d) to[d] -= by * here[d];
    }
  }
}

struct Piece {
  std::size_t group, from, to;  // members of a group
};

std::vector<Piece> pieces(const MissingRequest& q) {
  std::vector<Piece> found;
  for (std::size_t g = 0; g < q.groups; ++g)
    for (std::int64_t from = q.members[g]; from < q.members[g + 1]; from += kPeople)
      found.push_back({g, static_cast<std::size_t>(from),
                       static_cast<std::size_t>(std::min<std::int64_t>(q.members[g + 1], from + kPeople))});
  return found;
}

// run(cells, m, L, person, scratch) for every member, the root made once a piece.
template <typename Run>
void for_members(const MissingRequest& q, unsigned threads, const Run& run) {
  const std::vector<Piece> todo = pieces(q);
  parallel_for(todo.size(), threads, [&] {
    return [&, L = std::vector<double>(), workspace = std::vector<double>()](std::size_t number) mutable {
      const Piece& piece = todo[number];
      const std::uint32_t* cell = q.cell + q.cells[piece.group];
      const std::size_t m = static_cast<std::size_t>(q.cells[piece.group + 1] - q.cells[piece.group]);
      L.resize(m * m);
      if (!root_of(q.precision, q.width, cell, m, L.data()))
        throw std::invalid_argument("the precision of missing cells is not positive definite");
      for (std::size_t member = piece.from; member < piece.to; ++member)
        run(cell, m, L.data(), static_cast<std::size_t>(q.person[member]), workspace);
    };
  });
}

}  // namespace

void fill_missing(const MissingRequest& q, double* values, unsigned threads) {
  for_members(q, threads,
              [&](const std::uint32_t* cell, std::size_t m, const double* L, std::size_t person, std::vector<double>& x) {
                double* row = values + person * q.width;
                x.resize(m);
                for (std::size_t i = 0; i < m; ++i) row[cell[i]] = 0.0;
                expectation(q.precision, q.width, cell, m, L, row, x.data());
                for (std::size_t i = 0; i < m; ++i) row[cell[i]] = x[i];
              });
}

void scatter_missing(const MissingRequest& q, const ScatterRequest& s, float* out, unsigned threads) {
  for_members(q, threads,
              [&](const std::uint32_t* cell, std::size_t m, const double* L, std::size_t person, std::vector<double>& z) {
                const std::size_t count = m * s.n_draws;
                float* to = out + static_cast<std::size_t>(s.start[person]) * s.n_draws;
                const NoiseRequest noise{s.keys + person, s.draws, 1, s.n_draws, q.width, s.seed, s.purpose, 0};
                fill_cells(noise, cell, m, to);
                z.assign(to, to + count);
                unroot(L, m, s.n_draws, z.data());
                for (std::size_t i = 0; i < count; ++i) to[i] = static_cast<float>(z[i]);
              });
}

}  // namespace secondgram::cpu
