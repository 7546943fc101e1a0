// The normals of fill_rounded_normals for a group of counters, 16 counters at a time in vectors of AVX-512.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "../core/philox.hpp"
#include "dispatch.hpp"
#include "noise_group.hpp"

// Function by function, as in isa.hpp.
#define SECONDGRAM_NOISE_TARGET __attribute__((target("avx512f,avx512dq,fma")))

namespace secondgram::cpu {
namespace {

// RoundKeys of the ten rounds.
struct RoundKeys {
  long long k0[10], k1[10];
  explicit RoundKeys(Key2 key) {
    for (std::uint32_t i = 0; i < 10; ++i) k0[i] = key.k0 + i * kPhiloxWeyl0, k1[i] = key.k1 + i * kPhiloxWeyl1;
  }
};

struct Words16 {
  __m512i word[4];
};

// Every product has 64 bits of its own: even counters lie in one vector, odd ones in another, in the low halves of 64 bits.
SECONDGRAM_NOISE_TARGET SECONDGRAM_FLAT Words16 words_of_16(const CounterGroup& g, std::size_t at, const RoundKeys& keys) {
  // Counter 4 t + b in place 4 b + t: from there, four features of four counters are put in order within 128 bits.
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  __m512i even[4], odd[4];
  const std::uint32_t* from[4] = {g.w0 + at, g.w1 + at, g.w2 + at, g.w3 + at};
  for (int i = 0; i < 4; ++i) {
    even[i] = _mm512_permutexvar_epi32(order, _mm512_loadu_si512(from[i]));
    odd[i] = _mm512_srli_epi64(even[i], 32);
  }
  const __m512i multiplier0 = _mm512_set1_epi64(kPhiloxMultiplier0), multiplier1 = _mm512_set1_epi64(kPhiloxMultiplier1);
  const auto round = [&](__m512i* w, __m512i k0, __m512i k1) SECONDGRAM_NOISE_TARGET {
    const __m512i p0 = _mm512_mul_epu32(w[0], multiplier0), p1 = _mm512_mul_epu32(w[2], multiplier1);
    w[0] = _mm512_ternarylogic_epi64(_mm512_srli_epi64(p1, 32), w[1], k0, 0x96);
    w[2] = _mm512_ternarylogic_epi64(_mm512_shuffle_epi32(p0, _MM_PERM_DDBB), w[3], k1, 0x96);
    w[1] = p1, w[3] = p0;
  };
#pragma GCC unroll 10
  for (int i = 0; i < 10; ++i) {
    const __m512i k0 = _mm512_set1_epi64(keys.k0[i]), k1 = _mm512_set1_epi64(keys.k1[i]);
    round(even, k0, k1);
    round(odd, k0, k1);
  }
  Words16 x;
  for (int i = 0; i < 4; ++i) x.word[i] = _mm512_mask_shuffle_epi32(even[i], 0xaaaa, odd[i], _MM_PERM_CCAA);
  return x;
}

// z0 .. z3 of the 16 counters, counter after counter.
SECONDGRAM_NOISE_TARGET SECONDGRAM_FLAT void put_in_order(const __m512* z, float* out) {
  const __m512 low01 = _mm512_unpacklo_ps(z[0], z[1]), low23 = _mm512_unpacklo_ps(z[2], z[3]);
  const __m512 high01 = _mm512_unpackhi_ps(z[0], z[1]), high23 = _mm512_unpackhi_ps(z[2], z[3]);
  const auto pairs = [&](__m512 a, __m512 b, bool high) SECONDGRAM_NOISE_TARGET {
    const __m512d first = _mm512_castps_pd(a), second = _mm512_castps_pd(b);
    return _mm512_castpd_ps(high ? _mm512_unpackhi_pd(first, second) : _mm512_unpacklo_pd(first, second));
  };
  _mm512_storeu_ps(out, pairs(low01, low23, false));
  _mm512_storeu_ps(out + 16, pairs(low01, low23, true));
  _mm512_storeu_ps(out + 32, pairs(high01, high23, false));
  _mm512_storeu_ps(out + 48, pairs(high01, high23, true));
}

// 1 / x to a unit in the last place or so, x being far from the ends of the range.
SECONDGRAM_NOISE_TARGET SECONDGRAM_FLAT __m512 reciprocal(__m512 x) {
  const __m512 rough = _mm512_rcp14_ps(x);
  return _mm512_mul_ps(rough, _mm512_fnmadd_ps(x, rough, _mm512_set1_ps(2.0f)));
}

// box_muller_float of normal_float.hpp, somewhat closer to box_muller: fused multiply-adds round less.
SECONDGRAM_NOISE_TARGET SECONDGRAM_FLAT void rounded_pair(__m512i x0, __m512i x1, __m512& first, __m512& second) {
  const auto all = [&](float value) SECONDGRAM_NOISE_TARGET { return _mm512_set1_ps(value); };
  const __m512 one = all(1.0f);
  // -ln u: below 1/2 by exponent and mantissa, above by the distance to 1.
  const __mmask16 upper = _mm512_movepi32_mask(x0);
  const __m512i nearer = _mm512_mask_xor_epi32(x0, upper, x0, _mm512_set1_epi32(-1));
  const __m512 near = _mm512_fmadd_ps(_mm512_cvtepi32_ps(nearer), all(1.0f / 4294967296.0f), all(0.5f / 4294967296.0f));
  const __m512 m = _mm512_getmant_ps(near, _MM_MANT_NORM_p75_1p5, _MM_MANT_SIGN_zero);
  // near = 2^k m
  const __m512 k = _mm512_sub_ps(_mm512_getexp_ps(near), _mm512_getexp_ps(m));
  const __m512 above = _mm512_mask_blend_ps(upper, _mm512_sub_ps(m, one), near);
  const __m512 below = _mm512_mask_blend_ps(upper, _mm512_add_ps(m, one), _mm512_sub_ps(all(2.0f), near));
  const __m512 s = _mm512_mul_ps(above, reciprocal(below)), w = _mm512_mul_ps(s, s);
  __m512 p = _mm512_fmadd_ps(w, all(1.0f / 11.0f), all(1.0f / 9.0f));
  p = _mm512_fmadd_ps(p, w, all(1.0f / 7.0f));
  p = _mm512_fmadd_ps(p, w, all(1.0f / 5.0f));
  p = _mm512_fmadd_ps(p, w, all(1.0f / 3.0f));
  p = _mm512_mul_ps(p, w);
  // Twice -ln u, the square of the radius.
  const __m512 series = _mm512_mul_ps(all(4.0f), _mm512_fmadd_ps(s, p, s));
  const __m512 square = _mm512_mask_blend_ps(upper, _mm512_fnmsub_ps(k, all(1.386294361f), series), series);
  const __m512 inverse = _mm512_rsqrt14_ps(square), rough = _mm512_mul_ps(square, inverse);
  const __m512 radius =
      _mm512_fmadd_ps(_mm512_fnmadd_ps(rough, rough, square), _mm512_mul_ps(inverse, all(0.5f)), rough);
  // Quarter turns in integers, the rest by series.
  const __m512i centred = _mm512_add_epi32(x1, _mm512_set1_epi32(0x20000000));
  const __m512i within = _mm512_and_si512(centred, _mm512_set1_epi32(0x3fffffff));
  const __m512i rest = _mm512_sub_epi32(within, _mm512_set1_epi32(0x20000000));
  constexpr float kTurn = 6.283185307f / 4294967296.0f;
  const __m512 a = _mm512_fmadd_ps(_mm512_cvtepi32_ps(rest), all(kTurn), all(0.5f * kTurn)), v = _mm512_mul_ps(a, a);
  __m512 sine = _mm512_fmadd_ps(v, all(1.0f / 362880.0f), all(-1.0f / 5040.0f));
  sine = _mm512_fmadd_ps(sine, v, all(1.0f / 120.0f));
  sine = _mm512_fmadd_ps(sine, v, all(-1.0f / 6.0f));
  sine = _mm512_fmadd_ps(_mm512_mul_ps(a, v), sine, a);
  __m512 cosine = _mm512_fmadd_ps(v, all(-1.0f / 3628800.0f), all(1.0f / 40320.0f));
  cosine = _mm512_fmadd_ps(cosine, v, all(-1.0f / 720.0f));
  cosine = _mm512_fmadd_ps(cosine, v, all(1.0f / 24.0f));
  cosine = _mm512_fmadd_ps(cosine, v, all(-0.5f));
  cosine = _mm512_fmadd_ps(cosine, v, one);
  const __mmask16 odd = _mm512_test_epi32_mask(centred, _mm512_set1_epi32(0x40000000));
  const __m512i along = _mm512_castps_si512(_mm512_mask_blend_ps(odd, cosine, sine));
  const __m512i across = _mm512_castps_si512(_mm512_mask_blend_ps(odd, sine, cosine));
  // The sign of a quarter's number is its upper bit, for the cosine that of the next one.
  const __m512i sign = _mm512_set1_epi32(static_cast<int>(0x80000000u));
  const __m512i next = _mm512_add_epi32(centred, _mm512_set1_epi32(0x40000000));
  first = _mm512_mul_ps(radius, _mm512_castsi512_ps(_mm512_ternarylogic_epi32(along, next, sign, 0x78)));
  second = _mm512_mul_ps(radius, _mm512_castsi512_ps(_mm512_ternarylogic_epi32(across, centred, sign, 0x78)));
}

SECONDGRAM_NOISE_TARGET void group_rounded_avx512(CounterGroup& g, Key2 key, float* out) {
  const RoundKeys keys(key);
  for (std::size_t at = 0; at < kGroup; at += 16) {
    const Words16 x = words_of_16(g, at, keys);
    __m512 z[4];
    rounded_pair(x.word[0], x.word[1], z[0], z[1]);
    rounded_pair(x.word[2], x.word[3], z[2], z[3]);
    put_in_order(z, out + 4 * at);
  }
}

}  // namespace
}  // namespace secondgram::cpu

#undef SECONDGRAM_NOISE_TARGET
