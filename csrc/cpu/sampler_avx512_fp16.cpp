// The sampler's tile for one instruction set.
#include <immintrin.h>

#define SECONDGRAM_ARCH avx512_fp16
#define SECONDGRAM_LANES 16
#define SECONDGRAM_VECTORS 4
#define SECONDGRAM_PRODUCT "product_fp16.hpp"
#define SECONDGRAM_SILU "silu_half.hpp"
#define SECONDGRAM_NORMALS fill_rounded_normals
#define SECONDGRAM_TARGET __attribute__((target("avx512fp16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")))
#include "sampler_tile.hpp"
