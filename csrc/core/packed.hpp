// How matrices lie in memory: the one description that every backend reads.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

namespace secondgram {

// Weights are cut into panels of this many columns, a cache line a row: a kernel narrower than a wider panel would walk
// through it in strides that share few sets of the cache. There are panels for whole spans of columns, the last filled up
// with zeros.
constexpr std::size_t kPanel = 16;
constexpr std::size_t kWidestSpan = 64;
// Rows are worked on in strips of six; scratch has a multiple of it, so that a strip never ends outside.
constexpr std::size_t kStrip = 6;
constexpr std::size_t kAlign = 64;

constexpr std::size_t padded_rows(std::size_t rows) { return (rows + kStrip - 1) / kStrip * kStrip; }

struct Free {
  void operator()(float* p) const { ::operator delete[](p, std::align_val_t(kAlign)); }
};
using Floats = std::unique_ptr<float[], Free>;

inline Floats zeros(std::size_t count) {
  Floats made(static_cast<float*>(::operator new[](std::max<std::size_t>(count, 1) * sizeof(float), std::align_val_t(kAlign))));
  std::fill_n(made.get(), count, 0.0f);
  return made;
}

// Row-major activations [rows, columns] with rows of whole cache lines.
struct Matrix {
  std::size_t columns = 0, stride = 0;
  Floats data;

  Matrix() = default;
  Matrix(std::size_t rows, std::size_t columns_)
      : columns(columns_), stride((columns_ + kPanel - 1) / kPanel * kPanel), data(zeros(rows * stride)) {}
  float* row(std::size_t r) { return data.get() + r * stride; }
  const float* row(std::size_t r) const { return data.get() + r * stride; }
};

// A weight [inputs, outputs] as panels: panel p holds, input after input, its 16 columns.
struct Packed {
  std::size_t inputs = 0, outputs = 0;
  Floats data;

  Packed() = default;
  Packed(const float* weight, std::size_t inputs_, std::size_t outputs_) : inputs(inputs_), outputs(outputs_) {
    data = zeros((outputs + kWidestSpan - 1) / kWidestSpan * kWidestSpan * inputs);
    for (std::size_t p = 0; p * kPanel < outputs; ++p)
      for (std::size_t k = 0; k < inputs; ++k)
        std::copy_n(weight + k * outputs + p * kPanel, std::min(kPanel, outputs - p * kPanel),
                    data.get() + (p * inputs + k) * kPanel);
  }
  const float* panel(std::size_t p) const { return data.get() + p * inputs * kPanel; }
};

// One term of a sum of products: rows of `from` times `weight`.
struct Segment {
  const Matrix* from;
  const Packed* weight;
};

}  // namespace secondgram
