// Memory layout of matrices and packed weights, the same for every instruction set of the CPU.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <type_traits>
#include <vector>

#include "../core/half.hpp"

namespace secondgram {

// Number format of the operands of a matrix product. Its result is fp32 in any case.
enum class Precision { fp32, fp16, bf16 };

// Weights are packed in panels whose rows are one cache line: through wider panels, a narrow micro-kernel would step by
// strides that fall into tail sets of the cache.
constexpr std::size_t kLine = 64;
// A micro-kernel takes six or eight rows; workspaces have a multiple of both, so that none reads past their end.
constexpr std::size_t kRowMultiple = 24;
// Columns of a row of sums that are passed to the epilogue at a time, at most.
constexpr std::size_t kMostEpilogueColumns = 96;
// Up to so many columns beyond whole vectors (769 features leave one) are dot products: a vector would be mostly empty.
constexpr std::size_t kMostTail = 4;

constexpr std::size_t padded_rows(std::size_t rows) { return (rows + kRowMultiple - 1) / kRowMultiple * kRowMultiple; }

struct AlignedFree {
  void operator()(void* p) const { ::operator delete[](p, std::align_val_t(kLine)); }
};
template <typename T>
using Aligned = std::unique_ptr<T[], AlignedFree>;

// Uninitialised memory, aligned to a cache line.
template <typename T>
Aligned<T> allocate(std::size_t count) {
  return Aligned<T>(static_cast<T*>(::operator new[](std::max<std::size_t>(count, 1) * sizeof(T), std::align_val_t(kLine))));
}

template <typename T>
Aligned<T> zeros(std::size_t count) {
  Aligned<T> made = allocate<T>(count);
  std::fill_n(made.get(), count, T{});
  return made;
}

// Row-major activations [rows, columns] with rows of whole cache lines. For products in fp16 and bf16 there is a second
// copy in their operand format: fp16 has each value twice in a word, bf16 two neighbours in a word.
struct Matrix {
  std::size_t columns = 0, stride = 0;
  Aligned<float> data;
  Aligned<std::uint32_t> operand;  // null for fp32

  Matrix() = default;
  Matrix(std::size_t rows, std::size_t columns_, Precision precision = Precision::fp32)
      : columns(columns_), stride((columns_ + 15) / 16 * 16), data(zeros<float>(rows * stride)) {
    if (precision != Precision::fp32) operand = zeros<std::uint32_t>(rows * stride);
  }
  float* row(std::size_t r) { return data.get() + r * stride; }
  const float* row(std::size_t r) const { return data.get() + r * stride; }
  std::uint32_t* operand_of_row(std::size_t r) { return operand.get() + r * stride; }
  // All rows as operands of the products, floats or words.
  template <typename Operand>
  const Operand* operand_as() const {
    if constexpr (std::is_same_v<Operand, float>)
      return data.get();
    else
      return operand.get();
  }
};

// A weight [inputs, outputs] as panels. Panel p holds, cache line after cache line, its columns of
//   fp32: 16 columns of one input,   fp16: 32 columns of one input,   bf16: 16 columns of two inputs, column by column,
// the last panel, and an odd last input of bf16, filled up with zeros.
struct PackedMatrix {
  std::size_t inputs = 0, outputs = 0, columns = 0, lines = 0;  // columns of a panel, cache lines of a panel
  std::size_t tail = 0;                                          // last columns, stored in `tail_weights` instead
  Precision precision = Precision::fp32;
  Aligned<unsigned char> data;
  Aligned<float> tail_weights;  // [tail, inputs]

  PackedMatrix() = default;
  PackedMatrix(const float* weight, std::size_t inputs_, std::size_t outputs_, Precision precision_)
      : inputs(inputs_), outputs(outputs_), columns(precision_ == Precision::fp16 ? 32 : 16),
        lines(precision_ == Precision::bf16 ? (inputs_ + 1) / 2 : inputs_), precision(precision_) {
    tail = outputs % columns <= kMostTail ? outputs % columns : 0;
    data = zeros<unsigned char>(panels() * lines * kLine);
    tail_weights = zeros<float>(tail * inputs);
    for (std::size_t k = 0; k < inputs; ++k) {
      for (std::size_t j = 0; j < outputs - tail; ++j) put(k, j, weight[k * outputs + j]);
      for (std::size_t j = 0; j < tail; ++j) tail_weights[j * inputs + k] = weight[k * outputs + outputs - tail + j];
    }
  }
  std::size_t panels() const { return (outputs - tail + columns - 1) / columns; }
  const unsigned char* panel(std::size_t p) const { return data.get() + p * lines * kLine; }

 private:
  void put(std::size_t k, std::size_t j, float value) {
    unsigned char* panel = data.get() + j / columns * lines * kLine;
    const std::size_t place = j % columns;
    if (precision == Precision::fp32) {
      std::memcpy(panel + k * kLine + 4 * place, &value, 4);
    } else {
      const bool whole = precision == Precision::fp16;
      const std::uint16_t bits = whole ? fp16_of(value) : bf16_of(value);
      std::memcpy(panel + (whole ? k * kLine + 2 * place : k / 2 * kLine + 4 * place + 2 * (k % 2)), &bits, 2);
    }
  }
};

// One term of a sum of products: rows of `from` times `weight`.
struct Segment {
  const Matrix* from;
  const PackedMatrix* weight;
};

}  // namespace secondgram
