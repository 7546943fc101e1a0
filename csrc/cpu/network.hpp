// Forward pass of the folded denoiser for one tile of rows. Reference implementation: secondgram/diffusion/folding.py.
//
// Everything here is the same for every instruction set; `Isa` supplies the matrix product and the elementwise loops:
//   Isa::product(segments, n_segments, rows, columns, sums, epilogue)   rows of sums, passed to `epilogue` in blocks of columns
//   Isa::to_operand(matrix, row, column, count)   converts values just written to the operand format of the products
// No row enters the arithmetic of another row, so the other rows of a tile cannot change its result.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "matrix.hpp"

namespace secondgram {

struct Sizes {
  std::size_t features, conditions, embedding, widths[3];
  // Inputs and outputs of the six blocks, in the order down1..3, up1..3.
  std::size_t block_in(int block) const {
    const std::size_t in[6] = {features, widths[0], widths[1], widths[2], widths[1], widths[0]};
    return in[block];
  }
  std::size_t block_out(int block) const {
    const std::size_t out[6] = {widths[0], widths[1], widths[2], widths[1], widths[0], features};
    return out[block];
  }
};

struct DenseLayer {
  PackedMatrix weight;
  std::vector<float> bias;
};

struct FoldedBlock {
  PackedMatrix inner, image, embed, context, join;  // join is empty where the block has no skip
  std::vector<float> inner_bias, embed_bias, bias;
};

struct Network {
  Sizes sizes;
  Precision precision = Precision::fp32;
  DenseLayer condition[2];
  FoldedBlock blocks[6];
  DenseLayer bottleneck[2][2];
  DenseLayer out;
};

// Workspace of one thread, for tiles of at most `rows` rows and as many people.
struct Workspace {
  std::size_t rows;
  Matrix x, before, output;                     // [rows, features]
  Matrix inner, first, second, third, fourth;   // activations
  Matrix up1, up2, up3;
  Matrix person[6];                             // [people, embedding]  W2 cond(c) + b2, once a tile
  Matrix embed, context[6];                     // [people, ...]  once a step
  std::vector<float> rstd;                      // [rows]
  Matrix conditions;                            // [people, conditions]
  Matrix sums;                                  // [rows, kMostEpilogueColumns] of a product

  Workspace(const Sizes& s, Precision precision, std::size_t rows_)
      : rows(padded_rows(rows_)), rstd(rows), conditions(rows, s.conditions, precision), sums(rows, kMostEpilogueColumns) {
    for (Matrix* m : {&before, &output}) *m = Matrix(rows, s.features);
    for (Matrix* m : {&x, &up3}) *m = Matrix(rows, s.features, precision);
    for (Matrix* m : {&inner, &embed}) *m = Matrix(rows, s.embedding, precision);
    for (Matrix* m : {&first, &up2}) *m = Matrix(rows, s.widths[0], precision);
    for (Matrix* m : {&second, &up1}) *m = Matrix(rows, s.widths[1], precision);
    for (Matrix* m : {&third, &fourth}) *m = Matrix(rows, s.widths[2], precision);
    for (int b = 0; b < 6; ++b) {
      person[b] = Matrix(rows, s.embedding);
      context[b] = Matrix(rows, s.block_out(b));
    }
  }
};

template <typename Isa>
struct FoldedForward {
  const Network& net;
  Workspace& w;

  // Embeds the people of the tile: person[b] = cond_mlp(c) @ embed_b + embed_bias_b, c = w.conditions.
  void embed_people(std::size_t people) {
    dense_silu(net.condition[0], w.conditions, w.inner, people);
    plain(net.condition[1], w.inner, w.embed, people);
    for (int b = 0; b < 6; ++b) {
      const FoldedBlock& block = net.blocks[b];
      const Segment segments[] = {{&w.embed, &block.embed}};
      Isa::product(segments, 1, people, net.sizes.embedding, w.sums, Biased<Isa>{block.embed_bias.data(), &w.person[b]});
    }
  }

  // context[b] = SiLU(time_b + person_b) @ context_b + bias_b: time [6, embedding], this step's row of the table.
  void begin_step(const float* time, std::size_t people) {
    const std::size_t width = net.sizes.embedding;
    for (int b = 0; b < 6; ++b) {
      const FoldedBlock& block = net.blocks[b];
      for (std::size_t r = 0; r < people; ++r) {
        Isa::silu_of_sum(time + b * width, w.person[b].row(r), w.embed.row(r), width);
        Isa::to_operand(w.embed, r, 0, width);
      }
      const Segment segments[] = {{&w.embed, &block.context}};
      Isa::product(segments, 1, people, net.sizes.block_out(b), w.sums, Biased<Isa>{block.bias.data(), &w.context[b]});
    }
  }

