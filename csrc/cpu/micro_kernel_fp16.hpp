// Micro-kernel of fp16: 32 products at a time.
//
// Sums are fp16 for a chunk of inputs and fp32 from there on. With operand of 11 bits the error of such a short sum is below
// that of operand of 8 bits (bf16).
#pragma once

#include <cstddef>
#include <cstdint>

#include "isa.hpp"
#include "matrix.hpp"
#include "micro_kernel.hpp"
#include "vectors.hpp"

#ifndef SECONDGRAM_FOR_AVX512_FP16
#error "for the instruction set of SECONDGRAM_FOR_AVX512_FP16 alone"
#endif

namespace secondgram::cpu::SECONDGRAM_ISA {
namespace {

constexpr std::size_t kColumns = 32;  // of a vector of products
using Operand = std::uint32_t;  // each value twice, so that spreading it over a vector is a plain load
constexpr std::size_t kChunk = 128;

// Values of a row from `column`, a multiple of 16, on, and zeros up to the next multiple.
SECONDGRAM_TARGET inline void round_to_operand(const float* values, std::uint32_t* operand, std::size_t column,
                                               std::size_t count) {
  for (std::size_t k = 0; k < count; k += 16) {
    const __mmask16 here = first_of(count - k);
    const __m256i halves = _mm512_cvtps_ph(_mm512_maskz_loadu_ps(here, values + k), _MM_FROUND_TO_NEAREST_INT);
    const __m512i wide = _mm512_cvtepu16_epi32(halves);
    _mm512_storeu_si512(operand + column + k, _mm512_or_si512(wide, _mm512_slli_epi32(wide, 16)));
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
  __m512h acc[kKernelRows][V];
#pragma GCC unroll 8
  for (std::size_t i = 0; i < kKernelRows; ++i)
#pragma GCC unroll 8
    for (std::size_t v = 0; v < V; ++v) acc[i][v] = _mm512_setzero_ph();
  for_lines(chunk, ahead, [&](std::size_t k) SECONDGRAM_TARGET __attribute__((always_inline)) {
    __m512h b[V];
#pragma GCC unroll 8
    for (std::size_t v = 0; v < V; ++v) b[v] = _mm512_load_ph(w + (v * lines + k) * kLine);
#pragma GCC unroll 8
    for (std::size_t i = 0; i < kKernelRows; ++i) {
      const __m512h scalar = _mm512_castsi512_ph(_mm512_set1_epi32(static_cast<int>(a[i * stride + k])));
#pragma GCC unroll 8
      for (std::size_t v = 0; v < V; ++v) acc[i][v] = _mm512_fmadd_ph(scalar, b[v], acc[i][v]);
    }
  });
#pragma GCC unroll 8
  for (std::size_t i = 0; i < kKernelRows; ++i)
#pragma GCC unroll 8
    for (std::size_t v = 0; v < V; ++v) {
      const __m512i bits = _mm512_castph_si512(acc[i][v]);
      float* to = sums + i * sums_stride + v * kColumns;
      __m512 low = _mm512_cvtph_ps(_mm512_castsi512_si256(bits));
      __m512 high = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(bits, 1));
      if (kAdd) {
        low = _mm512_add_ps(low, _mm512_loadu_ps(to));
        high = _mm512_add_ps(high, _mm512_loadu_ps(to + 16));
      }
      _mm512_storeu_ps(to, low);
      _mm512_storeu_ps(to + 16, high);
    }
}

}  // namespace
}  // namespace secondgram::cpu::SECONDGRAM_ISA
