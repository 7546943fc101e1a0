// Transpose of a tile, by blocks of 16 columns.
#pragma once

#include <cstddef>

#include "isa.hpp"
#include "partition.hpp"

namespace secondgram::cpu::SECONDGRAM_ISA {
namespace {

#if SECONDGRAM_LANES == 16

SECONDGRAM_TARGET inline void transpose_16(const float* from, std::size_t stride, float* to, std::size_t to_stride) {
  __m512 a[16], b[16];
  for (int r = 0; r < 16; ++r) a[r] = _mm512_loadu_ps(from + r * stride);
  // Pairs of rows, then fours within 128 bits: b[4 i + c] has column c of each 128 bits of rows 4 i .. 4 i + 3.
  for (int i = 0; i < 16; i += 4) {
    const __m512d low01 = _mm512_castps_pd(_mm512_unpacklo_ps(a[i], a[i + 1]));
    const __m512d low23 = _mm512_castps_pd(_mm512_unpacklo_ps(a[i + 2], a[i + 3]));
    const __m512d high01 = _mm512_castps_pd(_mm512_unpackhi_ps(a[i], a[i + 1]));
    const __m512d high23 = _mm512_castps_pd(_mm512_unpackhi_ps(a[i + 2], a[i + 3]));
    b[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(low01, low23));
    b[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low01, low23));
    b[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(high01, high23));
    b[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(high01, high23));
  }
  // Then the 128 bits of four such vectors.
  for (int c = 0; c < 4; ++c) {
    const __m512 even0 = _mm512_shuffle_f32x4(b[c], b[4 + c], 0x88), odd0 = _mm512_shuffle_f32x4(b[c], b[4 + c], 0xdd);
    const __m512 even1 = _mm512_shuffle_f32x4(b[8 + c], b[12 + c], 0x88);
    const __m512 odd1 = _mm512_shuffle_f32x4(b[8 + c], b[12 + c], 0xdd);
    _mm512_storeu_ps(to + c * to_stride, _mm512_shuffle_f32x4(even0, even1, 0x88));
    _mm512_storeu_ps(to + (4 + c) * to_stride, _mm512_shuffle_f32x4(odd0, odd1, 0x88));
    _mm512_storeu_ps(to + (8 + c) * to_stride, _mm512_shuffle_f32x4(even0, even1, 0xdd));
    _mm512_storeu_ps(to + (12 + c) * to_stride, _mm512_shuffle_f32x4(odd0, odd1, 0xdd));
  }
}

static_assert(kTileRows % 16 == 0, "tiles are transposed in whole blocks");

// to[j][r] = from[r][j] for 16 columns, and rows up to the next multiple of 16, which both hold.
SECONDGRAM_TARGET inline void transpose(const float* from, std::size_t stride, std::size_t rows, float* to,
                                   std::size_t to_stride) {
  for (std::size_t r = 0; r < rows; r += 16) transpose_16(from + r * stride, stride, to + r, to_stride);
}

SECONDGRAM_TARGET inline void transpose_back(const float* from, std::size_t stride, std::size_t rows, float* to,
                                        std::size_t to_stride) {
  for (std::size_t r = 0; r < rows; r += 16) transpose_16(from + r, stride, to + r * to_stride, to_stride);
}

#else

// to[j][r] = from[r][j] for 16 columns and at least `rows` rows.
SECONDGRAM_TARGET inline void transpose(const float* from, std::size_t stride, std::size_t rows, float* to,
                                   std::size_t to_stride) {
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t j = 0; j < 16; ++j) to[j * to_stride + r] = from[r * stride + j];
}

SECONDGRAM_TARGET inline void transpose_back(const float* from, std::size_t stride, std::size_t rows, float* to,
                                        std::size_t to_stride) {
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t j = 0; j < 16; ++j) to[r * to_stride + j] = from[j * stride + r];
}

#endif

}  // namespace
}  // namespace secondgram::cpu::SECONDGRAM_ISA
