// Parts common to the matrix micro-kernels. `Operand` is the number format in which a kernel reads rows: a float, or a
// word of two halves (matrix.hpp).
#pragma once

#include <cstddef>

#include "dispatch.hpp"
#include "isa.hpp"
#include "matrix.hpp"

namespace secondgram::cpu::SECONDGRAM_ISA {
namespace {

// A segment in the operand format of the micro-kernel.
template <typename Operand>
struct SegmentOperand {
  const Operand* from;
  std::size_t stride;
  const PackedMatrix* weight;
};

template <typename Operand>
SegmentOperand<Operand> operand_of(const Segment& segment) {
  return {segment.from->operand_as<Operand>(), segment.from->stride, segment.weight};
}

// Lines of a segment's weights that stay in the first-level cache while all rows pass.
template <typename Operand>
struct InputChunk {
  const SegmentOperand<Operand>* operand;
  std::size_t first, last;
};

// Weights to prefetch into the second-level cache, a line at a time.
struct Prefetch {
  const unsigned char* from;
  std::size_t step;
};

// Calls step(k) for every line of a chunk, prefetching on the way.
template <typename Operand, typename Step>
SECONDGRAM_TARGET SECONDGRAM_FLAT void for_lines(const InputChunk<Operand>& chunk, Prefetch ahead, const Step& step) {
  constexpr std::size_t kTogether = 4;
  std::size_t k = chunk.first;
  for (const std::size_t last = chunk.last; k + kTogether <= last; k += kTogether) {
    __builtin_prefetch(ahead.from, 0, 2);
    ahead.from += ahead.step;
#pragma GCC unroll 4
    for (std::size_t i = 0; i < kTogether; ++i) step(k + i);
  }
  for (const std::size_t last = chunk.last; k < last; ++k) step(k);
}

}  // namespace
}  // namespace secondgram::cpu::SECONDGRAM_ISA
