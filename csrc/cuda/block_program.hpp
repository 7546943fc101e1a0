// The folded denoiser on a GPU: one block takes some squares of rows (tiles.hpp) through a list of products.
//
// Eight warps multiply and finish; a ninth brings weights, and those activations that are not in shared memory, through
// a ring of stages (three more have nothing to do: registers are dealt out to groups of four). The list may be one
// product cut into columns (the graphed chain: a launch a product) or the whole network for many steps (the persistent
// kernel). A row never meets another row and its sums run over its inputs in one order, so how rows and columns are cut
// changes no value.
//
// Everything here is the same on every GPU and in the emulation (emulator.hpp); `Machine` supplies the instructions:
// copies, barriers, matrix products of a warp. Offsets count bytes from the beginning of a block's shared memory.
#pragma once

#include <cstdint>

#include "../core/normal_float.hpp"
#include "../core/philox.hpp"
#include "tiles.hpp"
#include "../core/step.hpp"

#ifdef __CUDACC__
#define SECONDGRAM_DEVICE __device__ __forceinline__
#else
#define SECONDGRAM_DEVICE inline
#endif

namespace secondgram::cuda {

constexpr std::uint32_t kConsumers = 256, kThreads = kConsumers + 128;
constexpr std::uint32_t kMostOps = 17, kMostStages = 8;
constexpr std::uint32_t kNowhere = 0xFFFFFFFFu;

// Shared memory: barriers, two counters, a float a row, then the stages, then activations that stay.
constexpr std::uint32_t kFull = 0, kEmpty = 8 * kMostStages, kCompleted = 16 * kMostStages, kRowScale = 256;
constexpr std::uint32_t kStages = 1024;

// Epilogues of a product; the formulas stand in secondgram/diffusion/folding.py.
enum class Epilogue : std::uint32_t {
  plain,     // sum + bias
  silu,      // SiLU(sum + bias)
  normed,    // SiLU(rstd(row) sum + bias)
  context,   // SiLU(sum + the embedding's term), which was computed before or is the product of source 0
  residual,  // old value + SiLU(sum + bias)
  solver,    // sum + bias is the network's output: one step of the solver
};

// A source of a product: activations, in shared memory from `shared` on or streamed from `squares`, and their weight.
struct Source {
  const unsigned char* squares;
  const unsigned char* weight;
  std::uint32_t inputs;  // squares from one of the weight's outputs to the next
  std::uint32_t shared;  // kNowhere where they are streamed
  std::uint32_t stride;  // squares from one row of squares to the next
  std::uint32_t panels;  // squares across
  std::int32_t writer;   // product of this list that writes them, -1 where they were there before
};

struct Target {
  unsigned char* squares;
  std::uint32_t shared, stride;
};

struct Op {
  Source sources[3];
  Target target;
  const float* bias;             // [outputs, filled up with zeros]; not read where there is a context
  const unsigned char* context;  // squares of the step's and person's addition, null where source 0 gives it
  std::uint32_t context_stride;
  std::uint32_t n_sources, panels, passes;  // outputs in squares, and passes over them
  std::uint32_t width;                      // values of a row that rstd is about
  Epilogue epilogue;
};

// Which rows there are, and the seed; in device memory, so that one recorded graph serves every chunk and request.
struct Chunk {
  std::uint32_t people, draws, row_squares, people_squares;
  std::uint64_t seed;
};

enum class Domain : std::uint32_t { rows, people, people_and_steps };

struct BlockProgram {
  Op ops[kMostOps];
  std::uint32_t n_ops, stages, cluster;
  bool split;  // block y takes one pass of one product; else a block takes all
  Domain domain;
  const Chunk* chunk;
  std::uint32_t first_step, n_steps;
  // The solver's: state and estimate [rows, stride], coefficients of all steps, keys [people], numbers of draws
  // [draws].
  float* x;
  float* before;  // null where no step reads it
  const Coefficients* coefficients;
  const std::uint64_t* keys;
  const std::uint32_t* draws;
  std::uint32_t purpose, features, stride;
};

// Bytes of a stage: weights of `columns` squares, then activations of `rows`.
SECONDGRAM_HD constexpr std::uint32_t stage_bytes(std::uint32_t rows, std::uint32_t columns) {
  return (rows + columns) * kSquareBytes;
}

SECONDGRAM_HD constexpr std::uint32_t begin_of_pass(const Op& op, std::uint32_t pass) {
  return op.panels * pass / op.passes;
}

// Which sums of a block's tile a thread holds: kTall by kWide fragments of 16 rows and 8 columns, four sums of each:
// rows row and row + 8, columns column and column + 1.
template <bool kGroups, int kRows, int kColumns>
struct SumFragments {  // warps in two rows of four; every warp has two fragments of every panel
  static constexpr int kTall = 2 * kRows, kWide = 2 * kColumns;
  SECONDGRAM_DEVICE static std::uint32_t row(std::uint32_t warp, std::uint32_t lane, int i) {
    return (warp >> 2) * (32 * kRows) + 16 * i + (lane >> 2);
  }
  SECONDGRAM_DEVICE static constexpr int panel(int j) { return j >> 1; }
  SECONDGRAM_DEVICE static std::uint32_t column(std::uint32_t warp, std::uint32_t lane, int j) {
    return 16 * (warp & 3) + 8 * (j & 1) + 2 * (lane & 3);
  }
};

template <int kRows, int kColumns>
struct SumFragments<true, kRows, kColumns> {  // a group of four warps for each square of rows, as the instruction has it
  static_assert(kRows == 2, "two groups of warps take two squares of rows");
  static constexpr int kTall = 1, kWide = 8 * kColumns;
  SECONDGRAM_DEVICE static std::uint32_t row(std::uint32_t warp, std::uint32_t lane, int) {
    return 16 * warp + (lane >> 2);
  }
  SECONDGRAM_DEVICE static constexpr int panel(int j) { return j >> 3; }
  SECONDGRAM_DEVICE static std::uint32_t column(std::uint32_t, std::uint32_t lane, int j) {
    return 8 * (j & 7) + 2 * (lane & 3);
  }
};

template <class Machine, int kRows, int kColumns>
class ProgramRunner {
  // A group of four warps multiplies 64 rows at a time.
  static constexpr bool kGroups = Machine::kGroups && kRows == 2;
  using Mine = SumFragments<kGroups, kRows, kColumns>;
  using Sums = float[Mine::kTall][Mine::kWide][4];

