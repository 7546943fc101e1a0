#include "gram.hpp"

#include <algorithm>
#include <vector>

#include "dispatch.hpp"

namespace secondgram::cpu {
namespace {

// Whatever the instruction set, a sum has eight parts. A product of two floats is exact in a double, so that it does not
// matter either whether it is fused with its sum.
constexpr std::size_t kParts = 8;
// Rows of a tile: its sums and the other factor's rows stay in registers.
constexpr std::size_t kSide = 4;
// Columns that are widened to double together, to stay in a cache, and columns that a thread takes at a time.
constexpr std::size_t kBlock = GramBlock::kColumns, kPiece = 64 * kBlock;

typedef double Doubles __attribute__((vector_size(kParts * sizeof(double)), may_alias));
// std::vector drops the alignment attribute of a vector type, not that of a struct.
struct alignas(sizeof(Doubles)) Part {
  double value[kParts];
};


// Adds the products of `a` rows with `b` rows of a block to K, row by row `size` apart; of the same rows the upper half.
template <std::size_t a, std::size_t b, bool same>
SECONDGRAM_FLAT void products(const Doubles* left, const Doubles* right, std::size_t parts, double* K, std::size_t size) {
  constexpr std::size_t kRow = kBlock / kParts;
  Doubles sum[a][b] = {};
  for (std::size_t c = 0; c < parts; ++c) {
    Doubles beside[b];
    for (std::size_t j = 0; j < b; ++j) beside[j] = right[j * kRow + c];
    for (std::size_t i = 0; i < a; ++i) {
      const Doubles here = same ? beside[i < b ? i : 0] : left[i * kRow + c];
      for (std::size_t j = same ? i : 0; j < b; ++j) sum[i][j] += here * beside[j];
    }
  }
  for (std::size_t i = 0; i < a; ++i)
    for (std::size_t j = same ? i : 0; j < b; ++j) {
      double all = 0.0;
      for (std::size_t part = 0; part < kParts; ++part) all += sum[i][j][part];
      K[i * size + j] += all;
    }
}

template <std::size_t b>
SECONDGRAM_FLAT void products(bool same, const Doubles* left, const Doubles* right, std::size_t parts, double* K,
                                std::size_t size) {
  // All rows but those of the last tile come in fours.
  if (same) return products<b, b, true>(left, right, parts, K, size);
  products<kSide, b, false>(left, right, parts, K, size);
}

// Adds the products of a block of columns to the upper half of K; `workspace` has kBlock doubles a row.
SECONDGRAM_CLONES void block(const float* J, std::size_t rows, std::size_t stride, std::size_t columns, Part* workspace,
                             double* K) {
  auto* wide = reinterpret_cast<Doubles*>(workspace);
  constexpr std::size_t kRow = kBlock / kParts;
  const std::size_t parts = (columns + kParts - 1) / kParts;
  for (std::size_t i = 0; i < rows; ++i) {
    double* to = reinterpret_cast<double*>(wide + i * kRow);
    for (std::size_t c = 0; c < columns; ++c) to[c] = static_cast<double>(J[i * stride + c]);
    for (std::size_t c = columns; c < parts * kParts; ++c) to[c] = 0.0;
  }
  for (std::size_t i = 0; i < rows; i += kSide)
    for (std::size_t j = i; j < rows; j += kSide) {
      const std::size_t b = std::min(kSide, rows - j);
      const Doubles *left = wide + i * kRow, *right = wide + j * kRow;
      double* to = K + i * rows + j;
      if (b == 1) products<1>(i == j, left, right, parts, to, rows);
      else if (b == 2) products<2>(i == j, left, right, parts, to, rows);
      else if (b == 3) products<3>(i == j, left, right, parts, to, rows);
      else products<kSide>(i == j, left, right, parts, to, rows);
    }
}

}  // namespace

struct GramBlock::Wide {
  std::vector<Part> wide;
};

GramBlock::GramBlock(std::size_t rows)
    : rows_(rows), wide_(new Wide{std::vector<Part>(rows * (kBlock / kParts))}) {}
GramBlock::~GramBlock() = default;
GramBlock::GramBlock(GramBlock&&) noexcept = default;

void GramBlock::add(const float* J, std::size_t stride, std::size_t columns, double* K) {
  block(J, rows_, stride, columns, wide_->wide.data(), K);
}

void mirror(double* K, std::size_t rows) {
  for (std::size_t i = 0; i < rows; ++i)
    for (std::size_t j = 0; j < i; ++j) K[i * rows + j] = K[j * rows + i];
}

void gram(const float* J, std::size_t rows, std::size_t columns, std::size_t stride, double* K, unsigned threads,
          Team team) {
  const std::size_t pieces = (columns + kPiece - 1) / kPiece, area = rows * rows;
  std::vector<double> sums(pieces * area, 0.0);
  parallel_for(pieces, threads, [&] {
    return [&, wide = GramBlock(rows)](std::size_t piece) mutable {
      const std::size_t end = std::min(columns, (piece + 1) * kPiece);
      for (std::size_t from = piece * kPiece; from < end; from += kBlock)
        wide.add(J + from, stride, std::min(kBlock, end - from), sums.data() + piece * area);
    };
  }, team);
  std::fill_n(K, area, 0.0);
  for (std::size_t piece = 0; piece < pieces; ++piece)
    for (std::size_t i = 0; i < area; ++i) K[i] += sums[piece * area + i];
  mirror(K, rows);
}

}  // namespace secondgram::cpu
