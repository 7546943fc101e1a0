// A group of counters, of which normals are made together.
#pragma once

#include <cstddef>
#include <cstdint>

namespace secondgram::cpu {

// A multiple of every vector width, small enough for the L1 cache.
constexpr std::size_t kGroup = 64;

// The four words of each counter, replaced by random words.
struct CounterGroup {
  std::uint32_t w0[kGroup], w1[kGroup], w2[kGroup], w3[kGroup];
};

}  // namespace secondgram::cpu