 public:
  SECONDGRAM_DEVICE explicit ProgramRunner(const BlockProgram& program)
      : w_(program), thread_(Machine::thread()), warp_(thread_ >> 5), lane_(thread_ & 31) {}

  SECONDGRAM_DEVICE void run() {
    const Chunk& chunk = *w_.chunk;
    const std::uint32_t squares = w_.domain == Domain::rows     ? chunk.row_squares
                                  : w_.domain == Domain::people ? chunk.people_squares
                                                                : chunk.people_squares * w_.n_steps;
    // Blocks of a cluster leave together: they bring weights for one another.
    if (Machine::block_x() / w_.cluster * w_.cluster * kRows >= squares) return;
    first_ = Machine::block_x() * kRows;
    first_op_ = 0, last_op_ = w_.n_ops, pass_ = 0;
    if (w_.split) {
      pass_ = Machine::block_y();
      while (pass_ >= w_.ops[first_op_].passes) pass_ -= w_.ops[first_op_++].passes;
      last_op_ = first_op_ + 1;
    }
    if (thread_ == 0) {
      for (std::uint32_t s = 0; s < w_.stages; ++s) {
        Machine::barrier_init(kFull + 8 * s, Machine::kFullArrivals);
        Machine::barrier_init(kEmpty + 8 * s, kConsumers / 32 * w_.cluster);
      }
      Machine::template store<std::uint32_t>(kCompleted, 0);
      Machine::template store<std::uint32_t>(kCompleted + 4, 0);
    }
    Machine::barriers_ready(w_.cluster);
    if (warp_ >= kConsumers / 32) {
      Machine::template few_registers<kGroups>();
      if (warp_ == kConsumers / 32) produce();
    } else {
      Machine::template many_registers<kGroups>();
      consume();
    }
    Machine::leave(w_.cluster);
  }

 private:
  // -- the ninth warp -------------------------------------------------------------------------------------------------

  SECONDGRAM_DEVICE void produce() {
    const std::uint32_t steps = steps_of_list();
#pragma unroll 1
    for (std::uint32_t s = 0; s < steps; ++s)
#pragma unroll 1
      for (std::uint32_t o = first_op_; o < last_op_; ++o) {
        const Op& op = w_.ops[o];
        const std::uint32_t end = w_.split ? pass_ + 1 : op.passes;
#pragma unroll 1
        for (std::uint32_t pass = pass_; pass < end; ++pass) bring(op, s, o, pass);
      }
  }

