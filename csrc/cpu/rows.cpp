#include "rows.hpp"

#include <algorithm>
#include <vector>

#include "dispatch.hpp"
#include "parallel_for.hpp"

namespace secondgram::cpu {
namespace {

// Columns of a strip, two vectors of them, and rows whose sums stay in registers beside it.
constexpr std::size_t kWide = 8, kHigh = 6;
// Rows and strips that a thread takes at a time.
constexpr std::size_t kRowsAtOnce = 192, kStripsAtOnce = 8;
typedef double Half __attribute__((vector_size(kWide / 2 * sizeof(double)), aligned(sizeof(double)), may_alias));

template <std::size_t high>
SECONDGRAM_FLAT void block(const double* X, std::size_t inputs, const double* strip, double* out, std::size_t columns,
                           std::size_t wide) {
  Half left[high], right[high];
  for (std::size_t r = 0; r < high; ++r) left[r] = right[r] = Half{};
  for (std::size_t k = 0; k < inputs; ++k) {
    const Half here = *reinterpret_cast<const Half*>(strip + k * kWide);
    const Half beside = *reinterpret_cast<const Half*>(strip + k * kWide + kWide / 2);
#pragma GCC unroll 6
    for (std::size_t r = 0; r < high; ++r) {
      const double x = X[r * inputs + k];
      left[r] += here * x;
      right[r] += beside * x;
    }
  }
  for (std::size_t r = 0; r < high; ++r)
    for (std::size_t j = 0; j < wide; ++j) out[r * columns + j] = j < kWide / 2 ? left[r][j] : right[r][j - kWide / 2];
}

// `workspace` [inputs, kWide] takes the strip's columns of W.
SECONDGRAM_CLONES void products_of_strip(const double* X, std::size_t rows, std::size_t inputs, const double* W,
                                         std::size_t columns, std::size_t wide, double* workspace, double* out) {
  for (std::size_t k = 0; k < inputs; ++k)
    for (std::size_t j = 0; j < kWide; ++j) workspace[k * kWide + j] = j < wide ? W[k * columns + j] : 0.0;
  std::size_t r = 0;
  for (; r + kHigh <= rows; r += kHigh) block<kHigh>(X + r * inputs, inputs, workspace, out + r * columns, columns, wide);
  for (; r < rows; ++r) block<1>(X + r * inputs, inputs, workspace, out + r * columns, columns, wide);
}

}  // namespace

void row_products(const double* X, std::size_t rows, std::size_t inputs, const double* W, std::size_t columns, double* out,
                  unsigned threads) {
  const std::size_t strips = (columns + kWide - 1) / kWide;
  const std::size_t across = (strips + kStripsAtOnce - 1) / kStripsAtOnce;
  const std::size_t down = (rows + kRowsAtOnce - 1) / kRowsAtOnce;
  parallel_for(across * down, threads, [&] {
    return [&, workspace = std::vector<double>(inputs * kWide)](std::size_t tile) mutable {
      const std::size_t row = tile / across * kRowsAtOnce, count = std::min(kRowsAtOnce, rows - row);
      const std::size_t first = tile % across * kStripsAtOnce, end = std::min(strips, first + kStripsAtOnce);
      for (std::size_t strip = first; strip < end; ++strip) {
        const std::size_t column = strip * kWide;
        products_of_strip(X + row * inputs, count, inputs, W + column, columns, std::min(kWide, columns - column),
                          workspace.data(), out + row * columns + column);
      }
    };
  });
}

}  // namespace secondgram::cpu
