// Elementwise work around the products, eight neighbouring columns at a time: first states, conditions and embeddings as
// activations, and the last states as draws. The same on a GPU and in the emulation.
#pragma once

#include "block_program.hpp"

namespace secondgram::cuda {

// Work comes in units, a square or a row, of some fragments each. A fragment of a square is 16 bytes, eight columns of a row.
constexpr std::uint32_t kFragmentsOfASquare = kSquareBytes / 16;

struct Fragment {
  std::uint32_t square_row, row, panel, column;  // row and column inside the square
};

SECONDGRAM_HD inline Fragment fragment_of(std::uint32_t square, std::uint32_t inside, std::uint32_t panels) {
  return {square / panels, inside / 8, square % panels, (inside % 8 ^ inside / 8 % 8) * 8};
}

SECONDGRAM_HD inline void put_fragment(unsigned char* squares, std::uint32_t square, std::uint32_t inside,
                                    const float (&v)[8]) {
  reinterpret_cast<Sixteen*>(squares)[std::size_t{square} * kFragmentsOfASquare + inside] = {
      bf16_pair(v[0], v[1]), bf16_pair(v[2], v[3]), bf16_pair(v[4], v[5]), bf16_pair(v[6], v[7])};
}

// The first state: mean + deviation z, beside it as activations.
struct Begin {
  const Chunk* chunk;
  const float* mean;  // [people, features], null for zero
  const std::uint64_t* keys;
  const std::uint32_t* draws;
  float* x;       // [rows, stride]
  float* before;  // the same, null where it is not needed
  unsigned char* squares;
  float deviation;
  std::uint32_t purpose, features, stride, panels;

  SECONDGRAM_HD std::uint32_t units() const { return chunk->row_squares * panels; }
  SECONDGRAM_HD std::uint32_t fragments() const { return kFragmentsOfASquare; }
  SECONDGRAM_HD void fragment(std::uint32_t square, std::uint32_t inside) const {
    const Fragment p = fragment_of(square, inside, panels);
    const std::uint32_t row = p.square_row * kSide + p.row, column = p.panel * kSide + p.column;
    const std::uint32_t last = chunk->people - 1, draw = draws[row % chunk->draws];
    const std::uint32_t person = row / chunk->draws < last ? row / chunk->draws : last;
    float v[8];
#pragma unroll
    for (std::uint32_t half = 0; half < 2; ++half) {
      const Words4 words = words_of(chunk->seed, purpose, column / 4 + half, draw, 0, keys[person]);
      const FloatPair a = box_muller_float(words.w0, words.w1), b = box_muller_float(words.w2, words.w3);
      v[4 * half] = a.first, v[4 * half + 1] = a.second, v[4 * half + 2] = b.first, v[4 * half + 3] = b.second;
    }
    const std::size_t place = static_cast<std::size_t>(row) * stride + column;
#pragma unroll
    for (std::uint32_t e = 0; e < 8; ++e) {
      const bool real = column + e < features;
      v[e] = real ? deviation * v[e] : 0.0f;
      if (real && mean != nullptr) v[e] += mean[static_cast<std::size_t>(person) * features + column + e];
      x[place + e] = v[e];
      if (before != nullptr) before[place + e] = 0.0f;
    }
    put_fragment(squares, square, inside, v);
  }
};

// Rows [people, width] as activations.
struct Pack {
  const Chunk* chunk;
  const float* rows;
  unsigned char* squares;
  std::uint32_t width, panels;

  SECONDGRAM_HD std::uint32_t units() const { return chunk->people_squares * panels; }
  SECONDGRAM_HD std::uint32_t fragments() const { return kFragmentsOfASquare; }
  SECONDGRAM_HD void fragment(std::uint32_t square, std::uint32_t inside) const {
    const Fragment p = fragment_of(square, inside, panels);
    const std::uint32_t row = p.square_row * kSide + p.row, column = p.panel * kSide + p.column;
    float v[8];
#pragma unroll
    for (std::uint32_t e = 0; e < 8; ++e)
      v[e] =
          row < chunk->people && column + e < width ? rows[static_cast<std::size_t>(row) * width + column + e] : 0.0f;
    put_fragment(squares, square, inside, v);
  }
};

// SiLU(time's term + person's term), for every step of a list: squares [step, people], `panels` across.
struct Embed {
  const Chunk* chunk;
  const unsigned char* people;  // squares
  const float* times;           // [steps, panels * 64]
  unsigned char* squares;
  std::uint32_t first_step, steps, panels;

  SECONDGRAM_HD std::uint32_t units() const { return chunk->people_squares * steps * panels; }
  SECONDGRAM_HD std::uint32_t fragments() const { return kFragmentsOfASquare; }
  SECONDGRAM_HD void fragment(std::uint32_t square, std::uint32_t inside) const {
    const std::uint32_t of_a_step = chunk->people_squares * panels;
    const Fragment p = fragment_of(square, inside, panels);
    const std::size_t step = first_step + square / of_a_step;
    const float* time = times + step * panels * kSide + p.panel * kSide + p.column;
    const Sixteen words =
        reinterpret_cast<const Sixteen*>(people)[std::size_t{square % of_a_step} * kFragmentsOfASquare + inside];
    const std::uint32_t pairs[4] = {words.w0, words.w1, words.w2, words.w3};
    float v[8];
#pragma unroll
    for (std::uint32_t e = 0; e < 8; ++e) {
      const float sum = time[e] + float_of(e % 2 == 0 ? pairs[e / 2] << 16 : pairs[e / 2] & 0xFFFF0000u);
      v[e] = sum / (1.0f + expf(-sum));
    }
    put_fragment(squares, square, inside, v);
  }
};

// The states as draws: out [draws, people, features].
struct End {
  const Chunk* chunk;
  const float* x;
  float* out;
  std::uint32_t features, stride;

  SECONDGRAM_HD std::uint32_t units() const { return chunk->draws * chunk->people; }
  SECONDGRAM_HD std::uint32_t fragments() const { return features; }
  SECONDGRAM_HD void fragment(std::uint32_t place, std::uint32_t column) const {
    const std::uint32_t person = place % chunk->people, draw = place / chunk->people;
    out[std::size_t{place} * features + column] = x[(std::size_t{person} * chunk->draws + draw) * stride + column];
  }
};

}  // namespace secondgram::cuda
