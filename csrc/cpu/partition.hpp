// Partition of people and draws into tiles.
#pragma once

#include <algorithm>
#include <cstddef>

#include "matrix.hpp"

namespace secondgram::cpu {

// Rows of a tile, which one thread carries through all steps. The number changes memory and speed, never a value.
constexpr std::size_t kTileRows = 96;
static_assert(kTileRows == padded_rows(kTileRows), "the micro-kernels' rows of a full tile end inside");

// A tile: some people times some draws, all draws of several people or a part of the draws of one.
struct TileRange {
  std::size_t person, people, draw, draws;
};

// Partition of people and draws into tiles. Few tiles are made of equal size, larger ones first, to balance the threads.
class Partition {
 public:
  Partition(std::size_t people, std::size_t draws, unsigned threads) : all_draws_(draws) {
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
  TileRange tile(std::size_t number) const {
    const std::size_t part = number / by_draws_, draw = number % by_draws_ * draws_;
    const std::size_t person = part * fewest_ + std::min(part, larger_), people = fewest_ + (part < larger_ ? 1 : 0);
    return {person, people, draw, std::min(draws_, all_draws_ - draw)};
  }

 private:
  std::size_t all_draws_, draws_, by_draws_, parts_, fewest_, larger_;
};

}  // namespace secondgram::cpu
