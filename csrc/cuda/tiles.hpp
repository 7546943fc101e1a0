// Memory layout of matrices on a GPU, the same for packing, kernels and their emulation.
//
// Everything is cut into squares of 64 rows and 64 columns of bfloat16, 8 KiB each, filled up with zeros:
// - activations [rows, width]: square (row / 64, column / 64) is number row / 64 * panels + column / 64;
// - weights [inputs, outputs], transposed: a square's rows are outputs and its columns are inputs, and
//   square (output / 64, input / 64) is number output / 64 * (inputs in squares) + input / 64.
// A row of a square takes 128 bytes. Its eight fragments of 16 bytes are permuted by the row, so that the same fragment of
// eight neighbouring rows lies in all 32 banks of shared memory; the tensor cores of sm_90 call this order the 128-byte
// swizzle. A square is therefore one linear copy, from global memory to where it is multiplied.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "../core/half.hpp"

namespace secondgram {

constexpr std::uint32_t kSide = 64;
constexpr std::uint32_t kSquareBytes = 2 * kSide * kSide;

// Squares that hold `count` rows or columns.
SECONDGRAM_HD constexpr std::uint32_t squares_of(std::uint64_t count) {
  return static_cast<std::uint32_t>((count + kSide - 1) / kSide);
}

// Byte offset inside a square: row and column in [0, 64).
SECONDGRAM_HD constexpr std::uint32_t in_square(std::uint32_t row, std::uint32_t column) {
  return row * 128u + (((column >> 3) ^ (row & 7u)) << 4) + ((column & 7u) << 1);
}

// Units of one read or write: sixteen bytes, eight columns of a row of a square; or two neighbouring floats.
struct alignas(16) Sixteen {
  std::uint32_t w0, w1, w2, w3;
};
struct alignas(8) Two {
  float first, second;
};

// Two neighbouring columns as one word, the first in the low half.
SECONDGRAM_HD inline std::uint32_t bf16_pair(float first, float second) {
#ifdef __CUDA_ARCH__
  std::uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
  return pair;
#else
  return bf16_of(first) | static_cast<std::uint32_t>(bf16_of(second)) << 16;
#endif
}

// A weight [inputs, outputs] into its squares, which hold zeros before. `first` is the square column where its inputs
// begin and `panels` the number of square columns: weights that are multiplied in one sum share their rows of squares.
inline void pack_weight(const float* weight, std::size_t inputs, std::size_t outputs, std::uint32_t first,
                        std::uint32_t panels, unsigned char* squares) {
  for (std::size_t k = 0; k < inputs; ++k)
    for (std::size_t n = 0; n < outputs; ++n) {
      const std::size_t square = n / kSide * panels + first + k / kSide;
      const std::uint16_t value = bf16_of(weight[k * outputs + n]);
      std::memcpy(squares + square * kSquareBytes + in_square(n % kSide, k % kSide), &value, sizeof value);
    }
}

}  // namespace secondgram
