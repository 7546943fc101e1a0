// Loops common to the matrix micro-kernels. Included by product_*.hpp, which define Factor.

// A segment in the operand format of the micro-kernel.
struct Operand {
  const Factor* from;
  std::size_t stride;
  const Packed* weight;
};

inline Operand operand_of(const Segment& segment) {
  return {segment.from->read_as<Factor>(), segment.from->stride, segment.weight};
}

// Lines of a segment's weights that stay in the first-level cache while all rows pass.
struct Chunk {
  const Operand* operand;
  std::size_t first, last;
};

// Weights to prefetch into the second-level cache, a line at a time.
struct Ahead {
  const unsigned char* from;
  std::size_t step;
};

// Calls step(k) for every line of a chunk, prefetching on the way.
template <typename Step>
SECONDGRAM_TARGET SECONDGRAM_FLAT void over_lines(const Chunk& chunk, Ahead ahead, const Step& step) {
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
