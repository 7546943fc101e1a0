// Box-Muller in float32 from the words of cpu/normal_double.hpp, for samplers, whose state is float: within 4e-6 of it.
#pragma once

#include <cmath>
#include <cstdint>

#include "half.hpp"
#include "philox.hpp"

namespace secondgram {

struct FloatPair {
  float first, second;
};

// -ln((x + 1/2) 2^-32) = -k ln 2 - 2 artanh(s) with (x + 1/2) 2^-32 = 2^k m in the lower half of (0, 1), s = (m - 1) /
// (m + 1); in the upper half 2 artanh(s) of the distance v to 1, s = v / (2 - v), which float32 holds where it cannot
// hold 1 - v.
SECONDGRAM_HD inline float minus_log_unit(std::uint32_t x) {
  const bool upper = x >= 0x80000000u;
  const float near = (static_cast<float>(upper ? ~x : x) + 0.5f) * (1.0f / 4294967296.0f);
  constexpr std::uint32_t kOne = 0x3F800000u, kSqrtHalf = 0x3F3504F3u;
  const std::uint32_t shifted = bits_of(near) + (kOne - kSqrtHalf);
  const float k = static_cast<float>(static_cast<std::int32_t>(shifted >> 23) - 127);
  const float m = float_of((shifted & 0x007FFFFFu) + kSqrtHalf);
  const float s = upper ? near / (2.0f - near) : (m - 1.0f) / (m + 1.0f);
  const float w = s * s;
  float p = w * (1.0f / 13.0f) + 1.0f / 11.0f;
  p = p * w + 1.0f / 9.0f;
  p = p * w + 1.0f / 7.0f;
  p = p * w + 1.0f / 5.0f;
  p = p * w + 1.0f / 3.0f;
  const float twice = s + s;
  const float series = twice + twice * (w * p);
  return upper ? series : -k * 0.693147181f - series;
}

// (cos, sin) of 2 pi (x + 1/2) 2^-32; as cos_sin_turn of cpu/normal_double.hpp, with the terms that float32 needs.
SECONDGRAM_HD inline FloatPair cos_sin_turn_float(std::uint32_t x) {
  const std::uint32_t centred = x + 0x20000000u;
  const std::uint32_t quarter = centred >> 30;
  const std::int32_t rest = static_cast<std::int32_t>(centred & 0x3FFFFFFFu) - 0x20000000;
  const float a = (static_cast<float>(rest) + 0.5f) * (6.283185307f / 4294967296.0f);
  const float w = a * a;
  float s = w * (1.0f / 362880.0f) - 1.0f / 5040.0f;
  s = s * w + 1.0f / 120.0f;
  s = s * w - 1.0f / 6.0f;
  s = a + a * (w * s);
  float c = w * (-1.0f / 3628800.0f) + 1.0f / 40320.0f;
  c = c * w - 1.0f / 720.0f;
  c = c * w + 1.0f / 24.0f;
  c = 1.0f - 0.5f * w + w * w * c;
  const bool odd = (quarter & 1u) != 0;
  const float along = odd ? s : c;
  const float across = odd ? c : s;
  return {((quarter + 1u) & 2u) != 0 ? -along : along, (quarter & 2u) != 0 ? -across : across};
}

// Two independent standard normals from two words.
SECONDGRAM_HD inline FloatPair box_muller_float(std::uint32_t x0, std::uint32_t x1) {
  const float radius = sqrtf(2.0f * minus_log_unit(x0));
  const FloatPair turn = cos_sin_turn_float(x1);
  return {radius * turn.first, radius * turn.second};
}

// Random words of the counter of docs/design.md#noise; `draw` is the draw's number, `block` a group of four features.
SECONDGRAM_HD inline Words4 words_of(std::uint64_t seed, std::uint32_t purpose, std::uint32_t block, std::uint32_t draw,
                                     std::uint32_t step, std::uint64_t person) {
  return philox4x32_10({purpose << 24 | block, draw * 4096u + step, static_cast<std::uint32_t>(person),
                        static_cast<std::uint32_t>(person >> 32)},
                       key_of_seed(seed));
}

}  // namespace secondgram
