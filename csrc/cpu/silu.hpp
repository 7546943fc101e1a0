// Included once per instruction set, inside its namespace: out = SiLU(scale * a + b), x / (1 + exp(-x)).

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
