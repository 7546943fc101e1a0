// Keyed normals on the CPU (docs/design.md#noise). Reference implementation: secondgram/diffusion/noise.py.
#pragma once

#include <cstddef>
#include <cstdint>

namespace secondgram::cpu {

struct NoiseRequest {
  const std::uint64_t* keys;    // [rows] one key a person and visit
  const std::uint32_t* draws;   // [draws] draw indices, each below 2^20
  std::size_t n_keys;
  std::size_t n_draws;
  std::size_t width;            // features a row, at most 2^26
  std::uint64_t seed;
  std::uint32_t purpose;        // below 256
  std::uint32_t step;           // below 4096
  std::size_t stride = 0;       // from row to row of the result, 0 for width
};

// Fill out [n_draws, n_keys, width] with normals, rows `stride` apart. `threads` changes the time taken, never a value.
void fill_normals(const NoiseRequest& request, float* out, unsigned threads);
void fill_normals(const NoiseRequest& request, double* out, unsigned threads);
// The same in float arithmetic, within 4e-6, for the sampler, whose state is float.
void fill_rounded_normals(const NoiseRequest& request, float* out, unsigned threads);
// The normals of `fill_normals` for one key and some features: out [n_cells, n_draws].
void fill_cells(const NoiseRequest& request, const std::uint32_t* cells, std::size_t n_cells, float* out);

}  // namespace secondgram::cpu
