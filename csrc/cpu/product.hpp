// Included once per instruction set, inside its namespace, after the micro-kernel (product_*.hpp): loops of a matrix
// product over rows and columns, SECONDGRAM_VECTORS vectors of columns at a time so that all sums stay in registers.

constexpr std::size_t kSpan = kColumns * SECONDGRAM_VECTORS;
// Columns that are passed to the epilogue at a time: whole spans.
constexpr std::size_t kPiece = kWidestPiece / kSpan * kSpan;

// Segments cut into chunks of equal length; a chunk may be an eighth longer than kChunk so that no short one is left.
class Chunks {
 public:
  Chunks(const Operand* operands, std::size_t n_segments) : operands_(operands) {
    for (std::size_t s = 0; s < n_segments; ++s) {
      const std::size_t lines = operands[s].weight->lines;
      of_[s] = (lines + kChunk - 1) / kChunk;
      if (of_[s] > 1 && lines - (of_[s] - 1) * kChunk <= kChunk / 8) --of_[s];
    }
  }
  std::size_t count() const { return of_[0] + of_[1]; }
  Chunk operator[](std::size_t i) const {
    const std::size_t s = i < of_[0] ? 0 : 1, part = i - s * of_[0], lines = operands_[s].weight->lines;
    return {&operands_[s], lines * part / of_[s], lines * (part + 1) / of_[s]};
  }

 private:
  const Operand* operands_;
  std::size_t of_[2] = {0, 0};
};

// Prefetch of the next chunk of weights, from the panel of a column on: each strip fetches a part of one panel.
class Fetches {
 public:
  Fetches(const Chunk& next, std::size_t column, std::size_t strips) : next_(next) {
    const std::size_t of_panel = next.operand->weight->columns, panels = std::max<std::size_t>(1, kSpan / of_panel);
    const std::size_t a_panel = (strips + panels - 1) / panels;
    panel_ = column / of_panel, panels_ = next.operand->weight->panels();
    share_ = (next.last - next.first + a_panel - 1) / a_panel;
  }
  Ahead next() {
    const Packed& weight = *next_.operand->weight;
    if (panel_ >= panels_) return {weight.panel(0), 0};
    const Ahead here{weight.panel(panel_) + (next_.first + line_) * kLine, kLine};
    line_ += share_;
    if (line_ >= next_.last - next_.first) line_ = 0, ++panel_;
    return here;
  }

 private:
  Chunk next_;
  std::size_t panel_, panels_, share_, line_ = 0;
};

struct Arch : Elementwise {
  SECONDGRAM_TARGET static void as_factors(Matrix& matrix, std::size_t r, std::size_t column, std::size_t count) {
    if (matrix.factors) narrow(matrix.row(r) + column, matrix.factors_of(r), column, count);
  }

  // Sums of the products of one or two segments; the epilogue `finish` gets a piece of a row at a time.
  template <typename Finish>
  SECONDGRAM_TARGET static void product(const Segment* segments, std::size_t n_segments, std::size_t rows,
                                        std::size_t columns, Matrix& sums, const Finish& finish) {
    Operand operands[2];
    for (std::size_t s = 0; s < n_segments; ++s) operands[s] = operand_of(segments[s]);
    const Chunks chunks(operands, n_segments);
    const std::size_t few = segments[0].weight->few, strips = (rows + kStrip - 1) / kStrip;
    for (std::size_t start = 0; start < columns - few; start += kPiece) {
      const std::size_t count = std::min(kPiece, columns - few - start);
      for (std::size_t part = 0; part < count; part += kSpan) {
        const std::size_t vectors = (std::min(kSpan, count - part) + kColumns - 1) / kColumns;
        for (std::size_t c = 0; c < chunks.count(); ++c) {
          const Chunk here = chunks[c];
          const bool last = c + 1 == chunks.count();
          const std::size_t column = start + part;
          Fetches fetches(chunks[last ? 0 : c + 1], last ? column + kSpan : column, strips);
          for (std::size_t r = 0; r < rows; r += kStrip)
            (c > 0 ? strip_of<true> : strip_of<false>)(vectors, here, r, column, sums.row(r) + part, sums.stride,
                                                       fetches.next());
        }
      }
      for (std::size_t r = 0; r < rows; ++r) finish(r, start, count, sums.row(r));
    }
    for (std::size_t r = 0; r < rows && few > 0; ++r) {
      for (std::size_t j = 0; j < few; ++j) {
        sums.row(r)[j] = 0.0f;
        for (std::size_t s = 0; s < n_segments; ++s) {
          const Packed& weight = *segments[s].weight;
          sums.row(r)[j] += dot(segments[s].from->row(r), weight.rest.get() + j * weight.inputs, weight.inputs);
        }
      }
      finish(r, columns - few, few, sums.row(r));
    }
  }

 private:
  // The last columns of a matrix may need fewer vectors.
  template <bool kAdd>
  SECONDGRAM_TARGET static void strip_of(std::size_t vectors, const Chunk& chunk, std::size_t r, std::size_t column,
                                         float* sums, std::size_t stride, Ahead ahead) {
    if (vectors == SECONDGRAM_VECTORS) return strip<SECONDGRAM_VECTORS, kAdd>(chunk, r, column, sums, stride, ahead);
#if SECONDGRAM_VECTORS > 2
    if (vectors == 2) return strip<2, kAdd>(chunk, r, column, sums, stride, ahead);
#endif
    strip<1, kAdd>(chunk, r, column, sums, stride, ahead);
  }
};
