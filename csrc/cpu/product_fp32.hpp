// Included once per instruction set, inside its namespace: products of fp32.

constexpr std::size_t kColumns = kLanes;  // of a vector of products
constexpr std::size_t kPiece = 64;

// A segment as the strips read it.
struct Operand {
  const float* from;
  std::size_t stride;
  const Packed* weight;
};

inline std::size_t room_for(const Segment&, std::size_t) { return 0; }

inline void read_as(Operand& to, const Segment& segment, std::size_t, std::vector<std::uint32_t>&, std::size_t&) {
  to = {segment.from->row(0), segment.from->stride, segment.weight};
}

// Inputs of a chunk: what SECONDGRAM_VECTORS vectors of weights have for them stays in the first-level cache.
constexpr std::size_t kChunk = 32768 / (kColumns * SECONDGRAM_VECTORS * sizeof(float));

// Six rows by V vectors of columns from `start` on, lines [first, last) of one segment, added up in registers; then added to
// rows of `sums`, or put there.
template <std::size_t V, bool kAdd>
SECONDGRAM_TARGET void strip(const Operand& operand, std::size_t r, std::size_t start, std::size_t first, std::size_t last,
                             float* sums, std::size_t sums_stride) {
  constexpr std::size_t kFloats = kLine / sizeof(float);
  const std::size_t stride = operand.stride, next_panel = operand.weight->lines * kFloats;
  const float* a = operand.from + r * stride;
  const float* w = reinterpret_cast<const float*>(operand.weight->panel(start / kFloats)) + start % kFloats;
  Vector acc[kStrip][V] = {};
  for (std::size_t k = first; k < last; ++k) {
    Vector b[V];
#pragma GCC unroll 8
    for (std::size_t v = 0; v < V; ++v)
      load(b[v], w + k * kFloats + v * kLanes / kFloats * next_panel + v * kLanes % kFloats);
#pragma GCC unroll 8
    for (std::size_t i = 0; i < kStrip; ++i) {
      const float scalar = a[i * stride + k];
#pragma GCC unroll 8
      for (std::size_t v = 0; v < V; ++v) acc[i][v] += scalar * b[v];
    }
  }
#pragma GCC unroll 8
  for (std::size_t i = 0; i < kStrip; ++i)
#pragma GCC unroll 8
    for (std::size_t v = 0; v < V; ++v) {
      float* to = sums + i * sums_stride + v * kLanes;
      Vector before = {};
      if (kAdd) load(before, to);
      store(to, before + acc[i][v]);
    }
}

// Multiply-adds of registers alone, as many sums as a strip has, each different: what this instruction set can do at most.
constexpr double kFlopOfVector = 2.0 * kColumns;
SECONDGRAM_TARGET inline float multiply_adds(std::size_t rounds, float a, float b) {
  const Vector factor = Vector{} + a, term = Vector{} + b;
  Vector acc[kStrip * SECONDGRAM_VECTORS];
#pragma GCC unroll 24
  for (std::size_t i = 0; i < kStrip * SECONDGRAM_VECTORS; ++i) acc[i] = Vector{} + a * static_cast<float>(i);
  for (std::size_t n = 0; n < rounds; ++n)
#pragma GCC unroll 24
    for (std::size_t i = 0; i < kStrip * SECONDGRAM_VECTORS; ++i) acc[i] = acc[i] * factor + term;
  Vector total = {};
  for (const Vector& sum : acc) total += sum;
  return total[0];
}
