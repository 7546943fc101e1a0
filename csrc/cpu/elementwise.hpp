// Elementwise loops over rows of activations, and sums over a row.
#pragma once

#include <cmath>
#include <cstddef>
#include <type_traits>

#include "isa.hpp"
#include "silu.hpp"
#include "vectors.hpp"

namespace secondgram::cpu::SECONDGRAM_ISA {
namespace {

struct Elementwise {
  SECONDGRAM_TARGET static void silu_of_sum(const float* a, const float* b, float* out, std::size_t count) {
    silu(a, 1.0f, b, out, count);
  }
  SECONDGRAM_TARGET static void silu_scaled(const float* a, float scale, const float* b, float* out, std::size_t count) {
    silu(a, scale, b, out, count);
  }
  // 1 / sqrt(variance + 1e-5) of a row, the variance about the mean in a second pass.
  SECONDGRAM_TARGET static float reciprocal_deviation(const float* x, std::size_t count) {
    const float total = sum(count, [&](std::size_t j, auto& v) SECONDGRAM_TARGET { get(v, x + j); });
    const float mean = total / static_cast<float>(count);
    const float squares = sum(count, [&](std::size_t j, auto& v) SECONDGRAM_TARGET {
      get(v, x + j);
      v -= mean;
      v *= v;
    });
    return 1.0f / std::sqrt(squares / static_cast<float>(count) + 1e-5f);
  }
  SECONDGRAM_TARGET static float dot(const float* x, const float* y, std::size_t count) {
    return sum(count, [&](std::size_t j, auto& v) SECONDGRAM_TARGET {
      get(v, x + j);
      std::remove_reference_t<decltype(v)> other;
      get(other, y + j);
      v *= other;
    });
  }

 private:
  SECONDGRAM_TARGET static void get(Vector& v, const float* from) { load(v, from); }
  SECONDGRAM_TARGET static void get(float& v, const float* from) { v = *from; }

  // Sum of the values that term(j, v) writes to v, a vector from place j on or a float; four sums at a time, as each waits for
  // its last addition.
  template <typename Term>
  SECONDGRAM_TARGET static float sum(std::size_t count, const Term& term) {
    constexpr std::size_t kSums = 4;
    Vector totals[kSums] = {};
    std::size_t j = 0;
    const auto add = [&](Vector& total) SECONDGRAM_TARGET {
      Vector v;
      term(j, v);
      total += v, j += kLanes;
    };
    while (j + kSums * kLanes <= count)
#pragma GCC unroll 4
      for (Vector& total : totals) add(total);
    while (j + kLanes <= count) add(totals[0]);
    totals[0] = (totals[0] + totals[1]) + (totals[2] + totals[3]);
    float all = 0.0f;
    for (std::size_t lane = 0; lane < kLanes; ++lane) all += totals[0][lane];
    for (; j < count; ++j) {
      float v;
      term(j, v);
      all += v;
    }
    return all;
  }
};

}  // namespace
}  // namespace secondgram::cpu::SECONDGRAM_ISA
