// Finishing: residual components to draws in original units. Reference implementation:
// secondgram/imputation/finishing.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "../core/packed.hpp"

namespace secondgram::cpu {

// Quantile maps of columns, each monotone, piecewise linear through `knots` points and of slope 1 beyond; by column:
//   x -> value + slope * (x - start)  of the last knot that x is not below.
// Place 0 is for values below all knots; copies of the last knot make the number of places a power of two.
struct Maps {
  std::size_t columns = 0, levels = 0, places = 1;
  std::vector<float> start, value, slope;  // [columns, places]
  // The same starts as a search tree, level l from 2^l on: node 2^l + n separates smaller values from the others.
  std::vector<float> tree;                 // [columns, places]
  std::vector<unsigned char> identity;     // [columns]

  Maps() = default;
  Maps(const double* x, const double* y, std::size_t knots, std::size_t columns_);  // x, y [knots, columns]
};

struct Finish {
  std::size_t width = 0;
  Precision precision = Precision::fp32;
  Packed loading;         // [width, width], or empty where the source is the residual
  Maps components, margins;  // without columns where there are none
  float clip = 0.0f;      // residuals are clipped to +-clip, 0 for not at all
};

struct FinishRequest {
  std::size_t people, n_draws;
  const std::uint64_t* keys;   // [people]
  const std::uint32_t* draws;  // [draws] numbers
  std::uint64_t seed;
  std::uint32_t purpose;       // of the components' noise
  const float* source;         // [draws, people, n_source] components, or null
  std::size_t n_source;
  const std::uint32_t* places; // [n_source] which components these are; the others are noise
  const double* centre;        // [people, width]
  const double* scale;         // [people, width]
  // Shifts of residuals from draw to draw where missing cells of the baseline are drawn; null where none is.
  const std::int64_t* lost;    // [people + 1] places in `cell` and `by`
  const std::uint32_t* cell;   // which cells a person lacks
  const float* by;             // [cells, draws] draws of the cells less their expectations
  const float* map;            // [kinds of cells, width] slopes of the mean on a cell
  const float* by_gap;         // [width, width] the same for every unit of the gap, or null
  const float* gap;            // [people]
  const float* weight;         // [people, width] residual per shift of the mean
};

// out [width, people, draws] = centre + moved + scale * residual, float or double. `threads` never changes a value.
template <typename T>
void finish(const Finish& by, const FinishRequest& request, T* out, unsigned threads, const std::string& architecture);

}  // namespace secondgram::cpu
