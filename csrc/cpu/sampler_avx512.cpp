// The sampler's tile for one instruction set.
#include <immintrin.h>

#define SECONDGRAM_ARCH avx512
#define SECONDGRAM_LANES 16
#define SECONDGRAM_STRIP 8
#define SECONDGRAM_VECTORS 3
#define SECONDGRAM_PRODUCT "product_fp32.hpp"
#define SECONDGRAM_LONG_SILU
#define SECONDGRAM_SILU "silu_avx512.hpp"
#define SECONDGRAM_TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")))
#include "sampler_tile.hpp"
