// Multiply-adds of registers alone, as many sums as the micro-kernel has, each different: the upper limit of a matrix product.
// Built for one instruction set by peak.py.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>

#include "../csrc/core/half.hpp"
#include "../csrc/cpu/isa.hpp"
#include "../csrc/cpu/parallel_for.hpp"
#include "../csrc/cpu/vectors.hpp"

namespace secondgram::cpu::SECONDGRAM_ISA {
namespace {

constexpr std::size_t kSums = kKernelRows * kKernelVectors;

#if defined(SECONDGRAM_FOR_AVX512_FP16)

constexpr double kFlopOfVector = 2.0 * 32;
SECONDGRAM_TARGET float multiply_adds(std::size_t rounds, float a, float b) {
  const __m512h factor = _mm512_set1_ph(static_cast<_Float16>(a)), term = _mm512_set1_ph(static_cast<_Float16>(b));
  __m512h acc[kSums];
#pragma GCC unroll 24
  for (std::size_t i = 0; i < kSums; ++i) acc[i] = _mm512_set1_ph(static_cast<_Float16>(a * static_cast<float>(i)));
  for (std::size_t n = 0; n < rounds; ++n)
#pragma GCC unroll 24
    for (std::size_t i = 0; i < kSums; ++i) acc[i] = _mm512_fmadd_ph(acc[i], factor, term);
  __m512h total = acc[0];
#pragma GCC unroll 24
  for (const __m512h& sum : acc) total = _mm512_add_ph(total, sum);
  return static_cast<float>(_mm512_reduce_add_ph(total));
}

#elif defined(SECONDGRAM_FOR_AVX512_BF16)

constexpr double kFlopOfVector = 4.0 * 16;
SECONDGRAM_TARGET float multiply_adds(std::size_t rounds, float a, float b) {
  const __m512bh factor = (__m512bh)_mm512_set1_epi32(static_cast<int>(bf16_of(a) * 0x10001u));
  const __m512bh term = (__m512bh)_mm512_set1_epi32(static_cast<int>(bf16_of(b) * 0x10001u));
  __m512 acc[kSums];
#pragma GCC unroll 24
  for (std::size_t i = 0; i < kSums; ++i) acc[i] = _mm512_set1_ps(a * static_cast<float>(i));
  for (std::size_t n = 0; n < rounds; ++n)
#pragma GCC unroll 24
    for (std::size_t i = 0; i < kSums; ++i) acc[i] = _mm512_dpbf16_ps(acc[i], factor, term);
  __m512 total = acc[0];
#pragma GCC unroll 24
  for (const __m512& sum : acc) total = _mm512_add_ps(total, sum);
  return _mm512_reduce_add_ps(total);
}

#else

constexpr double kFlopOfVector = 2.0 * kLanes;
SECONDGRAM_TARGET float multiply_adds(std::size_t rounds, float a, float b) {
  const Vector factor = Vector{} + a, term = Vector{} + b;
  Vector acc[kSums];
#pragma GCC unroll 24
  for (std::size_t i = 0; i < kSums; ++i) acc[i] = Vector{} + a * static_cast<float>(i);
  for (std::size_t n = 0; n < rounds; ++n)
#pragma GCC unroll 24
    for (std::size_t i = 0; i < kSums; ++i) acc[i] = acc[i] * factor + term;
  Vector total = {};
  for (const Vector& sum : acc) total += sum;
  return total[0];
}

#endif

}  // namespace
}  // namespace secondgram::cpu::SECONDGRAM_ISA

// Operations a second, a product and a sum counting two. Every thread does all rounds.
extern "C" double flop_per_second(unsigned threads, std::size_t rounds) {
  using namespace secondgram::cpu::SECONDGRAM_ISA;
  std::atomic<float> keep{0.0f};  // keeps the compiler from removing the loop
  const auto began = std::chrono::steady_clock::now();
  secondgram::cpu::parallel_for(threads, threads, [&] {
    return [&](std::size_t) { keep = multiply_adds(rounds, 0.5f, 0.25f); };
  });
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - began;
  return kFlopOfVector * kSums * static_cast<double>(rounds) * threads / taken.count();
}
