// The sampler's tile for one instruction set.
#define SECONDGRAM_ARCH avx2
#define SECONDGRAM_LANES 8
#define SECONDGRAM_STRIP 6
#define SECONDGRAM_VECTORS 2
#define SECONDGRAM_PRODUCT "product_fp32.hpp"
#define SECONDGRAM_SILU "silu.hpp"
#define SECONDGRAM_TARGET __attribute__((target("avx2,fma")))
#include "sampler_tile.hpp"
