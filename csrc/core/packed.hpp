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

#include "half.hpp"

namespace secondgram {

// Number format of the factors of a matrix product. Its result is fp32 in any case.
enum class Precision { fp32, fp16, bf16 };

// Weights are packed in panels whose rows are one cache line: through wider panels, a narrow micro-kernel would step by
// strides that fall into few sets of the cache.
constexpr std::size_t kLine = 64;
// A micro-kernel takes six or eight rows; workspaces have a multiple of both, so that none reads past their end.
constexpr std::size_t kStrips = 24;
// Columns of a row of sums that are passed to the epilogue at a time, at most.
constexpr std::size_t kWidestPiece = 96;
// Up to so many columns beyond whole vectors (769 features leave one) are dot products: a vector would be mostly empty.
constexpr std::size_t kFewColumns = 4;

constexpr std::size_t padded_rows(std::size_t rows) { return (rows + kStrips - 1) / kStrips * kStrips; }

struct Free {
  void operator()(void* p) const { ::operator delete[](p, std::align_val_t(kLine)); }
};
template <typename T>
using Aligned = std::unique_ptr<T[], Free>;

// Uninitialised memory, aligned to a cache line.
template <typename T>
Aligned<T> room(std::size_t count) {
  return Aligned<T>(static_cast<T*>(::operator new[](std::max<std::size_t>(count, 1) * sizeof(T), std::align_val_t(kLine))));
}

template <typename T>
Aligned<T> zeros(std::size_t count) {
  Aligned<T> made = room<T>(count);
  std::fill_n(made.get(), count, T{});
  return made;
}

// Row-major activations [rows, columns] with rows of whole cache lines. For products in fp16 and bf16 there is a second
// copy in their operand format: fp16 has each value twice in a word, bf16 two neighbours in a word.
struct Matrix {
  std::size_t columns = 0, stride = 0;
  Aligned<float> data;
  Aligned<std::uint32_t> factors;  // null for fp32

  Matrix() = default;
  Matrix(std::size_t rows, std::size_t columns_, Precision precision = Precision::fp32)
      : columns(columns_), stride((columns_ + 15) / 16 * 16), data(zeros<float>(rows * stride)) {
    if (precision != Precision::fp32) factors = zeros<std::uint32_t>(rows * stride);
  }
  float* row(std::size_t r) { return data.get() + r * stride; }
  const float* row(std::size_t r) const { return data.get() + r * stride; }
  std::uint32_t* factors_of(std::size_t r) { return factors.get() + r * stride; }
  // All rows in the operand format of the products, floats or factors.
  template <typename Factor>
  const Factor* read_as() const {
    if constexpr (std::is_same_v<Factor, float>)
      return data.get();
    else
      return factors.get();
  }
};

// A weight [inputs, outputs] as panels. Panel p holds, cache line after cache line, its columns of
//   fp32: 16 columns of one input,   fp16: 32 columns of one input,   bf16: 16 columns of two inputs, column by column,
// the last panel, and an odd last input of bf16, filled up with zeros.
struct Packed {
  std::size_t inputs = 0, outputs = 0, columns = 0, lines = 0;  // columns of a panel, cache lines of a panel
  std::size_t few = 0;                                          // last columns, stored in `rest` instead
  Precision precision = Precision::fp32;
  Aligned<unsigned char> data;
  Aligned<float> rest;  // [few, inputs]

  Packed() = default;
  Packed(const float* weight, std::size_t inputs_, std::size_t outputs_, Precision precision_)
      : inputs(inputs_), outputs(outputs_), columns(precision_ == Precision::fp16 ? 32 : 16),
        lines(precision_ == Precision::bf16 ? (inputs_ + 1) / 2 : inputs_), precision(precision_) {
    few = outputs % columns <= kFewColumns ? outputs % columns : 0;
    data = zeros<unsigned char>(panels() * lines * kLine);
    rest = zeros<float>(few * inputs);
    for (std::size_t k = 0; k < inputs; ++k) {
      for (std::size_t j = 0; j < outputs - few; ++j) put(k, j, weight[k * outputs + j]);
      for (std::size_t j = 0; j < few; ++j) rest[j * inputs + k] = weight[k * outputs + outputs - few + j];
    }
  }
  std::size_t panels() const { return (outputs - few + columns - 1) / columns; }
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
  const Packed* weight;
};

}  // namespace secondgram
