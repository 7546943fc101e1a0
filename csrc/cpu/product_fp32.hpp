// Micro-kernel of fp32, included once per instruction set, inside its namespace.

constexpr std::size_t kColumns = kLanes;  // of a vector of products
using Factor = float;

// Inputs of a chunk: their SECONDGRAM_VECTORS vectors of weights stay in the first-level cache.
constexpr std::size_t kChunk = 32768 / (kColumns * SECONDGRAM_VECTORS * sizeof(float));

#include "strip.hpp"

inline void narrow(const float*, std::uint32_t*, std::size_t, std::size_t) {}

// kStrip rows by V vectors of columns from `column` on, added up in registers; then added to rows of `sums`, or put there.
template <std::size_t V, bool kAdd>
SECONDGRAM_TARGET void strip(const Chunk& chunk, std::size_t r, std::size_t column, float* sums, std::size_t sums_stride,
                             Ahead ahead) {
  constexpr std::size_t kFloats = kLine / sizeof(float);
  const std::size_t stride = chunk.operand->stride, next_panel = chunk.operand->weight->lines * kFloats;
  const float* a = chunk.operand->from + r * stride;
  const float* w = reinterpret_cast<const float*>(chunk.operand->weight->panel(column / kFloats)) + column % kFloats;
  Vector acc[kStrip][V] = {};
  over_lines(chunk, ahead, [&](std::size_t k) SECONDGRAM_TARGET __attribute__((always_inline)) {
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
  });
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

// Multiply-adds of registers alone, as many sums as a strip has, each different: the peak rate of this instruction set.
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
