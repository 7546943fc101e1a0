// One row of a solver table (docs/design.md#solver-table) applied to a row of the state. Reference implementation:
// solver_step in secondgram/diffusion/reference.py.
#pragma once

#include <cstddef>

#include "philox.hpp"

namespace secondgram {

struct Coefficients {
  float time, from_state, from_output, keep, now, last, fresh;
};

// Estimate of the data x0 from the state and the network's output, for one value.
SECONDGRAM_HD inline float data_estimate(const Coefficients& k, float x, float output) {
  return k.from_state * x + k.from_output * output;
}

// The next state without its fresh noise.
SECONDGRAM_HD inline float next_state(const Coefficients& k, float x, float x0, float before) {
  return k.keep * x + k.now * x0 + k.last * before;
}

// x and before are replaced; z is read where fresh is not zero.
inline void solver_step(const Coefficients& k, float* x, const float* output, float* before, const float* z,
                        std::size_t width) {
  for (std::size_t j = 0; j < width; ++j) {
    const float x0 = data_estimate(k, x[j], output[j]);
    float following = next_state(k, x[j], x0, before[j]);
    if (z != nullptr) following += k.fresh * z[j];
    x[j] = following;
    before[j] = x0;
  }
}

}  // namespace secondgram
