// Gram matrix of the rows of a matrix. Reference implementation: `gram` in secondgram/ops/gradients.py.
#pragma once

#include <cstddef>
#include <memory>

#include "parallel_for.hpp"

namespace secondgram::cpu {

// K [rows, rows] = J J^T for J [rows, columns], `stride` floats from row to row. Products and sums are doubles, in an order
// that depends on `columns` alone: `threads` never changes a value.
void gram(const float* J, std::size_t rows, std::size_t columns, std::size_t stride, double* K, unsigned threads,
          Team team);

// Gram matrix by blocks of columns, for data that is in a cache already.
class GramBlock {
 public:
  static constexpr std::size_t kColumns = 512;

  explicit GramBlock(std::size_t rows);
  ~GramBlock();
  GramBlock(GramBlock&&) noexcept;
  // Adds the products of J [rows, columns], at most kColumns, to the upper half of K.
  void add(const float* J, std::size_t stride, std::size_t columns, double* K);

 private:
  struct Wide;
  std::size_t rows_;
  std::unique_ptr<Wide> wide_;
};

// The lower half of K [rows, rows] like the upper one.
void mirror(double* K, std::size_t rows);

}  // namespace secondgram::cpu
