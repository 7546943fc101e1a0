// Micro-kernel of bf16: pairs of products, sums in fp32.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "isa.hpp"
#include "matrix.hpp"
#include "micro_kernel.hpp"
#include "vectors.hpp"

#ifndef SECONDGRAM_FOR_AVX512_BF16
#error "for the instruction set of SECONDGRAM_FOR_AVX512_BF16 alone"
#endif

namespace secondgram::cpu::SECONDGRAM_ISA {
namespace {

constexpr std::size_t kColumns = 16;  // of a vector of products
using Operand = std::uint32_t;  // two inputs

// Pairs of inputs of a chunk: their kKernelVectors vectors of weights stay in the first-level cache.
constexpr std::size_t kChunk = 32768 / (kLine * kKernelVectors);

// Values of a row from `column`, a multiple of 16, on, and zeros up to the next multiple.
SECONDGRAM_TARGET inline void round_to_operand(const float* values, std::uint32_t* operand, std::size_t column,
                                               std::size_t count) {
  for (std::size_t k = 0; k < count; k += 16) {
    const __mmask16 here = first_of(count - k);
    const __m256bh pairs = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(here, values + k));
    std::memcpy(operand + (column + k) / 2, &pairs, sizeof pairs);
  }
}

// Products of kKernelRows rows with V vectors of columns from `column` on, summed in registers, then added to rows of
// `sums` or put there.
template <std::size_t V, bool kAdd>
SECONDGRAM_TARGET void micro_kernel(const InputChunk<Operand>& chunk, std::size_t r, std::size_t column, float* sums,
                                    std::size_t sums_stride, Prefetch ahead) {
  const std::size_t stride = chunk.operand->stride, lines = chunk.operand->weight->lines;
  const Operand* a = chunk.operand->from + r * stride;
  const unsigned char* w = chunk.operand->weight->panel(column / kColumns);
  __m512 acc[kKernelRows][V];
#pragma GCC unroll 8
  for (std::size_t i = 0; i < kKernelRows; ++i)
#pragma GCC unroll 8
    for (std::size_t v = 0; v < V; ++v) acc[i][v] = _mm512_setzero_ps();
  for_lines(chunk, ahead, [&](std::size_t k) SECONDGRAM_TARGET __attribute__((always_inline)) {
    __m512bh b[V];
#pragma GCC unroll 8
    for (std::size_t v = 0; v < V; ++v) b[v] = (__m512bh)_mm512_load_si512(w + (v * lines + k) * kLine);
#pragma GCC unroll 8
    for (std::size_t i = 0; i < kKernelRows; ++i) {
      const __m512bh pair = (__m512bh)_mm512_set1_epi32(static_cast<int>(a[i * stride + k]));
#pragma GCC unroll 8
      for (std::size_t v = 0; v < V; ++v) acc[i][v] = _mm512_dpbf16_ps(acc[i][v], pair, b[v]);
    }
  });
#pragma GCC unroll 8
  for (std::size_t i = 0; i < kKernelRows; ++i)
#pragma GCC unroll 8
    for (std::size_t v = 0; v < V; ++v) {
      float* to = sums + i * sums_stride + v * kColumns;
      _mm512_storeu_ps(to, kAdd ? _mm512_add_ps(acc[i][v], _mm512_loadu_ps(to)) : acc[i][v]);
    }
}

}  // namespace
}  // namespace secondgram::cpu::SECONDGRAM_ISA
