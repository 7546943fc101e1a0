// Loops of a matrix product over rows and columns, around the micro-kernel of this instruction set: kKernelVectors
// vectors of columns at a time, so that all sums stay in registers.
#pragma once

#include <algorithm>
#include <cstddef>

#include "elementwise.hpp"
#include "isa.hpp"
#include "matrix.hpp"
#include "micro_kernel.hpp"
#if defined(SECONDGRAM_FOR_AVX512_FP16)
#include "micro_kernel_fp16.hpp"
#elif defined(SECONDGRAM_FOR_AVX512_BF16)
#include "micro_kernel_bf16.hpp"
#else
#include "micro_kernel_fp32.hpp"
#endif

namespace secondgram::cpu::SECONDGRAM_ISA {
namespace {

constexpr std::size_t kKernelColumns = kColumns * kKernelVectors;
// Columns that are passed to the epilogue at a time: a multiple of the micro-kernel's.
constexpr std::size_t kEpilogueColumns = kMostEpilogueColumns / kKernelColumns * kKernelColumns;

// Segments cut into chunks of equal length; a chunk may be an eighth longer than kChunk so that no short one is left.
class InputChunks {
 public:
  InputChunks(const SegmentOperand<Operand>* operands, std::size_t n_segments) : operands_(operands) {
    for (std::size_t s = 0; s < n_segments; ++s) {
      const std::size_t lines = operands[s].weight->lines;
      of_[s] = (lines + kChunk - 1) / kChunk;
      if (of_[s] > 1 && lines - (of_[s] - 1) * kChunk <= kChunk / 8) --of_[s];
    }
  }
  std::size_t count() const { return of_[0] + of_[1]; }
  InputChunk<Operand> operator[](std::size_t i) const {
    const std::size_t s = i < of_[0] ? 0 : 1, part = i - s * of_[0], lines = operands_[s].weight->lines;
    return {&operands_[s], lines * part / of_[s], lines * (part + 1) / of_[s]};
  }

 private:
  const SegmentOperand<Operand>* operands_;
  std::size_t of_[2] = {0, 0};
};

// Prefetch of the next chunk of weights, from the panel of a column on: each run of the micro-kernel fetches a part of one
// panel.
class Prefetches {
 public:
  Prefetches(const InputChunk<Operand>& next, std::size_t column, std::size_t row_blocks) : next_(next) {
    const std::size_t of_panel = next.operand->weight->columns;
    const std::size_t panels = std::max<std::size_t>(1, kKernelColumns / of_panel);
    const std::size_t a_panel = (row_blocks + panels - 1) / panels;
    panel_ = column / of_panel, panels_ = next.operand->weight->panels();
    share_ = (next.last - next.first + a_panel - 1) / a_panel;
  }
  Prefetch next() {
    const PackedMatrix& weight = *next_.operand->weight;
    if (panel_ >= panels_) return {weight.panel(0), 0};
    const Prefetch here{weight.panel(panel_) + (next_.first + line_) * kLine, kLine};
    line_ += share_;
    if (line_ >= next_.last - next_.first) line_ = 0, ++panel_;
    return here;
  }

 private:
  InputChunk<Operand> next_;
  std::size_t panel_, panels_, share_, line_ = 0;
};

struct Isa : Elementwise {
  SECONDGRAM_TARGET static void to_operand(Matrix& matrix, std::size_t r, std::size_t column, std::size_t count) {
    if (matrix.operand) round_to_operand(matrix.row(r) + column, matrix.operand_of_row(r), column, count);
  }

  // Sums of the products of one or two segments; `epilogue` gets some columns of a row at a time.
  template <typename Epilogue>
  SECONDGRAM_TARGET static void product(const Segment* segments, std::size_t n_segments, std::size_t rows,
                                        std::size_t columns, Matrix& sums, const Epilogue& epilogue) {
    SegmentOperand<Operand> operands[2];
    for (std::size_t s = 0; s < n_segments; ++s) operands[s] = operand_of<Operand>(segments[s]);
    const InputChunks chunks(operands, n_segments);
    const std::size_t tail = segments[0].weight->tail, row_blocks = (rows + kKernelRows - 1) / kKernelRows;
    for (std::size_t start = 0; start < columns - tail; start += kEpilogueColumns) {
      const std::size_t count = std::min(kEpilogueColumns, columns - tail - start);
      for (std::size_t part = 0; part < count; part += kKernelColumns) {
        const std::size_t vectors = (std::min(kKernelColumns, count - part) + kColumns - 1) / kColumns;
        for (std::size_t c = 0; c < chunks.count(); ++c) {
          const InputChunk<Operand> here = chunks[c];
          const bool last = c + 1 == chunks.count();
          const std::size_t column = start + part;
          Prefetches ahead(chunks[last ? 0 : c + 1], last ? column + kKernelColumns : column, row_blocks);
          for (std::size_t r = 0; r < rows; r += kKernelRows)
            (c > 0 ? kernel_of_width<true> : kernel_of_width<false>)(vectors, here, r, column, sums.row(r) + part,
                                                                     sums.stride, ahead.next());
        }
      }
      for (std::size_t r = 0; r < rows; ++r) epilogue(r, start, count, sums.row(r));
    }
    for (std::size_t r = 0; r < rows && tail > 0; ++r) {
      for (std::size_t j = 0; j < tail; ++j) {
        sums.row(r)[j] = 0.0f;
        for (std::size_t s = 0; s < n_segments; ++s) {
          const PackedMatrix& weight = *segments[s].weight;
          sums.row(r)[j] += dot(segments[s].from->row(r), weight.tail_weights.get() + j * weight.inputs, weight.inputs);
        }
      }
      epilogue(r, columns - tail, tail, sums.row(r));
    }
  }

 private:
  // The last columns of a matrix may need fewer vectors.
  template <bool kAdd>
  SECONDGRAM_TARGET static void kernel_of_width(std::size_t vectors, const InputChunk<Operand>& chunk, std::size_t r,
                                                std::size_t column, float* sums, std::size_t stride, Prefetch ahead) {
    if (vectors == kKernelVectors) return micro_kernel<kKernelVectors, kAdd>(chunk, r, column, sums, stride, ahead);
    if constexpr (kKernelVectors > 2)
      if (vectors == 2) return micro_kernel<2, kAdd>(chunk, r, column, sums, stride, ahead);
    micro_kernel<1, kAdd>(chunk, r, column, sums, stride, ahead);
  }
};

}  // namespace
}  // namespace secondgram::cpu::SECONDGRAM_ISA