  SECONDGRAM_DEVICE void bring(const Op& op, std::uint32_t s, std::uint32_t o, std::uint32_t pass) {
    const std::uint32_t begin = begin_of_pass(op, pass), panels = begin_of_pass(op, pass + 1) - begin;
#pragma unroll 1
    for (std::uint32_t n = 0; n < op.n_sources; ++n) {
      const Source& source = op.sources[n];
      const bool streamed = source.shared == kNowhere;
      // The embedding has rows of its own for every step.
      const std::uint32_t first = n == 0 && gives_context(op) ? s * w_.chunk->people_squares : 0;
      if (streamed && !w_.split && source.writer >= 0) {
        // Written in this step before this product, else in the step before.
        const std::uint32_t writer = static_cast<std::uint32_t>(source.writer);
        const std::uint32_t needed = s * w_.n_ops + writer + 1, wait_for = writer < o ? needed : needed - w_.n_ops;
        if (writer < o || s > 0)
          for (int group = 0; group <= kGroups; ++group) Machine::await(kCompleted + 4 * group, wait_for);
      }
#pragma unroll 1
      for (std::uint32_t k = 0; k < source.panels; ++k) {
        const std::uint32_t full = kFull + 8 * slot_, to = stage();
        Machine::wait(kEmpty + 8 * slot_, phase_ ^ 1);
        Machine::announce(full, (panels + (streamed ? kRows : 0)) * kSquareBytes);
        // Each block of a cluster brings its part of every square of weights to all of them.
        const std::uint32_t part = kSquareBytes / w_.cluster, offset = part * Machine::rank();
        const unsigned char* weight =
            source.weight + (static_cast<std::size_t>(begin) * source.inputs + k) * kSquareBytes + offset;
        const std::size_t panel_bytes = static_cast<std::size_t>(source.inputs) * kSquareBytes;
        // Rolled: this warp has few registers, and nothing waits for it while stages are full.
#pragma unroll 1
        for (std::uint32_t p = 0; p < panels; ++p, weight += panel_bytes)
          Machine::copy(to + p * kSquareBytes + offset, weight, part, full, w_.cluster);
        if (streamed) {
          const unsigned char* rows =
              source.squares + (static_cast<std::size_t>(first + first_) * source.stride + k) * kSquareBytes;
#pragma unroll 1
          for (std::uint32_t r = 0; r < kRows; ++r, rows += static_cast<std::size_t>(source.stride) * kSquareBytes)
            Machine::copy(to + (kColumns + r) * kSquareBytes, rows, kSquareBytes, full, 1);
        }
        Machine::commit(full);
        advance();
      }
    }
  }

  // -- the other eight ------------------------------------------------------------------------------------------------

  SECONDGRAM_DEVICE void consume() {
    const std::uint32_t steps = steps_of_list();
#pragma unroll 1
    for (std::uint32_t s = 0; s < steps; ++s)
#pragma unroll 1
      for (std::uint32_t o = first_op_; o < last_op_; ++o) {
        const Op& op = w_.ops[o];
        const std::uint32_t end = w_.split ? pass_ + 1 : op.passes;
#pragma unroll 1
        for (std::uint32_t pass = pass_; pass < end; ++pass) {
          const std::uint32_t first_panel = begin_of_pass(op, pass);
          ask_ahead(op, s, first_panel, begin_of_pass(op, pass + 1) - first_panel);
          Sums sums;
          multiply(op, s, pass, pass == pass_, sums);
          apply_epilogue(op, s, pass, sums);
        }
        if (!w_.split) {
          // Writes are read next by other threads, by the tensor cores and by asynchronous copies.
          Machine::proxy_fence(op.target.shared == kNowhere);
          sync_rows();
          if (thread_ % (kGroups ? 128 : kConsumers) == 0)
            Machine::publish(kCompleted + (kGroups ? 4 * (thread_ / 128) : 0), s * w_.n_ops + o + 1);
        }
      }
  }