  // output = network(x), rows being draw-major: row r belongs to person r % people.
  void forward(std::size_t rows, std::size_t people) {
    block(0, w.x, nullptr, w.first, rows, people);
    block(1, w.first, nullptr, w.second, rows, people);
    block(2, w.second, nullptr, w.third, rows, people);
    for (const auto& layers : net.bottleneck) {
      dense_silu(layers[0], w.third, w.fourth, rows);
      const Segment segments[] = {{&w.fourth, &layers[1].weight}};
      Isa::product(segments, 1, rows, net.sizes.widths[2], w.sums, Residual<Isa>{layers[1].bias.data(), &w.third});
    }
    block(3, w.third, &w.second, w.up1, rows, people);
    block(4, w.up1, &w.first, w.up2, rows, people);
    block(5, w.up2, &w.x, w.up3, rows, people);
    plain(net.out, w.up3, w.output, rows);
  }

 private:
  // Epilogues of a product: row r of its sums, columns [column, column + count).
  template <typename A>
  struct Biased {
    const float* bias;
    Matrix* to;
    void operator()(std::size_t r, std::size_t column, std::size_t count, const float* sums) const {
      float* out = to->row(r) + column;
      for (std::size_t j = 0; j < count; ++j) out[j] = sums[j] + bias[column + j];
      A::to_operand(*to, r, column, count);
    }
  };
  template <typename A>
  struct BiasedSilu {
    const float* bias;
    Matrix* to;
    void operator()(std::size_t r, std::size_t column, std::size_t count, const float* sums) const {
      A::silu_of_sum(sums, bias + column, to->row(r) + column, count);
      A::to_operand(*to, r, column, count);
    }
  };
  template <typename A>
  struct Normed {
    const float* rstd;
    const float* bias;
    Matrix* to;
    void operator()(std::size_t r, std::size_t column, std::size_t count, const float* sums) const {
      A::silu_scaled(sums, rstd[r], bias + column, to->row(r) + column, count);
      A::to_operand(*to, r, column, count);
    }
  };
  template <typename A>
  struct WithContext {
    const Matrix* context;
    std::size_t people;
    Matrix* to;
    void operator()(std::size_t r, std::size_t column, std::size_t count, const float* sums) const {
      A::silu_of_sum(sums, context->row(r % people) + column, to->row(r) + column, count);
      A::to_operand(*to, r, column, count);
    }
  };
  template <typename A>
  struct Residual {
    const float* bias;
    Matrix* to;
    void operator()(std::size_t r, std::size_t column, std::size_t count, const float* sums) const {
      float added[kMostEpilogueColumns];
      A::silu_of_sum(sums, bias + column, added, count);
      float* out = to->row(r) + column;
      for (std::size_t j = 0; j < count; ++j) out[j] += added[j];
      A::to_operand(*to, r, column, count);
    }
  };

  void plain(const DenseLayer& layer, const Matrix& from, Matrix& to, std::size_t rows) {
    const Segment segments[] = {{&from, &layer.weight}};
    Isa::product(segments, 1, rows, layer.bias.size(), w.sums, Biased<Isa>{layer.bias.data(), &to});
  }

  void dense_silu(const DenseLayer& layer, const Matrix& from, Matrix& to, std::size_t rows) {
    const Segment segments[] = {{&from, &layer.weight}};
    Isa::product(segments, 1, rows, layer.bias.size(), w.sums, BiasedSilu<Isa>{layer.bias.data(), &to});
  }

  void block(int b, const Matrix& from, const Matrix* skip, Matrix& to, std::size_t rows, std::size_t people) {
    const FoldedBlock& block = net.blocks[b];
    for (std::size_t r = 0; r < rows; ++r) w.rstd[r] = Isa::reciprocal_deviation(from.row(r), net.sizes.block_in(b));
    const Segment first[] = {{&from, &block.inner}};
    Isa::product(first, 1, rows, net.sizes.embedding, w.sums,
                 Normed<Isa>{w.rstd.data(), block.inner_bias.data(), &w.inner});
    const Segment both[] = {{&w.inner, &block.image}, {skip, &block.join}};
    Isa::product(both, skip == nullptr ? 1 : 2, rows, net.sizes.block_out(b), w.sums,
                 WithContext<Isa>{&w.context[b], people, &to});
  }
};

}  // namespace secondgram
