// Missing cells of a visit, given its other cells, by a Gaussian. Reference implementation:
// secondgram/imputation/missing.py.
#pragma once

#include <cstddef>
#include <cstdint>

namespace secondgram::cpu {

// People who lack the same cells form a group: matrices that depend on the cells alone are computed once for all of them.
struct MissingRequest {
  std::size_t width;
  const double* precision;     // [width, width], symmetric
  std::size_t groups;
  const std::int64_t* cells;   // [groups + 1] places in `cell`
  const std::uint32_t* cell;   // which cells a group lacks, rising
  const std::int64_t* members; // [groups + 1] places in `person`
  const std::int64_t* person;  // rows of the values
};

// values [rows, width]: the missing cells of a row are overwritten by their expectations given its other cells.
void fill_missing(const MissingRequest& request, double* values, unsigned threads);

struct ScatterRequest {
  const std::uint64_t* keys;   // [rows]
  const std::uint32_t* draws;  // [draws] numbers
  std::size_t n_draws;
  std::uint64_t seed;
  std::uint32_t purpose;
  const std::int64_t* start;   // [rows] where a row's cells begin in the result
};

// out [cells of all rows, draws]: exact joint draws of the missing cells less their expectations.
void scatter_missing(const MissingRequest& request, const ScatterRequest& scatter, float* out, unsigned threads);

}  // namespace secondgram::cpu