  SECONDGRAM_DEVICE void multiply(const Op& op, std::uint32_t s, std::uint32_t pass, bool first_pass, Sums& sums) {
    const std::uint32_t begin = begin_of_pass(op, pass), panels = begin_of_pass(op, pass + 1) - begin;
    // Which instructions a group of warps needs depends on the panels, and they stand outside of every condition.
    if constexpr (kGroups && kColumns == 4) {
      if (panels == 4)
        multiply_panels<4>(op, s, begin, panels, first_pass, sums);
      else if (panels == 3)
        multiply_panels<3>(op, s, begin, panels, first_pass, sums);
      else if (panels == 2)
        multiply_panels<2>(op, s, begin, panels, first_pass, sums);
      else
        multiply_panels<1>(op, s, begin, panels, first_pass, sums);
    } else if constexpr (kGroups) {
      if (panels == 2)
        multiply_panels<2>(op, s, begin, panels, first_pass, sums);
      else
        multiply_panels<1>(op, s, begin, panels, first_pass, sums);
    } else {
      multiply_panels<kColumns>(op, s, begin, panels, first_pass, sums);
    }
  }

  // Inputs of the epilogue of a pass are prefetched before its products, so that they are in L2 by then.
  SECONDGRAM_DEVICE void ask_ahead(const Op& op, std::uint32_t s, std::uint32_t begin, std::uint32_t panels) const {
    if (op.context != nullptr) {
      for (std::uint32_t i = thread_; i < kRows * kSide * panels; i += kConsumers) {
        const std::uint32_t row = s * w_.chunk->people_squares * kSide + person_of(i / panels);
        const std::size_t square = std::size_t{row / kSide} * op.context_stride + begin + i % panels;
        Machine::prefetch(op.context + square * kSquareBytes + in_square(row % kSide, 0) / 128 * 128);
      }
    } else if (op.epilogue == Epilogue::solver) {
      // A row of a square is two lines of 128 bytes of the state.
      for (std::uint32_t i = thread_; i < kRows * kSide * panels * 2; i += kConsumers) {
        const std::size_t row = first_ * kSide + i / (2 * panels);
        Machine::prefetch(w_.x + row * w_.stride + begin * kSide + i % (2 * panels) * 32);
      }
    }
  }

  // Sums begin with the terms that are added to them: these are loaded at once, while the first stage is on its way.
  template <int kPanels>
  SECONDGRAM_DEVICE void start(const Op& op, std::uint32_t s, std::uint32_t begin, std::uint32_t panels, Sums& sums) {
#pragma unroll
    for (int i = 0; i < Mine::kTall; ++i)
#pragma unroll
      for (int j = 0; j < Mine::kWide; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) sums[i][j][e] = 0.0f;
    const std::uint32_t lane = Machine::renewed(lane_);
    if (op.context != nullptr) {
      const std::uint32_t first = s * w_.chunk->people_squares * kSide;
#pragma unroll
      for (int i = 0; i < Mine::kTall; ++i)
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const std::uint32_t row = first + person_of(Mine::row(warp_, lane_, i) + 8 * h);
          const unsigned char* from =
              op.context + (std::size_t{row / kSide} * op.context_stride + begin) * kSquareBytes + row % kSide * 128;
#pragma unroll
          for (int j = 0; j < Mine::kWide; ++j)
            if (Mine::panel(j) < kPanels && Mine::panel(j) < static_cast<int>(panels)) {
              const std::uint32_t pair = *reinterpret_cast<const std::uint32_t*>(
                  from + Mine::panel(j) * kSquareBytes + in_square(row % 8, Mine::column(warp_, lane, j)) % 128);
              sums[i][j][2 * h] = float_of(pair << 16), sums[i][j][2 * h + 1] = float_of(pair & 0xFFFF0000u);
            }
          Machine::keep_order();
        }
    } else if (op.epilogue != Epilogue::normed) {
      const float* bias = op.bias + begin * kSide;
#pragma unroll
      for (int j = 0; j < Mine::kWide; ++j)
        if (Mine::panel(j) < kPanels && Mine::panel(j) < static_cast<int>(panels)) {
          const Two both = *reinterpret_cast<const Two*>(bias + Mine::panel(j) * kSide + Mine::column(warp_, lane, j));
#pragma unroll
          for (int i = 0; i < Mine::kTall; ++i)
#pragma unroll
            for (int h = 0; h < 2; ++h) sums[i][j][2 * h] = both.first, sums[i][j][2 * h + 1] = both.second;
        }
    }
  }

