// Micro-kernel of fp32.
#pragma once

#include <cstddef>
#include <cstdint>

#include "isa.hpp"
#include "matrix.hpp"
#include "micro_kernel.hpp"
#include "vectors.hpp"

namespace secondgram::cpu::SECONDGRAM_ISA {
namespace {

constexpr std::size_t kColumns = kLanes;  // of a vector of products
using Operand = float;

// Inputs of a chunk: their kKernelVectors vectors of weights stay in the first-level cache.
constexpr std::size_t kChunk = 32768 / (kColumns * kKernelVectors * sizeof(float));

inline void round_to_operand(const float*, std::uint32_t*, std::size_t, std::size_t) {}

// Products of kKernelRows rows with V vectors of columns from `column` on, summed in registers, then added to rows of
// `sums` or put there.
template <std::size_t V, bool kAdd>
SECONDGRAM_TARGET void micro_kernel(const InputChunk<Operand>& chunk, std::size_t r, std::size_t column, float* sums,
                                    std::size_t sums_stride, Prefetch ahead) {
  constexpr std::size_t kFloats = kLine / sizeof(float);
  const std::size_t stride = chunk.operand->stride, next_panel = chunk.operand->weight->lines * kFloats;
  const float* a = chunk.operand->from + r * stride;
  const float* w = reinterpret_cast<const float*>(chunk.operand->weight->panel(column / kFloats)) + column % kFloats;
  Vector acc[kKernelRows][V] = {};
  for_lines(chunk, ahead, [&](std::size_t k) SECONDGRAM_TARGET __attribute__((always_inline)) {
    Vector b[V];
#pragma GCC unroll 8
    for (std::size_t v = 0; v < V; ++v)
      load(b[v], w + k * kFloats + v * kLanes / kFloats * next_panel + v * kLanes % kFloats);
#pragma GCC unroll 8
    for (std::size_t i = 0; i < kKernelRows; ++i) {
      const float scalar = a[i * stride + k];
#pragma GCC unroll 8
      for (std::size_t v = 0; v < V; ++v) acc[i][v] += scalar * b[v];
    }
  });
#pragma GCC unroll 8
  for (std::size_t i = 0; i < kKernelRows; ++i)
#pragma GCC unroll 8
    for (std::size_t v = 0; v < V; ++v) {
      float* to = sums + i * sums_stride + v * kLanes;
      Vector before = {};
      if (kAdd) load(before, to);
      store(to, before + acc[i][v]);
    }
}

}  // namespace
}  // namespace secondgram::cpu::SECONDGRAM_ISA
