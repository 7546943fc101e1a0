// Micro-kernel of bf16, included inside the namespace of AVX-512 with BF16: pairs of products, sums in fp32.

constexpr std::size_t kColumns = 16;  // of a vector of products
using Factor = std::uint32_t;  // two inputs

// Pairs of inputs of a chunk: their SECONDGRAM_VECTORS vectors of weights stay in the first-level cache.
constexpr std::size_t kChunk = 32768 / (kLine * SECONDGRAM_VECTORS);

#include "strip.hpp"

// Values of a row from `column`, a multiple of 16, on, and zeros up to the next multiple.
SECONDGRAM_TARGET inline void narrow(const float* values, std::uint32_t* factors, std::size_t column, std::size_t count) {
  for (std::size_t k = 0; k < count; k += 16) {
    const __mmask16 here = first_of(count - k);
    const __m256bh pairs = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(here, values + k));
    std::memcpy(factors + (column + k) / 2, &pairs, sizeof pairs);
  }
}

// kStrip rows by V vectors of columns from `column` on, added up in registers; then added to rows of `sums`, or put there.
template <std::size_t V, bool kAdd>
SECONDGRAM_TARGET void strip(const Chunk& chunk, std::size_t r, std::size_t column, float* sums, std::size_t sums_stride,
                             Ahead ahead) {
  const std::size_t stride = chunk.operand->stride, lines = chunk.operand->weight->lines;
  const Factor* a = chunk.operand->from + r * stride;
  const unsigned char* w = chunk.operand->weight->panel(column / kColumns);
  __m512 acc[kStrip][V];
#pragma GCC unroll 8
  for (std::size_t i = 0; i < kStrip; ++i)
#pragma GCC unroll 8
    for (std::size_t v = 0; v < V; ++v) acc[i][v] = _mm512_setzero_ps();
  over_lines(chunk, ahead, [&](std::size_t k) SECONDGRAM_TARGET __attribute__((always_inline)) {
    __m512bh b[V];
#pragma GCC unroll 8
    for (std::size_t v = 0; v < V; ++v) b[v] = (__m512bh)_mm512_load_si512(w + (v * lines + k) * kLine);
#pragma GCC unroll 8
    for (std::size_t i = 0; i < kStrip; ++i) {
      const __m512bh pair = (__m512bh)_mm512_set1_epi32(static_cast<int>(a[i * stride + k]));
#pragma GCC unroll 8
      for (std::size_t v = 0; v < V; ++v) acc[i][v] = _mm512_dpbf16_ps(acc[i][v], pair, b[v]);
    }
  });
#pragma GCC unroll 8
  for (std::size_t i = 0; i < kStrip; ++i)
#pragma GCC unroll 8
    for (std::size_t v = 0; v < V; ++v) {
      float* to = sums + i * sums_stride + v * kColumns;
      _mm512_storeu_ps(to, kAdd ? _mm512_add_ps(acc[i][v], _mm512_loadu_ps(to)) : acc[i][v]);
    }
}

// Multiply-adds of registers alone, as many sums as a strip has, each different: the peak rate of this instruction set.
constexpr double kFlopOfVector = 4.0 * kColumns;
SECONDGRAM_TARGET inline float multiply_adds(std::size_t rounds, float a, float b) {
  const __m512bh factor = (__m512bh)_mm512_set1_epi32(static_cast<int>(bf16_of(a) * 0x10001u));
  const __m512bh term = (__m512bh)_mm512_set1_epi32(static_cast<int>(bf16_of(b) * 0x10001u));
  __m512 acc[kStrip * SECONDGRAM_VECTORS];
#pragma GCC unroll 24
  for (std::size_t i = 0; i < kStrip * SECONDGRAM_VECTORS; ++i) acc[i] = _mm512_set1_ps(a * static_cast<float>(i));
  for (std::size_t n = 0; n < rounds; ++n)
#pragma GCC unroll 24
    for (std::size_t i = 0; i < kStrip * SECONDGRAM_VECTORS; ++i) acc[i] = _mm512_dpbf16_ps(acc[i], factor, term);
  __m512 total = acc[0];
#pragma GCC unroll 24
  for (const __m512& sum : acc) total = _mm512_add_ps(total, sum);
  return _mm512_reduce_add_ps(total);
}
