// Products of the rows of a matrix with one another. The statement is `gram` in secondgram/ops/gradients.py.
#pragma once

#include <cstddef>

#include "workers.hpp"

namespace secondgram::cpu {

// K [rows, rows] = J J^T for J [rows, columns], `stride` floats from row to row. Products and sums are doubles, in an order
// that depends on `columns` alone: `threads` never changes a value.
void gram(const float* J, std::size_t rows, std::size_t columns, std::size_t stride, double* K, unsigned threads,
          Team team);

}  // namespace secondgram::cpu
