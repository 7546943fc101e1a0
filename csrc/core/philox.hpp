// Philox4x32-10, a counter-based generator: four words in, four random words out, no state.
// Source: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
#pragma once

#include <cstdint>

#ifndef SECONDGRAM_HD
#ifdef __CUDACC__
#define SECONDGRAM_HD __host__ __device__
#else
#define SECONDGRAM_HD
#endif
#endif

namespace secondgram {

struct Words4 {
  std::uint32_t w0, w1, w2, w3;
};

struct Key2 {
  std::uint32_t k0, k1;
};

// The 64-bit seed as the two key words, low half first.
SECONDGRAM_HD inline Key2 key_of_seed(std::uint64_t seed) {
  return {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)};
}

constexpr std::uint32_t kPhiloxMultiplier0 = 0xD2511F53u, kPhiloxMultiplier1 = 0xCD9E8D57u;
constexpr std::uint32_t kPhiloxWeyl0 = 0x9E3779B9u, kPhiloxWeyl1 = 0xBB67AE85u;

SECONDGRAM_HD inline Words4 philox4x32_10(Words4 c, Key2 key) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = static_cast<std::uint64_t>(kPhiloxMultiplier0) * c.w0;
    const std::uint64_t p1 = static_cast<std::uint64_t>(kPhiloxMultiplier1) * c.w2;
    c = {static_cast<std::uint32_t>(p1 >> 32) ^ c.w1 ^ key.k0, static_cast<std::uint32_t>(p1),
         static_cast<std::uint32_t>(p0 >> 32) ^ c.w3 ^ key.k1, static_cast<std::uint32_t>(p0)};
    key.k0 += kPhiloxWeyl0;
    key.k1 += kPhiloxWeyl1;
  }
  return c;
}

}  // namespace secondgram
