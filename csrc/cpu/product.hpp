// Included once per instruction set, inside its namespace, after a product_*.hpp: the walk of a product over rows and
// columns, SECONDGRAM_VECTORS vectors of columns at a time so that all sums stay in registers.

constexpr std::size_t kSpan = kColumns * SECONDGRAM_VECTORS;
static_assert(kPiece % kSpan == 0 && kPiece <= kWidestPiece, "pieces are made of whole spans");

struct Arch : Elementwise {
  // Rows of sums over one or two segments, given to `finish` a piece of a row at a time.
  template <typename Finish>
  SECONDGRAM_TARGET static void product(const Segment* segments, std::size_t n_segments, std::size_t rows,
                                        std::size_t columns, Scratch& scratch, const Finish& finish) {
    Operand operands[2];
    std::size_t used = 0, wanted = 0;
    for (std::size_t s = 0; s < n_segments; ++s) wanted += room_for(segments[s], rows);
    if (scratch.narrow.size() < wanted) scratch.narrow.resize(wanted);
    for (std::size_t s = 0; s < n_segments; ++s) read_as(operands[s], segments[s], rows, scratch.narrow, used);
    for (std::size_t start = 0; start < columns; start += kPiece) {
      const std::size_t count = std::min(kPiece, columns - start);
      for (std::size_t part = 0; part < count; part += kSpan) {
        const std::size_t vectors = (std::min(kSpan, count - part) + kColumns - 1) / kColumns;
        bool add = false;
        for (std::size_t s = 0; s < n_segments; ++s) {
          const std::size_t lines = operands[s].weight->lines;
          for (std::size_t first = 0; first < lines; first += kChunk, add = true)
            for (std::size_t r = 0; r < rows; r += kStrip)
              (add ? strip_of<true> : strip_of<false>)(vectors, operands[s], r, start + part, first,
                                                       std::min(first + kChunk, lines), scratch.sums.row(r) + part,
                                                       scratch.sums.stride);
        }
      }
      for (std::size_t r = 0; r < rows; ++r) finish(r, start, count, scratch.sums.row(r));
    }
  }

 private:
  // The last columns of a matrix may need fewer vectors.
  template <bool kAdd>
  SECONDGRAM_TARGET static void strip_of(std::size_t vectors, const Operand& operand, std::size_t r, std::size_t start,
                                         std::size_t first, std::size_t last, float* sums, std::size_t stride) {
    if (vectors == SECONDGRAM_VECTORS) return strip<SECONDGRAM_VECTORS, kAdd>(operand, r, start, first, last, sums, stride);
#if SECONDGRAM_VECTORS > 2
    if (vectors == 3) return strip<3, kAdd>(operand, r, start, first, last, sums, stride);
    if (vectors == 2) return strip<2, kAdd>(operand, r, start, first, last, sums, stride);
#endif
    strip<1, kAdd>(operand, r, start, first, last, sums, stride);
  }
};
