// out = SiLU(scale * a + b), x / (1 + exp(-x)).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "isa.hpp"
#include "vectors.hpp"

namespace secondgram::cpu::SECONDGRAM_ISA {
namespace {

#if SECONDGRAM_LANES == 16

// Beside fp32 products to a unit or two in the last place of fp32. Else with a short series and an approximate
// reciprocal, whose errors are a fraction of that of rounding the result to operands of fewer bits.
SECONDGRAM_TARGET inline void silu(const float* a, float scale, const float* b, float* out, std::size_t count) {
  const auto all = [&](float value) SECONDGRAM_TARGET { return _mm512_set1_ps(value); };
  for (std::size_t j = 0; j < count; j += 16) {
    const __mmask16 here = first_of(count - j);
    const __m512 x = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(here, a + j), all(scale), _mm512_maskz_loadu_ps(here, b + j));
    // exp(-x) = 2^whole 2^rest with rest in [-1/2, 1/2]; Taylor series of 2^rest.
#ifdef SECONDGRAM_FOR_AVX512
    // At +-80 a logistic is 0 or 1 to fp32 precision, and its reciprocal is still a normal number.
    const __m512 y = _mm512_max_ps(_mm512_min_ps(x, all(80.0f)), all(-80.0f));
    const __m512 power = _mm512_mul_ps(y, all(-1.44269504f));
    const __m512 whole = _mm512_roundscale_ps(power, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    // 1 / ln 2 in two parts: one alone is not exact enough for a large x.
    __m512 rest = _mm512_fnmsub_ps(y, all(1.44269502f), whole);
    rest = _mm512_fnmadd_ps(y, all(1.92596303e-8f), rest);
    __m512 series = all(1.5252734e-5f);
    series = _mm512_fmadd_ps(series, rest, all(1.5403530e-4f));
    series = _mm512_fmadd_ps(series, rest, all(1.3333558e-3f));
    series = _mm512_fmadd_ps(series, rest, all(9.6181291e-3f));
#else
    const __m512 power = _mm512_mul_ps(x, all(-1.44269504f));
    const __m512 whole = _mm512_roundscale_ps(power, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m512 rest = _mm512_sub_ps(power, whole);
    __m512 series = all(9.6181291e-3f);
#endif
    series = _mm512_fmadd_ps(series, rest, all(5.5504109e-2f));
    series = _mm512_fmadd_ps(series, rest, all(2.4022651e-1f));
    series = _mm512_fmadd_ps(series, rest, all(6.9314718e-1f));
    series = _mm512_fmadd_ps(series, rest, all(1.0f));
    const __m512 below = _mm512_add_ps(_mm512_scalef_ps(series, whole), all(1.0f));
    __m512 inverse = _mm512_rcp14_ps(below);
#ifdef SECONDGRAM_FOR_AVX512
    inverse = _mm512_mul_ps(inverse, _mm512_fnmadd_ps(below, inverse, all(2.0f)));
#endif
    _mm512_mask_storeu_ps(out + j, here, _mm512_mul_ps(x, inverse));
  }
}

#else

// exp(x) to about 1 unit in the last place, for loops that the compiler vectorises. Clamped to +-60, where a logistic is 0
// or 1 to float precision: further out, quotients are denormal, which is slow.
SECONDGRAM_TARGET inline float exponential(float x) {
  x = x < -60.0f ? -60.0f : (x > 60.0f ? 60.0f : x);
  const float shifted = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: rounds to a whole number in the low bits
  const float whole = shifted - 12582912.0f;
  // ln 2 in two parts, the first of them exact in products with small whole numbers.
  const float rest = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
  float series = 1.9875691500e-4f;
  series = series * rest + 1.3981999507e-3f;
  series = series * rest + 8.3334519073e-3f;
  series = series * rest + 4.1665795894e-2f;
  series = series * rest + 1.6666665459e-1f;
  series = series * rest + 5.0000001201e-1f;
  const float fraction = series * rest * rest + rest + 1.0f;
  std::uint32_t bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  bits = (bits << 23) + 0x3f800000u;  // the low bits of `shifted` are the exponent
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return fraction * power;
}

SECONDGRAM_TARGET inline void silu(const float* a, float scale, const float* b, float* out, std::size_t count) {
  for (std::size_t j = 0; j < count; ++j) {
    const float x = scale * a[j] + b[j];
    out[j] = x / (1.0f + exponential(-x));
  }
}

#endif

}  // namespace
}  // namespace secondgram::cpu::SECONDGRAM_ISA
