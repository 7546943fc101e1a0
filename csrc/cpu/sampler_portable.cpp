// The sampler's tile for one instruction set.
#define SECONDGRAM_ARCH portable
#define SECONDGRAM_LANES 4
#define SECONDGRAM_STRIP 6
#define SECONDGRAM_VECTORS 2
#define SECONDGRAM_PRODUCT "product_fp32.hpp"
#define SECONDGRAM_SILU "silu.hpp"
#define SECONDGRAM_TARGET
#include "sampler_tile.hpp"
