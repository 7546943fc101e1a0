// Products of rows with one matrix, each row independent of the others. The statement is secondgram/ops/tiles.py.
#pragma once

#include <cstddef>

namespace secondgram::cpu {

// out [rows, columns] = X [rows, inputs] W [inputs, columns]. Every number is the sum over the inputs in their order, in
// every company, and each product is fused with its sum wherever the processor can (x86-64 since AVX2, ARM).
void row_products(const double* X, std::size_t rows, std::size_t inputs, const double* W, std::size_t columns, double* out,
                  unsigned threads);

}  // namespace secondgram::cpu
