// The instruction set that this translation unit's tile is compiled for. sampler_<isa>.cpp names it by one macro,
// SECONDGRAM_FOR_<ISA>, and includes the tile; a header compiled alone is compiled for `portable`.
//
// Why a namespace for each, and why `target` function by function: csrc/README.md.
#pragma once

#include <cstddef>

// SECONDGRAM_ISA                  namespace of all code that depends on the instruction set
// SECONDGRAM_TARGET               the attribute of every function in it
// SECONDGRAM_LANES                floats of a vector
// SECONDGRAM_KERNEL_ROWS, _VECTORS  rows and vectors of columns of the micro-kernel, whose sums fit in the registers
#if defined(SECONDGRAM_FOR_AVX512_FP16)
#define SECONDGRAM_ISA avx512_fp16
#define SECONDGRAM_TARGET __attribute__((target("avx512fp16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")))
#elif defined(SECONDGRAM_FOR_AVX512_BF16)
#define SECONDGRAM_ISA avx512_bf16
#define SECONDGRAM_TARGET __attribute__((target("avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")))
#elif defined(SECONDGRAM_FOR_AVX512)
#define SECONDGRAM_ISA avx512
#define SECONDGRAM_TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")))
#elif defined(SECONDGRAM_FOR_AVX2)
#define SECONDGRAM_ISA avx2
#define SECONDGRAM_TARGET __attribute__((target("avx2,fma")))
#define SECONDGRAM_LANES 8
#else
#define SECONDGRAM_ISA portable
#define SECONDGRAM_TARGET
#define SECONDGRAM_LANES 4
#endif

#ifdef SECONDGRAM_LANES
#define SECONDGRAM_KERNEL_ROWS 6
#define SECONDGRAM_KERNEL_VECTORS 2
#else  // AVX-512, of which all three have these
#include <immintrin.h>
#define SECONDGRAM_LANES 16
#define SECONDGRAM_KERNEL_ROWS 8
#define SECONDGRAM_KERNEL_VECTORS 3
#endif

namespace secondgram::cpu::SECONDGRAM_ISA {
namespace {

constexpr std::size_t kLanes = SECONDGRAM_LANES, kKernelRows = SECONDGRAM_KERNEL_ROWS,
                      kKernelVectors = SECONDGRAM_KERNEL_VECTORS;

}  // namespace
}  // namespace secondgram::cpu::SECONDGRAM_ISA
