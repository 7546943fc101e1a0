// One row of a solver's table applied to a row of the state. The statement is solver_step in
// secondgram/diffusion/reference.py.
#pragma once

#include <cstddef>

namespace secondgram {

struct Coefficients {
  float time, from_state, from_output, keep, now, last, fresh;
};

// x and before are replaced; z is read where fresh is not zero.
inline void solver_step(const Coefficients& k, float* x, const float* output, float* before, const float* z,
                        std::size_t width) {
  for (std::size_t j = 0; j < width; ++j) {
    const float x0 = k.from_state * x[j] + k.from_output * output[j];
    float following = k.keep * x[j] + k.now * x0 + k.last * before[j];
    if (z != nullptr) following += k.fresh * z[j];
    x[j] = following;
    before[j] = x0;
  }
}

}  // namespace secondgram
