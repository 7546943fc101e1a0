// The instruction sets that tiles are compiled for, and how work is cut into tiles.
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

// Rows that a worker carries through all steps at a time. Their number changes memory and speed, never a value.
constexpr std::size_t kTileRows = 96;

// A tile is some people times some draws: all draws of several people, or a part of the draws of one. Where there are few
// tiles, they are made alike, so that no thread waits for another's last one.
struct Cut {
  std::size_t people, draws, by_people, by_draws;

  Cut(std::size_t all_people, std::size_t all_draws, unsigned threads) {
    threads = std::max(threads, 1u);
    draws = std::min(all_draws, kTileRows);
    by_draws = (all_draws + draws - 1) / draws;
    const std::size_t most = std::max<std::size_t>(1, kTileRows / all_draws);
    std::size_t parts = (all_people + most - 1) / most;
    if (parts < 8 * threads) parts = std::min(all_people, (parts + threads - 1) / threads * threads);
    people = (all_people + parts - 1) / parts;
    by_people = (all_people + people - 1) / people;
  }
  std::size_t tiles() const { return by_people * by_draws; }
};

// What one worker needs to finish tiles of a width.
struct FinishScratch {
  Matrix components;            // [kTileRows, width]
  std::vector<float> noise;     // [kTileRows, width]
  std::vector<float> residual;  // [width, kTileRows]
  Scratch scratch;

  explicit FinishScratch(std::size_t width)
      : components(kTileRows, width), noise(kTileRows * width), residual(width * kTileRows), scratch(kTileRows) {}
};

template <typename T>
using FinishTile = void (*)(const Finish&, const FinishRequest&, FinishScratch&, std::size_t person, std::size_t people,
                            std::size_t draw, std::size_t draws, T* out);

struct Architecture {
  const char* name;
  Precision precision;
  bool (*present)();
  void (*run_tile)(const Network&, const SampleRequest&, Workspace&, Matrix&, std::size_t person, std::size_t people,
                   std::size_t draw, std::size_t draws, float* out, const std::atomic<bool>& cancel);
  FinishTile<float> finish_floats;
  FinishTile<double> finish_doubles;
  double (*flop_of_round)();
  float (*rounds_of_products)(std::size_t rounds);

  FinishTile<float> finish_tile(const float*) const { return finish_floats; }
  FinishTile<double> finish_tile(const double*) const { return finish_doubles; }
};

// Null where it was not compiled in or this processor lacks it.
const Architecture* find_architecture(const std::string& name, Precision precision);
// Operations a second of multiply-adds in registers, a measure of what a product could reach.
double peak(const std::string& name, Precision precision, unsigned threads, std::size_t rounds);
// Names of those that this processor has for a precision, best first.
std::vector<std::string> architectures(Precision precision);

}  // namespace secondgram::cpu