  template <int kPanels>
  SECONDGRAM_DEVICE void multiply_panels(const Op& op, std::uint32_t s, std::uint32_t begin, std::uint32_t panels,
                                         bool first_pass, Sums& sums) {
    const bool normed = op.epilogue == Epilogue::normed && first_pass;
    float sum[kRows] = {}, square[kRows] = {};
    start<kPanels>(op, s, begin, panels, sums);
#pragma unroll 1
    for (std::uint32_t n = 0; n < op.n_sources; ++n) {
      const Source& source = op.sources[n];
      const bool streamed = source.shared == kNowhere;
#pragma unroll 1
      for (std::uint32_t k = 0; k < source.panels; ++k) {
        Machine::wait(kFull + 8 * slot_, phase_);
        const std::uint32_t weights = stage();
        const std::uint32_t rows = streamed ? weights + kColumns * kSquareBytes : source.shared + k * kSquareBytes;
        const std::uint32_t stride = (streamed ? 1 : source.stride) * kSquareBytes;
        if constexpr (kGroups)
          multiply_group<kPanels>(rows + (warp_ >> 2) * stride, weights, sums);
        else
          multiply_warp(rows, stride, weights, panels, sums);
        if (normed) add_moments(rows, stride, sum, square);
        Machine::release(kEmpty + 8 * slot_, w_.cluster);
        advance();
      }
      if (n == 0 && gives_context(op)) round_sums(sums);
    }
    if (normed) scale_rows(op.width, sum, square);
  }

  // Whether source 0 is the embedding, whose product is rounded before the others are added to it: as it is where it
  // has waited in memory, so that a draw has the same bits alone and among others.
  SECONDGRAM_DEVICE static bool gives_context(const Op& op) {
    return op.epilogue == Epilogue::context && op.context == nullptr;
  }
  SECONDGRAM_DEVICE void round_sums(Sums& sums) const {
#pragma unroll
    for (int i = 0; i < Mine::kTall; ++i)
#pragma unroll
      for (int j = 0; j < Mine::kWide; ++j)
#pragma unroll
        for (int e = 0; e < 4; e += 2) {
          const std::uint32_t pair = bf16_pair(sums[i][j][e], sums[i][j][e + 1]);
          sums[i][j][e] = float_of(pair << 16), sums[i][j][e + 1] = float_of(pair & 0xFFFF0000u);
        }
  }

  SECONDGRAM_DEVICE void multiply_warp(std::uint32_t rows, std::uint32_t stride, std::uint32_t weights,
                                       std::uint32_t panels, Sums& sums) {
    // The addresses that ldmatrix wants of this lane: four 8 x 8 matrices, of activations 16 rows by 16 inputs, of
    // weights 16 outputs by 16 inputs.
    const std::uint32_t row = (warp_ >> 2) * (32 * kRows) + (lane_ & 15);
    const std::uint32_t output = 16 * (warp_ & 3) + (lane_ & 7) + 8 * (lane_ >> 4);
#pragma unroll 2
    for (std::uint32_t step = 0; step < kSide / 16; ++step) {
      std::uint32_t a[Mine::kTall][4];
#pragma unroll
      for (int i = 0; i < Mine::kTall; ++i) {
        const std::uint32_t r = row + 16 * i;
        Machine::load_matrices(a[i], rows + r / kSide * stride + in_square(r % kSide, 16 * step + 8 * (lane_ >> 4)));
      }
#pragma unroll
      for (int p = 0; p < kColumns; ++p) {
        if (p < static_cast<int>(panels)) {
          std::uint32_t b[4];
          Machine::load_matrices(b, weights + p * kSquareBytes + in_square(output, 16 * step + 8 * (lane_ >> 3 & 1)));
#pragma unroll
          for (int i = 0; i < Mine::kTall; ++i) {
            Machine::multiply(sums[i][2 * p], a[i], b[0], b[1]);
            Machine::multiply(sums[i][2 * p + 1], a[i], b[2], b[3]);
          }
        }
      }
    }
  }

  template <int kPanels>
  SECONDGRAM_DEVICE void multiply_group(std::uint32_t rows, std::uint32_t weights, Sums& sums) {
    Machine::group_begin(sums[0]);
#pragma unroll
    for (std::uint32_t step = 0; step < kSide / 16; ++step)
#pragma unroll
      for (int p = 0; p < kPanels; p += 2) {
        const std::uint32_t a = rows + 32 * step, b = weights + p * kSquareBytes + 32 * step;
        if (kPanels - p >= 2)
          Machine::group_multiply_128(&sums[0][8 * p], a, b);
        else
          Machine::group_multiply_64(&sums[0][8 * p], a, b);
      }
    Machine::group_end(sums[0]);
  }

