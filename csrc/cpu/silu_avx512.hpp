// Included inside the namespaces of AVX-512: out = SiLU(scale * a + b), x / (1 + exp(-x)).
//
// With SECONDGRAM_LONG_SILU to a unit or two in the last place of fp32. Else with a short series and an approximate
// reciprocal, whose errors are a fraction of what rounding the result to factors of fewer bits costs.

SECONDGRAM_TARGET inline void silu(const float* a, float scale, const float* b, float* out, std::size_t count) {
  const auto all = [&](float value) SECONDGRAM_TARGET { return _mm512_set1_ps(value); };
  for (std::size_t j = 0; j < count; j += 16) {
    const __mmask16 here = first_of(count - j);
    const __m512 x = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(here, a + j), all(scale), _mm512_maskz_loadu_ps(here, b + j));
    // exp(-x) = 2^whole 2^rest with rest in [-1/2, 1/2]; Taylor series of 2^rest.
#ifdef SECONDGRAM_LONG_SILU
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
#ifdef SECONDGRAM_LONG_SILU
    inverse = _mm512_mul_ps(inverse, _mm512_fnmadd_ps(below, inverse, all(2.0f)));
#endif
    _mm512_mask_storeu_ps(out + j, here, _mm512_mul_ps(x, inverse));
  }
}
