// Dispatch: the instruction sets that tiles are compiled for, and the partition of work into tiles.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <string>
#include <vector>

#include "../core/network.hpp"
#include "finish.hpp"
#include "sampler.hpp"

namespace secondgram::cpu {

// Rows of a tile, which one thread carries through all steps. The number changes memory and speed, never a value.
constexpr std::size_t kTileRows = 96;
static_assert(kTileRows == padded_rows(kTileRows), "strips of a full tile end inside");

// A tile: some people times some draws, all draws of several people or a part of the draws of one.
struct Tile {
  std::size_t person, people, draw, draws;
};

// Partition of people and draws into tiles. Few tiles are made of equal size, larger ones first, to balance the threads.
class Cut {
 public:
  Cut(std::size_t people, std::size_t draws, unsigned threads) : all_draws_(draws) {
    threads = std::max(threads, 1u);
    by_draws_ = std::max<std::size_t>(1, (draws + kTileRows - 1) / kTileRows);
    draws_ = std::max<std::size_t>(1, (draws + by_draws_ - 1) / by_draws_);
    const std::size_t most = std::max<std::size_t>(1, kTileRows / std::max<std::size_t>(draws, 1));
    parts_ = (people + most - 1) / most;
    if (parts_ < 8 * threads) parts_ = std::min(people, (parts_ + threads - 1) / threads * threads);
    fewest_ = parts_ == 0 ? 0 : people / parts_, larger_ = parts_ == 0 ? 0 : people % parts_;
  }
  std::size_t tiles() const { return parts_ * by_draws_; }
  // Rows of the largest tile.
  std::size_t rows() const { return (fewest_ + (larger_ > 0 ? 1 : 0)) * draws_; }
  Tile tile(std::size_t number) const {
    const std::size_t part = number / by_draws_, draw = number % by_draws_ * draws_;
    const std::size_t person = part * fewest_ + std::min(part, larger_), people = fewest_ + (part < larger_ ? 1 : 0);
    return {person, people, draw, std::min(draws_, all_draws_ - draw)};
  }

 private:
  std::size_t all_draws_, draws_, by_draws_, parts_, fewest_, larger_;
};

// Missing cells whose effect on every feature is computed at a time.
constexpr std::size_t kLostAtOnce = 16;

// Workspace of one thread for finishing tiles of a width.
struct FinishScratch {
  Matrix components;            // [kTileRows, width], operand of the product
  std::vector<float> residual;  // [width, kTileRows], and padding for whole vectors
  Matrix sums;                  // [kTileRows, kWidestPiece] of a product
  std::vector<float> lost;      // [kLostAtOnce, width]

  FinishScratch(std::size_t width, Precision precision)
      : components(kTileRows, width, precision), residual((width + 1) * kTileRows), sums(kTileRows, kWidestPiece),
        lost(kLostAtOnce * width) {}
};

template <typename T>
using FinishTile = void (*)(const Finish&, const FinishRequest&, FinishScratch&, std::size_t person, std::size_t people,
                            std::size_t draw, std::size_t draws, T* out);

struct Architecture {
  const char* name;
  Precision precision;
  bool (*present)();
  void (*run_tile)(const Network&, const SampleRequest&, Workspace&, std::size_t person, std::size_t people,
                   std::size_t draw, std::size_t draws, float* out, const std::atomic<bool>& cancel);
  FinishTile<float> finish_floats;
  FinishTile<double> finish_doubles;
  double (*flop_of_round)();
  float (*rounds_of_products)(std::size_t rounds);

  FinishTile<float> finish_tile(const float*) const { return finish_floats; }
  FinishTile<double> finish_tile(const double*) const { return finish_doubles; }
};

// Null where the instruction set was not compiled in or this processor lacks it.
const Architecture* find_architecture(const std::string& name, Precision precision);
// Operations a second of multiply-adds in registers: the upper limit of a matrix product.
double peak(const std::string& name, Precision precision, unsigned threads, std::size_t rounds);
// Names of those that this processor has for a precision, best first.
std::vector<std::string> architectures(Precision precision);

}  // namespace secondgram::cpu
