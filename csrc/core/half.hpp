// Narrow floating-point numbers as bits, rounded to nearest, ties to even. For packing: hot loops have instructions.
#pragma once

#include <cstdint>
#include <cstring>

#include "philox.hpp"

namespace secondgram {

SECONDGRAM_HD inline std::uint32_t bits_of(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

SECONDGRAM_HD inline float float_of(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// 8 bits of exponent, 7 of mantissa.
SECONDGRAM_HD inline std::uint16_t bf16_of(float value) {
  const std::uint32_t bits = bits_of(value);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return static_cast<std::uint16_t>(bits >> 16 | 0x40u);  // NaN stays NaN
  return static_cast<std::uint16_t>((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}

SECONDGRAM_HD inline float float_of_bf16(std::uint32_t bits) { return float_of(bits << 16); }

// 5 bits of exponent, 10 of mantissa; beyond 65,504 infinite, below 2^-14 in steps of 2^-24.
inline std::uint16_t fp16_of(float value) {
  const std::uint32_t bits = bits_of(value), sign = bits >> 16 & 0x8000u, size = bits & 0x7fffffffu;
  if (size > 0x7f800000u) return static_cast<std::uint16_t>(sign | 0x7e00u);
  if (size >= 0x477ff000u) return static_cast<std::uint16_t>(sign | 0x7c00u);
  if (size < 0x38800000u) {
    // Adding 1/2 leaves the value, rounded to 2^-24, in the low bits.
    return static_cast<std::uint16_t>(sign | (bits_of(float_of(size) + 0.5f) - 0x3f000000u));
  }
  return static_cast<std::uint16_t>(sign | ((size + 0xfffu + (size >> 13 & 1u)) - 0x38000000u) >> 13);
}

}  // namespace secondgram
