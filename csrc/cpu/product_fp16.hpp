// Included inside the namespace of AVX-512 with FP16: products of fp16, 32 at a time.
//
// Sums are fp16 for kChunk inputs and fp32 from there on. With factors of 11 bits the error of such a short sum is below that
// of factors of 8 bits (bf16).

constexpr std::size_t kColumns = 32;  // of a vector of products
constexpr std::size_t kPiece = 128;
constexpr std::size_t kChunk = 128;

struct Operand {
  const std::uint32_t* from;  // each value twice, so that spreading it over a vector is a plain load
  std::size_t stride;
  const Packed* weight;
};

inline std::size_t room_for(const Segment& segment, std::size_t rows) { return padded_rows(rows) * segment.from->stride; }

SECONDGRAM_TARGET inline void read_as(Operand& to, const Segment& segment, std::size_t rows,
                                      std::vector<std::uint32_t>& narrow, std::size_t& used) {
  const std::size_t stride = segment.from->stride;
  std::uint32_t* out = narrow.data() + used;
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t k = 0; k < stride; k += 16) {
      const __m256i halves = _mm512_cvtps_ph(_mm512_loadu_ps(segment.from->row(r) + k), _MM_FROUND_TO_NEAREST_INT);
      const __m512i wide = _mm512_cvtepu16_epi32(halves);
      _mm512_storeu_si512(out + r * stride + k, _mm512_or_si512(wide, _mm512_slli_epi32(wide, 16)));
    }
  to = {out, stride, segment.weight};
  used += room_for(segment, rows);
}

// Six rows by V vectors of columns from `start` on, lines [first, last) of one segment, added up in registers; then added to
// rows of `sums`, or put there.
template <std::size_t V, bool kAdd>
SECONDGRAM_TARGET void strip(const Operand& operand, std::size_t r, std::size_t start, std::size_t first, std::size_t last,
                             float* sums, std::size_t sums_stride) {
  const std::size_t stride = operand.stride, lines = operand.weight->lines;
  const std::uint32_t* a = operand.from + r * stride;
  const unsigned char* w = operand.weight->panel(start / kColumns);
  __m512h acc[kStrip][V];
#pragma GCC unroll 8
  for (std::size_t i = 0; i < kStrip; ++i)
#pragma GCC unroll 8
    for (std::size_t v = 0; v < V; ++v) acc[i][v] = _mm512_setzero_ph();
  for (std::size_t k = first; k < last; ++k) {
    __m512h b[V];
#pragma GCC unroll 8
    for (std::size_t v = 0; v < V; ++v) b[v] = _mm512_load_ph(w + (v * lines + k) * kLine);
#pragma GCC unroll 8
    for (std::size_t i = 0; i < kStrip; ++i) {
      const __m512h scalar = _mm512_castsi512_ph(_mm512_set1_epi32(static_cast<int>(a[i * stride + k])));
#pragma GCC unroll 8
      for (std::size_t v = 0; v < V; ++v) acc[i][v] = _mm512_fmadd_ph(scalar, b[v], acc[i][v]);
    }
  }
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

// Multiply-adds of registers alone, as many sums as a strip has, each different: what this instruction set can do at most.
constexpr double kFlopOfVector = 2.0 * kColumns;
SECONDGRAM_TARGET inline float multiply_adds(std::size_t rounds, float a, float b) {
  const __m512h factor = _mm512_set1_ph(static_cast<_Float16>(a)), term = _mm512_set1_ph(static_cast<_Float16>(b));
  __m512h acc[kStrip * SECONDGRAM_VECTORS];
#pragma GCC unroll 24
  for (std::size_t i = 0; i < kStrip * SECONDGRAM_VECTORS; ++i) acc[i] = _mm512_set1_ph(static_cast<_Float16>(a * static_cast<float>(i)));
  for (std::size_t n = 0; n < rounds; ++n)
#pragma GCC unroll 24
    for (std::size_t i = 0; i < kStrip * SECONDGRAM_VECTORS; ++i) acc[i] = _mm512_fmadd_ph(acc[i], factor, term);
  __m512h total = acc[0];
#pragma GCC unroll 24
  for (const __m512h& sum : acc) total = _mm512_add_ph(total, sum);
  return static_cast<float>(_mm512_reduce_add_ph(total));
}
