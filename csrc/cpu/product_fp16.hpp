// Micro-kernel of fp16, included inside the namespace of AVX-512 with FP16: 32 products at a time.
//
// Sums are fp16 for a chunk of inputs and fp32 from there on. With factors of 11 bits the error of such a short sum is below
// that of factors of 8 bits (bf16).

constexpr std::size_t kColumns = 32;  // of a vector of products
using Factor = std::uint32_t;  // each value twice, so that spreading it over a vector is a plain load
constexpr std::size_t kChunk = 128;

#include "strip.hpp"

// Values of a row from `column`, a multiple of 16, on, and zeros up to the next multiple.
SECONDGRAM_TARGET inline void narrow(const float* values, std::uint32_t* factors, std::size_t column, std::size_t count) {
  for (std::size_t k = 0; k < count; k += 16) {
    const __mmask16 here = first_of(count - k);
    const __m256i halves = _mm512_cvtps_ph(_mm512_maskz_loadu_ps(here, values + k), _MM_FROUND_TO_NEAREST_INT);
    const __m512i wide = _mm512_cvtepu16_epi32(halves);
    _mm512_storeu_si512(factors + column + k, _mm512_or_si512(wide, _mm512_slli_epi32(wide, 16)));
  }
}

// kStrip rows by V vectors of columns from `column` on, added up in registers; then added to rows of `sums`, or put there.
template <std::size_t V, bool kAdd>
SECONDGRAM_TARGET void strip(const Chunk& chunk, std::size_t r, std::size_t column, float* sums, std::size_t sums_stride,
                             Ahead ahead) {
  const std::size_t stride = chunk.operand->stride, lines = chunk.operand->weight->lines;
  const Factor* a = chunk.operand->from + r * stride;
  const unsigned char* w = chunk.operand->weight->panel(column / kColumns);
  __m512h acc[kStrip][V];
#pragma GCC unroll 8
  for (std::size_t i = 0; i < kStrip; ++i)
#pragma GCC unroll 8
    for (std::size_t v = 0; v < V; ++v) acc[i][v] = _mm512_setzero_ph();
  over_lines(chunk, ahead, [&](std::size_t k) SECONDGRAM_TARGET __attribute__((always_inline)) {
    __m512h b[V];
#pragma GCC unroll 8
    for (std::size_t v = 0; v < V; ++v) b[v] = _mm512_load_ph(w + (v * lines + k) * kLine);
#pragma GCC unroll 8
    for (std::size_t i = 0; i < kStrip; ++i) {
      const __m512h scalar = _mm512_castsi512_ph(_mm512_set1_epi32(static_cast<int>(a[i * stride + k])));
#pragma GCC unroll 8
      for (std::size_t v = 0; v < V; ++v) acc[i][v] = _mm512_fmadd_ph(scalar, b[v], acc[i][v]);
    }
  });
#pragma GCC unroll 8
  for (std::size_t i = 0; i < kStrip; ++i)
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

// Multiply-adds of registers alone, as many sums as a strip has, each different: the peak rate of this instruction set.
constexpr double kFlopOfVector = 2.0 * kColumns;
SECONDGRAM_TARGET inline float multiply_adds(std::size_t rounds, float a, float b) {
  const __m512h factor = _mm512_set1_ph(static_cast<_Float16>(a)), term = _mm512_set1_ph(static_cast<_Float16>(b));
  __m512h acc[kStrip * SECONDGRAM_VECTORS];
#pragma GCC unroll 24
  for (std::size_t i = 0; i < kStrip * SECONDGRAM_VECTORS; ++i)
    acc[i] = _mm512_set1_ph(static_cast<_Float16>(a * static_cast<float>(i)));
  for (std::size_t n = 0; n < rounds; ++n)
#pragma GCC unroll 24
    for (std::size_t i = 0; i < kStrip * SECONDGRAM_VECTORS; ++i) acc[i] = _mm512_fmadd_ph(acc[i], factor, term);
  __m512h total = acc[0];
#pragma GCC unroll 24
  for (const __m512h& sum : acc) total = _mm512_add_ph(total, sum);
  return static_cast<float>(_mm512_reduce_add_ph(total));
}
