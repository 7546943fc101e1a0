// Standard normals from random words by Box-Muller. Reference implementation: secondgram/diffusion/noise.py.
//   u = (x + 1/2) 2^-32,   (z0, z1) = sqrt(-2 ln u0) (cos 2 pi u1, sin 2 pi u1),   all in double.
// Logarithm, sine and cosine are short series of exactly rounded operations: a compiler can vectorise them, and with
// contraction off (CMakeLists.txt) every instruction set gives the same bits.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "../core/philox.hpp"

namespace secondgram {

struct Pair {
  double first, second;
};

SECONDGRAM_HD inline std::uint64_t bits_of(double value) {
  std::uint64_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

SECONDGRAM_HD inline double double_of(std::uint64_t bits) {
  double value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// (x + 1/2) 2^-32, exact, never 0 or 1. Through int32 because older vector units lack the unsigned conversion.
SECONDGRAM_HD inline double open_unit(std::uint32_t x) {
  return (static_cast<double>(static_cast<std::int32_t>(x ^ 0x80000000u)) + 2147483648.5) * (1.0 / 4294967296.0);
}

// ln u for a normal positive u: u = 2^k m with m in [sqrt(1/2), sqrt(2)), ln m = 2 artanh(s), s = (m - 1) / (m + 1).
// |s| < 0.172, so the term s^23 / 23 that is left out is below 1e-18 relative.
SECONDGRAM_HD inline double log_of(double u) {
  constexpr std::uint64_t kOne = 0x3FF0000000000000u, kSqrtHalf = 0x3FE6A09E667F3BCDu;
  constexpr std::uint64_t kMantissa = 0x000FFFFFFFFFFFFFu;
  const std::uint64_t shifted = bits_of(u) + (kOne - kSqrtHalf);
  const double k = static_cast<double>(static_cast<std::int32_t>(shifted >> 52) - 1023);
  const double m = double_of((shifted & kMantissa) + kSqrtHalf);
  const double s = (m - 1.0) / (m + 1.0);
  const double w = s * s;
  double p = 1.0 / 21.0;
  p = p * w + 1.0 / 19.0;
  p = p * w + 1.0 / 17.0;
  p = p * w + 1.0 / 15.0;
  p = p * w + 1.0 / 13.0;
  p = p * w + 1.0 / 11.0;
  p = p * w + 1.0 / 9.0;
  p = p * w + 1.0 / 7.0;
  p = p * w + 1.0 / 5.0;
  p = p * w + 1.0 / 3.0;
  const double twice = s + s;
  return k * 0.693147180559945309417 + (twice + twice * w * p);
}

// (cos, sin) of 2 pi (x + 1/2) 2^-32. The nearest quarter turn is split off in integers, which loses nothing; Taylor
// series on [-pi/4, pi/4], where the first terms left out are below 5e-17.
SECONDGRAM_HD inline Pair cos_sin_turn(std::uint32_t x) {
  constexpr double kTwoPi = 6.283185307179586476925;
  const std::uint32_t centred = x + 0x20000000u;
  const std::uint32_t quarter = centred >> 30;
  const std::int32_t rest = static_cast<std::int32_t>(centred & 0x3FFFFFFFu) - 0x20000000;
  const double a = (static_cast<double>(rest) + 0.5) * (kTwoPi / 4294967296.0);
  const double w = a * a;
  double s = -1.0 / 1307674368000.0;
  s = s * w + 1.0 / 6227020800.0;
  s = s * w - 1.0 / 39916800.0;
  s = s * w + 1.0 / 362880.0;
  s = s * w - 1.0 / 5040.0;
  s = s * w + 1.0 / 120.0;
  s = s * w - 1.0 / 6.0;
  s = a + a * (w * s);
  double c = 1.0 / 20922789888000.0;
  c = c * w - 1.0 / 87178291200.0;
  c = c * w + 1.0 / 479001600.0;
  c = c * w - 1.0 / 3628800.0;
  c = c * w + 1.0 / 40320.0;
  c = c * w - 1.0 / 720.0;
  c = c * w + 1.0 / 24.0;
  c = 1.0 - 0.5 * w + w * w * c;
  const bool odd = (quarter & 1u) != 0;
  const double along = odd ? s : c;
  const double across = odd ? c : s;
  return {((quarter + 1u) & 2u) != 0 ? -along : along, (quarter & 2u) != 0 ? -across : across};
}

// Two independent standard normals from two words.
SECONDGRAM_HD inline Pair box_muller(std::uint32_t x0, std::uint32_t x1) {
  const double radius = std::sqrt(-2.0 * log_of(open_unit(x0)));
  const Pair turn = cos_sin_turn(x1);
  return {radius * turn.first, radius * turn.second};
}

}  // namespace secondgram
