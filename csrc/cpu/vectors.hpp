// Vectors of SECONDGRAM_LANES floats.
#pragma once

#include <cstddef>

#include "isa.hpp"

namespace secondgram::cpu::SECONDGRAM_ISA {
namespace {

typedef float Vector __attribute__((vector_size(kLanes * sizeof(float))));
// The same at any address: through memcpy, GCC loads a vector of eight in halves and waits for both.
typedef float Loose __attribute__((vector_size(kLanes * sizeof(float)), aligned(sizeof(float)), may_alias));

SECONDGRAM_TARGET inline void load(Vector& v, const float* p) { v = *reinterpret_cast<const Loose*>(p); }
SECONDGRAM_TARGET inline void store(float* p, const Vector& v) { *reinterpret_cast<Loose*>(p) = v; }

#if SECONDGRAM_LANES == 16
// Mask of the first `left` lanes of a vector.
SECONDGRAM_TARGET inline __mmask16 first_of(std::size_t left) {
  return left >= 16 ? 0xffff : static_cast<__mmask16>((1u << left) - 1);
}
#endif

}  // namespace
}  // namespace secondgram::cpu::SECONDGRAM_ISA
