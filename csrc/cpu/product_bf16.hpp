// Included inside the namespace of AVX-512 with BF16: products of bf16 in pairs, sums in fp32.

constexpr std::size_t kColumns = 16;  // of a vector of products
constexpr std::size_t kPiece = 64;

struct Operand {
  const std::uint32_t* from;  // two inputs a word
  std::size_t stride;
  const Packed* weight;
};

inline std::size_t room_for(const Segment& segment, std::size_t rows) { return padded_rows(rows) * segment.from->stride / 2; }

SECONDGRAM_TARGET inline void read_as(Operand& to, const Segment& segment, std::size_t rows,
                                      std::vector<std::uint32_t>& narrow, std::size_t& used) {
  const std::size_t stride = segment.from->stride / 2, inputs = segment.weight->inputs;
  std::uint32_t* out = narrow.data() + used;
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t k = 0; k < segment.from->stride; k += 16) {
      // What lies beyond the last column is no number to be multiplied, not even with zero.
      const std::size_t left = inputs > k ? inputs - k : 0;
      const __mmask16 seen = left >= 16 ? 0xffff : static_cast<__mmask16>((1u << left) - 1);
      const __m256bh pairs = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(seen, segment.from->row(r) + k));
      std::memcpy(out + r * stride + k / 2, &pairs, sizeof pairs);
    }
  to = {out, stride, segment.weight};
  used += room_for(segment, rows);
}

// Pairs of inputs of a chunk: what four vectors of weights have for them stays in the first-level cache.
constexpr std::size_t kChunk = 128;

// Six rows by V vectors of columns from `start` on, lines [first, last) of one segment, added up in registers; then added to
// rows of `sums`, or put there.
template <std::size_t V, bool kAdd>
SECONDGRAM_TARGET void strip(const Operand& operand, std::size_t r, std::size_t start, std::size_t first, std::size_t last,
                             float* sums, std::size_t sums_stride) {
  const std::size_t stride = operand.stride, lines = operand.weight->lines;
  const std::uint32_t* a = operand.from + r * stride;
  const unsigned char* w = operand.weight->panel(start / kColumns);
  __m512 acc[kStrip][V];
#pragma GCC unroll 8
  for (std::size_t i = 0; i < kStrip; ++i)
#pragma GCC unroll 8
    for (std::size_t v = 0; v < V; ++v) acc[i][v] = _mm512_setzero_ps();
  for (std::size_t k = first; k < last; ++k) {
    __m512bh b[V];
#pragma GCC unroll 8
    for (std::size_t v = 0; v < V; ++v) b[v] = (__m512bh)_mm512_load_si512(w + (v * lines + k) * kLine);
#pragma GCC unroll 8
    for (std::size_t i = 0; i < kStrip; ++i) {
      const __m512bh pair = (__m512bh)_mm512_set1_epi32(static_cast<int>(a[i * stride + k]));
#pragma GCC unroll 8
      for (std::size_t v = 0; v < V; ++v) acc[i][v] = _mm512_dpbf16_ps(acc[i][v], pair, b[v]);
    }
  }
#pragma GCC unroll 8
  for (std::size_t i = 0; i < kStrip; ++i)
#pragma GCC unroll 8
    for (std::size_t v = 0; v < V; ++v) {
      float* to = sums + i * sums_stride + v * kColumns;
      _mm512_storeu_ps(to, kAdd ? _mm512_add_ps(acc[i][v], _mm512_loadu_ps(to)) : acc[i][v]);
    }
}

// Multiply-adds of registers alone, as many sums as a strip has, each different: what this instruction set can do at most.
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
