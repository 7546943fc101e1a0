// How matrices lie in memory: the one description that every instruction set of the CPU reads.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "half.hpp"

namespace secondgram {

// What products are made of. Sums leave a product in fp32 whatever its factors were.
enum class Precision { fp32, fp16, bf16 };

// Weights are cut into panels whose rows are one cache line: a kernel narrower than a wider panel would walk through it in
// strides that share few sets of the cache.
constexpr std::size_t kLine = 64;
// Rows are worked on in strips of six; scratch has a multiple of it, so that a strip never ends outside.
constexpr std::size_t kStrip = 6;
// Columns of a row that are finished at a time, at most.
constexpr std::size_t kWidestPiece = 128;

constexpr std::size_t padded_rows(std::size_t rows) { return (rows + kStrip - 1) / kStrip * kStrip; }

struct Free {
  void operator()(void* p) const { ::operator delete[](p, std::align_val_t(kLine)); }
};
template <typename T>
using Aligned = std::unique_ptr<T[], Free>;

// Not filled.
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

// Row-major activations [rows, columns] with rows of whole cache lines.
struct Matrix {
  std::size_t columns = 0, stride = 0;
  Aligned<float> data;

  Matrix() = default;
  Matrix(std::size_t rows, std::size_t columns_)
      : columns(columns_), stride((columns_ + 15) / 16 * 16), data(zeros<float>(rows * stride)) {}
  float* row(std::size_t r) { return data.get() + r * stride; }
  const float* row(std::size_t r) const { return data.get() + r * stride; }
};

// A weight [inputs, outputs] as panels. Panel p holds, cache line after cache line, its columns of
//   fp32: 16 columns of one input,   fp16: 32 columns of one input,   bf16: 16 columns of two inputs, column by column,
// the last panel, and an odd last input of bf16, filled up with zeros.
struct Packed {
  std::size_t inputs = 0, outputs = 0, columns = 0, lines = 0;  // columns of a panel, cache lines of a panel
  Precision precision = Precision::fp32;
  Aligned<unsigned char> data;

  Packed() = default;
  Packed(const float* weight, std::size_t inputs_, std::size_t outputs_, Precision precision_)
      : inputs(inputs_), outputs(outputs_), columns(precision_ == Precision::fp16 ? 32 : 16),
        lines(precision_ == Precision::bf16 ? (inputs_ + 1) / 2 : inputs_), precision(precision_) {
    const std::size_t panels = (outputs + columns - 1) / columns;
    data = zeros<unsigned char>(panels * lines * kLine);
    for (std::size_t k = 0; k < inputs; ++k)
      for (std::size_t j = 0; j < outputs; ++j) put(k, j, weight[k * outputs + j]);
  }
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

// What a product of up to `rows` rows needs beside its operands.
struct Scratch {
  Matrix sums;                        // [rows, kWidestPiece]
  std::vector<std::uint32_t> narrow;  // factors of fewer bits; a product makes room as it needs it

  explicit Scratch(std::size_t rows) : sums(padded_rows(rows), kWidestPiece) {}
};

// One term of a sum of products: rows of `from` times `weight`.
struct Segment {
  const Matrix* from;
  const Packed* weight;
};

}  // namespace secondgram
