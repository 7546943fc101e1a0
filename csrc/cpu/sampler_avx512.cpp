// The sampler's tile for one instruction set.
#include <immintrin.h>

#define SECONDGRAM_ARCH avx512
#define SECONDGRAM_LANES 16
#define SECONDGRAM_VECTORS 4
#define SECONDGRAM_PRODUCT "product_fp32.hpp"
#define SECONDGRAM_SILU "silu.hpp"
#define SECONDGRAM_NORMALS fill_normals
#define SECONDGRAM_TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")))
#include "sampler_tile.hpp"