  // Sums of the values and squares of each row. A quarter of a row's square is added up in one order whoever does it.
  SECONDGRAM_DEVICE void add_moments(std::uint32_t rows, std::uint32_t stride, float (&sum)[kRows],
                                     float (&square)[kRows]) {
    constexpr std::uint32_t kPerRow = 4 / kRows;  // threads
    const std::uint32_t thread = Machine::renewed(thread_), row = thread / kPerRow;
#pragma unroll
    for (int q = 0; q < kRows; ++q)
#pragma unroll
      for (int fragment = 0; fragment < 2; ++fragment) {
        const std::uint32_t column = (thread % kPerRow * kRows + q) * 16 + 8 * fragment;
        const Sixteen v = Machine::template load<Sixteen>(rows + row / kSide * stride + in_square(row % kSide, column));
        const std::uint32_t words[4] = {v.w0, v.w1, v.w2, v.w3};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float low = float_of(words[i] << 16), high = float_of(words[i] & 0xFFFF0000u);
          sum[q] += low, sum[q] += high;
          square[q] += low * low, square[q] += high * high;
        }
      }
  }

  SECONDGRAM_DEVICE void scale_rows(std::uint32_t width, const float (&sum)[kRows], const float (&square)[kRows]) {
    float total = kRows == 2 ? sum[0] + sum[kRows - 1] : sum[0];
    float squares = kRows == 2 ? square[0] + square[kRows - 1] : square[0];
    constexpr std::uint32_t kPerRow = 4 / kRows;
#pragma unroll
    for (std::uint32_t mask = 1; mask < kPerRow; mask <<= 1) {
      total += Machine::shuffle(total, mask);
      squares += Machine::shuffle(squares, mask);
    }
    const float mean = total / static_cast<float>(width);
    const float variance = squares / static_cast<float>(width) - mean * mean;
    if (thread_ % kPerRow == 0)
      Machine::template store<float>(kRowScale + 4 * (thread_ / kPerRow),
                                     1.0f / sqrtf((variance > 0.0f ? variance : 0.0f) + 1e-5f));
    sync_rows();
  }

  // Among the threads that multiply and finish the same rows: groups of warps need not wait for one another.
  SECONDGRAM_DEVICE void sync_rows() const {
    if constexpr (kGroups)
      Machine::group_sync();
    else
      Machine::consumers_sync();
  }

  SECONDGRAM_DEVICE void apply_epilogue(const Op& op, std::uint32_t s, std::uint32_t pass, Sums& sums) {
    const std::uint32_t begin = begin_of_pass(op, pass), panels = begin_of_pass(op, pass + 1) - begin;
    Target target = op.target;
    if (w_.split) {
      // Every stage has been used up: the result is gathered there, to leave in whole fragments.
      Machine::consumers_sync();
      target = {nullptr, kStages - begin * kSquareBytes, panels};
    }
    if (op.epilogue == Epilogue::solver)
      epilogue_solver(s, begin, panels, target, sums);
    else
      epilogue_plain(op, begin, panels, target, sums);
    if (w_.split) {
      Machine::consumers_sync();
      for (std::uint32_t fragment = thread_; fragment < kRows * panels * (kSquareBytes / 16); fragment += kConsumers) {
        const std::uint32_t square = fragment / (kSquareBytes / 16), r = square / panels, p = begin + square % panels;
        auto* to = reinterpret_cast<Sixteen*>(
            op.target.squares + (static_cast<std::size_t>(first_ + r) * op.target.stride + p) * kSquareBytes);
        to[fragment % (kSquareBytes / 16)] = Machine::template load<Sixteen>(kStages + 16 * fragment);
      }
    }
  }

  // Where a square of a target lies, in shared memory or not.
  SECONDGRAM_DEVICE unsigned char* squares_at(const Target& target, std::uint32_t square) const {
    if (target.shared != kNowhere) return Machine::memory(target.shared + square * kSquareBytes);
    return target.squares + (static_cast<std::size_t>(first_) * target.stride + square) * kSquareBytes;
  }

  // Row of the chunk to its person; rows that only fill a square up stand for the last one.
  SECONDGRAM_DEVICE std::uint32_t person_of(std::uint32_t row) const {
    const std::uint32_t person = (first_ * kSide + row) / w_.chunk->draws, last = w_.chunk->people - 1;
    return person < last ? person : last;
  }

  SECONDGRAM_DEVICE void epilogue_plain(const Op& op, std::uint32_t begin, std::uint32_t panels, const Target& target,
                                      Sums& sums) {
    if (op.epilogue == Epilogue::normed)
      epilogue_as<true, true, false>(op, begin, panels, target, sums);
    else if (op.epilogue == Epilogue::residual)
      epilogue_as<false, true, true>(op, begin, panels, target, sums);
    else if (op.epilogue == Epilogue::plain)
      epilogue_as<false, false, false>(op, begin, panels, target, sums);
    else
      epilogue_as<false, true, false>(op, begin, panels, target, sums);
  }

  // A template, so that a value takes no branch: there are 128 of them a thread.
  template <bool kNormed, bool kActive, bool kResidual>
  SECONDGRAM_DEVICE void epilogue_as(const Op& op, std::uint32_t begin, std::uint32_t panels, const Target& target,
                                   Sums& sums) {
    float scale[Mine::kTall][2];
    unsigned char* rows[Mine::kTall];
#pragma unroll
    for (int i = 0; i < Mine::kTall; ++i) {
      const std::uint32_t row = Mine::row(warp_, Machine::renewed(lane_), i);
      rows[i] = squares_at(target, row / kSide * target.stride + begin) + row % kSide * 128;
      if constexpr (kNormed)
#pragma unroll
        for (int h = 0; h < 2; ++h) scale[i][h] = Machine::template load<float>(kRowScale + 4 * (row + 8 * h));
    }
    std::uint32_t lane = lane_;
#pragma unroll
    for (int j = 0; j < Mine::kWide; ++j) {
      const std::uint32_t panel = Mine::panel(j);
      if (panel < panels) {
        // A lane's columns are worked out anew for every panel: kept in registers, they would push sums out.
        if (j == 0 || Mine::panel(j) != Mine::panel(j - 1)) lane = Machine::renewed(lane);
        const std::uint32_t column = Mine::column(warp_, lane, j);
        Two bias{};
        if constexpr (kNormed) bias = *reinterpret_cast<const Two*>(op.bias + (begin + panel) * kSide + column);
#pragma unroll
        for (int i = 0; i < Mine::kTall; ++i)
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            // Rows of a fragment are eight apart and begin with a multiple of 16: lane / 4 is the row in its eight.
            unsigned char* to = rows[i] + panel * kSquareBytes + 1024 * h + in_square(lane >> 2, column) % 128;
            float v0 = sums[i][j][2 * h], v1 = sums[i][j][2 * h + 1];
            if constexpr (kNormed) v0 = scale[i][h] * v0 + bias.first, v1 = scale[i][h] * v1 + bias.second;
            if constexpr (kActive) Machine::silu(v0, v1);
            if constexpr (kResidual) {
              const std::uint32_t pair = *reinterpret_cast<const std::uint32_t*>(to);
              v0 += float_of(pair << 16), v1 += float_of(pair & 0xFFFF0000u);
            }
            Machine::put(to, bf16_pair(v0, v1));
          }
      }
    }
  }

  // The loop over the fragments of a thread's sums is left rolled: noise takes hundreds of instructions. It comes first, so
  // that a fragment's sums are not held beside it.
  SECONDGRAM_DEVICE void epilogue_solver(std::uint32_t s, std::uint32_t begin, std::uint32_t panels, const Target& target,
                                       Sums& sums) {
    const std::uint32_t step = w_.first_step + s;
    NoiseSource source{};
    if constexpr (Mine::kTall == 1) source = source_of(Mine::row(warp_, lane_, 0));
#pragma unroll 1
    for (int fragment = 0; fragment < Mine::kTall * Mine::kWide; ++fragment) {
      const int i = fragment / Mine::kWide, j = fragment % Mine::kWide;
      if (Mine::panel(j) >= static_cast<int>(panels)) continue;
      float z[4] = {}, some[4] = {};
      if (w_.coefficients[step].fresh != 0.0f) {
        if constexpr (Mine::kTall > 1) source = source_of(Mine::row(warp_, lane_, i));
        noise(source, (begin + Mine::panel(j)) * kSide + Mine::column(warp_, Machine::renewed(lane_), j), step, z);
      }
      const std::uint32_t chosen = Machine::renewed(static_cast<std::uint32_t>(fragment));
#pragma unroll
      for (int q = 0; q < Mine::kTall * Mine::kWide; ++q)
        if (static_cast<std::uint32_t>(q) == chosen)
#pragma unroll
          for (int e = 0; e < 4; ++e) some[e] = sums[q / Mine::kWide][q % Mine::kWide][e];
      step_of_fragment(step, begin, i, j, target, some, z);
    }
  }

  SECONDGRAM_DEVICE void step_of_fragment(std::uint32_t step, std::uint32_t begin, int i, int j, const Target& target,
                                       const float (&sums)[4], const float (&z)[4]) {
    const std::uint32_t lane = Machine::renewed(lane_);
    const std::uint32_t panel = begin + Mine::panel(j), within = Mine::column(warp_, lane, j);
    const std::uint32_t column = panel * kSide + within, row = Mine::row(warp_, lane, i);
    const Coefficients k = w_.coefficients[step];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const std::size_t place = static_cast<std::size_t>(first_ * kSide + row + 8 * h) * w_.stride + column;
      Two x = *reinterpret_cast<const Two*>(w_.x + place), before{};
      if (w_.before != nullptr) before = *reinterpret_cast<const Two*>(w_.before + place);
      const Two x0{data_estimate(k, x.first, sums[2 * h]), data_estimate(k, x.second, sums[2 * h + 1])};
      x = {next_state(k, x.first, x0.first, before.first), next_state(k, x.second, x0.second, before.second)};
      // Columns that only fill a square up stay zero.
      if (column < w_.features) x.first += k.fresh * z[2 * h];
      if (column + 1 < w_.features) x.second += k.fresh * z[2 * h + 1];
      *reinterpret_cast<Two*>(w_.x + place) = x;
      if (w_.before != nullptr) *reinterpret_cast<Two*>(w_.before + place) = x0;
      const std::uint32_t square = (row + 8 * h) / kSide * target.stride + panel;
      Machine::put(squares_at(target, square) + in_square((row + 8 * h) % kSide, within), bf16_pair(x.first, x.second));
    }
  }

  // Key and draw of the row whose random words a lane computes: row in even lanes, row + 8 in odd ones.
  struct NoiseSource {
    std::uint64_t key;
    std::uint32_t draw;
  };
  SECONDGRAM_DEVICE NoiseSource source_of(std::uint32_t row) const {
    const std::uint32_t mine = row + 8 * (lane_ & 1);
    return {w_.keys[person_of(mine)], w_.draws[(first_ * kSide + mine) % w_.chunk->draws]};
  }

  // Normals of rows row and row + 8, columns column and column + 1. Two neighbouring lanes hold the four features of
  // one counter: each makes the words of one of the rows and hands half of them over.
  SECONDGRAM_DEVICE void noise(const NoiseSource& source, std::uint32_t column, std::uint32_t step,
                               float (&z)[4]) const {
    const bool odd = (lane_ & 1) != 0;
    const Words4 own = words_of(w_.chunk->seed, w_.purpose, column / 4, source.draw, step, source.key);
    const std::uint32_t got0 = Machine::shuffle(odd ? own.w0 : own.w2, 1);
    const std::uint32_t got1 = Machine::shuffle(odd ? own.w1 : own.w3, 1);
    const FloatPair upper = box_muller_float(odd ? got0 : own.w0, odd ? got1 : own.w1);
    const FloatPair lower = box_muller_float(odd ? own.w2 : got0, odd ? own.w3 : got1);
    z[0] = upper.first, z[1] = upper.second, z[2] = lower.first, z[3] = lower.second;
  }

  // A list for people and steps has its steps among the rows.
  SECONDGRAM_DEVICE std::uint32_t steps_of_list() const { return w_.domain == Domain::rows ? w_.n_steps : 1; }

  SECONDGRAM_DEVICE std::uint32_t stage() const { return kStages + slot_ * stage_bytes(kRows, kColumns); }

  SECONDGRAM_DEVICE void advance() {
    if (++slot_ == w_.stages) slot_ = 0, phase_ ^= 1;
  }

  const BlockProgram& w_;
  const std::uint32_t thread_, warp_, lane_;
  std::uint32_t first_ = 0, first_op_ = 0, last_op_ = 0, pass_ = 0;
  std::uint32_t slot_ = 0, phase_ = 0;
};

}  // namespace secondgram::cuda
