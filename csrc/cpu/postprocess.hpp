// Postprocessing: residual components to draws in original units. Reference implementation:
// secondgram/sampling/postprocess.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "matrix.hpp"
#include "partition.hpp"

namespace secondgram::cpu {

// Quantile maps of columns, each monotone, piecewise linear through `knots` points and of slope 1 beyond; by column:
//   x -> value + slope * (x - start)  of the last knot that x is not below.
// Place 0 is for values below all knots; copies of the last knot make the number of places a power of two.
struct QuantileMaps {
  std::size_t columns = 0, levels = 0, places = 1;
  std::vector<float> start, value, slope;  // [columns, places]
  // The same starts as a search tree, level l from 2^l on: node 2^l + n separates smaller values from the others.
  std::vector<float> tree;                 // [columns, places]
  std::vector<unsigned char> identity;     // [columns]

  QuantileMaps() = default;
  QuantileMaps(const double* x, const double* y, std::size_t knots, std::size_t columns_);  // x, y [knots, columns]
};

struct Postprocess {
  std::size_t width = 0;
  Precision precision = Precision::fp32;
  PackedMatrix loading;         // [width, width], or empty where the source is the residual
  QuantileMaps components, margins;  // without columns where there are none
  float clip = 0.0f;      // residuals are clipped to +-clip, 0 for not at all
};

struct PostprocessRequest {
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

// Missing cells whose effect on every feature is computed at a time.
constexpr std::size_t kCellsAtOnce = 16;

// Workspace of one thread for tiles of a width.
struct PostprocessWorkspace {
  Matrix components;            // [kTileRows, width], operand of the product
  std::vector<float> residual;  // [width, kTileRows], and padding for whole vectors
  Matrix sums;                  // [kTileRows, kMostEpilogueColumns] of a product
  std::vector<float> shifts;    // [kCellsAtOnce, width]

  PostprocessWorkspace(std::size_t width, Precision precision)
      : components(kTileRows, width, precision), residual((width + 1) * kTileRows),
        sums(kTileRows, kMostEpilogueColumns), shifts(kCellsAtOnce * width) {}
};

// out [width, people, draws] = centre + moved + scale * residual, float or double. `threads` never changes a value.
template <typename T>
void postprocess(const Postprocess& by, const PostprocessRequest& request, T* out, unsigned threads,
                 const std::string& architecture);

}  // namespace secondgram::cpu
