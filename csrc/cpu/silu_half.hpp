// Included inside the namespace of AVX-512 for products of fewer bits: out = SiLU(scale * a + b), with a short series and
// an approximate reciprocal, whose errors are a fraction of what rounding the result to such factors costs.

SECONDGRAM_TARGET inline void silu(const float* a, float scale, const float* b, float* out, std::size_t count) {
  for (std::size_t j = 0; j < count; j += 16) {
    const __mmask16 here = count - j >= 16 ? 0xffff : static_cast<__mmask16>((1u << (count - j)) - 1);
    const __m512 x = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(here, a + j), _mm512_set1_ps(scale),
                                     _mm512_maskz_loadu_ps(here, b + j));
    // exp(-x) = 2^whole 2^rest with rest in [-1/2, 1/2]; Taylor series of 2^rest.
    const __m512 power = _mm512_mul_ps(x, _mm512_set1_ps(-1.44269504f));
    const __m512 whole = _mm512_roundscale_ps(power, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m512 rest = _mm512_sub_ps(power, whole);
    __m512 series = _mm512_set1_ps(9.6181291e-3f);
    series = _mm512_fmadd_ps(series, rest, _mm512_set1_ps(5.5504109e-2f));
    series = _mm512_fmadd_ps(series, rest, _mm512_set1_ps(2.4022651e-1f));
    series = _mm512_fmadd_ps(series, rest, _mm512_set1_ps(6.9314718e-1f));
    series = _mm512_fmadd_ps(series, rest, _mm512_set1_ps(1.0f));
    const __m512 below = _mm512_add_ps(_mm512_scalef_ps(series, whole), _mm512_set1_ps(1.0f));
    _mm512_mask_storeu_ps(out + j, here, _mm512_mul_ps(x, _mm512_rcp14_ps(below)));
  }
}
