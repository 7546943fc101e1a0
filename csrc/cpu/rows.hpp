// Products of rows with one matrix, each row independent of the others. Reference implementation: `matmul` in
// secondgram/ops/row_tiles.py.
#pragma once

#include <cstddef>

namespace secondgram::cpu {

// out [rows, columns] = X [rows, inputs] W [inputs, columns]. Every sum runs over the inputs in order, whatever the other
// rows and columns, and each product is fused with its sum where the processor can (x86-64 since AVX2, ARM).
void row_products(const double* X, std::size_t rows, std::size_t inputs, const double* W, std::size_t columns, double* out,
                  unsigned threads);

}  // namespace secondgram::cpu
